//! `cargo testbed` as its users type it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::process::{Process, is_alive};
use testbed::registry::{self, Entry};
use testbed::{real_node_wanted, run_dir};

const DEADLINE: Duration = Duration::from_secs(120);

/// A testbed that is stopped however its test ends.
struct Testbed {
    name: String,
}

impl Testbed {
    /// Its name is that of no other testbed.
    fn up(what: &str, flags: &[&str]) -> (Self, String) {
        let name = format!("{what}-{}", std::process::id());
        let testbed = Self { name };
        let up = testbed.run("up", &[&["--detach"], flags].concat());
        assert!(up.status.success(), "{}", words(&up));
        let lines = String::from_utf8(up.stdout).unwrap();
        (testbed, lines)
    }

    fn run(&self, command: &str, flags: &[&str]) -> Output {
        run(&[&[command, "--name", &self.name], flags].concat())
    }

    /// Looks at `status` until all that is there: it waits a few seconds for a part, which machines that
    /// have much to do may exceed.
    fn until_status_says(&self, parts: &[&str]) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = words(&self.run("status", &[]));
            let missing = parts.iter().find(|part| !status.contains(**part));
            let Some(part) = missing else { return };
            assert!(Instant::now() < deadline, "{part:?} is not in {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn entry(&self) -> Entry {
        registry::find(&self.name).unwrap().unwrap()
    }

    /// The process that holds it, and all that it has started.
    fn pids(&self) -> Vec<i32> {
        let record = self.entry().record;
        let mut pids = session(record.pid);
        assert!(pids.contains(&record.pid));
        for (name, pid) in record.facts.unwrap().processes {
            assert!(
                pids.contains(&pid),
                "{name} is not in the testbed's session"
            );
            pids.push(pid);
        }
        pids
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.run("down", &[]);
    }
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(arguments).env_remove("TESTBED_KUBECONFIG");
    command.output().unwrap()
}

fn words(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The processes of a session that run.
fn session(leader: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name: state, parent, group, session.
        let session: i32 = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(3)?
            .parse()
            .ok()?;
        (session == leader && is_alive(pid)).then_some(pid)
    });
    pids.collect()
}

