//! Nothing outlives a testbed whose process is SIGKILLed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testbed::process::{Process, is_alive};
use testbed::{Cluster, Component, Redis};

const VICTIM: &str = "TESTBED_TEST_VICTIM_WRITES_PIDS_TO";
const DEADLINE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn killed_parent_leaves_no_process() {
    // This test runs itself once more, as the process that gets killed.
    if let Some(file) = std::env::var_os(VICTIM) {
        return be_the_victim(Path::new(&file)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "killed_parent_leaves_no_process", "--nocapture"])
        .env(VICTIM, &file)
        .env_remove("TESTBED_KUBECONFIG")
        .stdin(Stdio::null());
    let victim = Process::spawn(command).unwrap();
    until("the victim wrote its pids", || {
        file.exists() || victim.exited().is_some()
    })
    .await;
    let pids: Vec<i32> = std::fs::read_to_string(&file)
        .unwrap()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(pids.len(), 5);
    assert!(pids.iter().all(|pid| is_alive(*pid)));

    victim.kill().await.unwrap();
    until("its children are gone", || {
        !pids.iter().any(|pid| is_alive(*pid))
    })
    .await;
}

async fn be_the_victim(file: &Path) {
    let cluster = Cluster::shared().await.unwrap();
    let redis = Redis::shared().await.unwrap();
    let plane = cluster.control_plane().unwrap();
    let components = [
        &plane.etcd,
        &plane.apiserver,
        &plane.controller_manager,
        &plane.scheduler,
        redis.component(),
    ];
    let pids: Vec<String> = components
        .into_iter()
        .filter_map(Component::pid)
        .map(|pid| pid.to_string())
        .collect();
    let partial = file.with_extension("partial");
    std::fs::write(&partial, pids.join(" ")).unwrap();
    std::fs::rename(partial, file).unwrap();
    std::future::pending::<()>().await;
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