fn until_gone(pids: &[i32], leader: i32) {
    let deadline = Instant::now() + DEADLINE;
    let left = || -> Vec<i32> {
        let mut left: Vec<i32> = pids.iter().copied().filter(|pid| is_alive(*pid)).collect();
        left.extend(session(leader));
        left
    };
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", left());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a shell that has read the lines of `up` answers.
fn shell(lines: &str, script: &str) -> String {
    let script = format!("set -e\n{lines}\n{script}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn detached_testbeds_live_side_by_side_and_leave_nothing_when_they_are_stopped() {
    let (first, lines) = Testbed::up("first", &["--cpu-nodes=2", "--gpu-nodes=1", "--nodes=fake"]);
    let nodes = shell(&lines, "kubectl get nodes --output=name");
    assert_eq!(nodes.lines().count(), 3, "{nodes}");
    first.until_status_says(&[
        "3 fake Ready",
        "API server",
        "answers, v1.36",
        "Redis",
        "6 run",
    ]);

    let (second, lines) = Testbed::up("second", &["--nodes=process"]);
    let nodes = shell(&lines, "kubectl get nodes --output=name");
    assert_eq!(nodes, "node/process\n");
    let all = words(&run(&["status"]));
    assert!(
        all.contains(&first.name) && all.contains(&second.name),
        "{all}"
    );

    let taken = first.run("up", &["--nodes=fake"]);
    assert!(!taken.status.success());
    assert!(
        words(&taken).contains("is running already"),
        "{}",
        words(&taken)
    );

    let (entry, pids) = (second.entry(), second.pids());
    let down = second.run("down", &[]);
    assert!(down.status.success(), "{}", words(&down));
    until_gone(&pids, entry.record.pid);
    assert!(!entry.folder.exists());
    assert!(!second.run("status", &[]).status.success());
    assert!(first.run("status", &[]).status.success());
}

#[test]
fn killed_holder_leaves_no_process_and_its_folder_goes_with_down() {
    let (testbed, _) = Testbed::up("killed", &["--nodes=process"]);
    let (entry, pids) = (testbed.entry(), testbed.pids());
    kill(Pid::from_raw(entry.record.pid), Signal::SIGKILL).unwrap();
    until_gone(&pids, entry.record.pid);
    let status = words(&testbed.run("status", &[]));
    assert!(status.contains("it was killed"), "{status}");
    assert!(testbed.run("down", &[]).status.success());
    assert!(!entry.folder.exists());
}

#[tokio::test]
async fn interrupt_in_the_foreground_stops_all_and_is_no_failure() {
    let name = format!("foreground-{}", std::process::id());
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(["up", "--nodes=fake", "--name", &name]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let up = Process::spawn(command).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let facts = loop {
        let entry = registry::find(&name).unwrap();
        if let Some(facts) = entry.and_then(|entry| entry.record.facts) {
            break facts;
        }
        assert!(Instant::now() < deadline && up.exited().is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    up.signal(Signal::SIGINT).unwrap();
    assert!(up.wait().await.unwrap().success());
    assert!(!facts.processes.iter().any(|(_, pid)| is_alive(*pid)));
    assert!(registry::find(&name).unwrap().is_none());
}

#[test]
fn status_names_a_process_that_has_ended() {
    let (testbed, _) = Testbed::up("ended", &["--nodes=fake"]);
    let processes = testbed.entry().record.facts.unwrap().processes;
    let scheduler = processes
        .iter()
        .find(|(name, _)| name.ends_with("kube-scheduler"));
    let (name, pid) = scheduler.unwrap();
    kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    until_gone(&[*pid], *pid);
    let status = words(&testbed.run("status", &[]));
    assert!(
        status.contains(&format!("5 run, ended: {name}")),
        "{status}"
    );
    // The holder looks once a second.
    let log = testbed.entry().logs().join("testbed.log");
    let deadline = Instant::now() + DEADLINE;
    while !fs::read_to_string(&log).unwrap().contains(name.as_str()) {
        assert!(Instant::now() < deadline, "the holder says nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn kubeconfig_is_printed_as_path_and_as_content() {
    let (testbed, _) = Testbed::up("config", &["--nodes=fake"]);
    let path = String::from_utf8(testbed.run("kubeconfig", &[]).stdout).unwrap();
    let raw = testbed.run("kubeconfig", &["--raw"]).stdout;
    assert_eq!(fs::read(path.trim()).unwrap(), raw);
    testbed.run("down", &[]);
    let gone = testbed.run("kubeconfig", &[]);
    assert!(
        words(&gone).contains("cargo testbed up"),
        "{}",
        words(&gone)
    );
}

#[test]
fn failed_start_names_the_folder_of_the_logs_and_leaves_no_process() {
    let name = format!("broken-{}", std::process::id());
    let assets = tempfile::tempdir().unwrap();
    // An etcd of the right version that does not run.
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'etcd Version: 3.6.99' && exit\n\
                  echo 'no space left for me' >&2\nexit 1\n";
    program(assets.path(), "etcd", script);
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(["up", "--detach", "--nodes=fake", "--name", &name]);
    let up = command
        .env("KUBEBUILDER_ASSETS", assets.path())
        .output()
        .unwrap();
    assert!(!up.status.success());
    let logs: PathBuf = run_dir::root().join(format!("up-{name}/logs"));
    let words = words(&up);
    assert!(words.contains(&logs.display().to_string()), "{words}");
    assert!(words.contains("no space left for me"), "{words}");
    assert!(logs.is_dir());
    assert!(registry::find(&name).unwrap().is_none());
    fs::remove_dir_all(logs.parent().unwrap()).unwrap();
}

fn program(folder: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn real_node_and_model_come_up_and_go() {
    if !real_node_wanted() {
        return;
    }
    let (testbed, lines) = Testbed::up("real", &["--nodes=real", "--model"]);
    assert_eq!(
        shell(&lines, "kubectl get nodes --output=name"),
        "node/real\n"
    );
    assert_eq!(lines.matches("for pods: ").count(), 2, "{lines}");
    testbed.until_status_says(&["real Ready", "/v1 answers", "10 run"]);
    let (entry, pids) = (testbed.entry(), testbed.pids());
    let down = testbed.run("down", &[]);
    assert!(down.status.success(), "{}", words(&down));
    until_gone(&pids, entry.record.pid);
    assert!(!entry.folder.exists());
}
