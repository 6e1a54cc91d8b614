//! `TESTBED_KUBECONFIG` makes tests use the user's cluster and start none.

use std::path::Path;
use std::process::{Command, Output};

use testbed::cluster::KUBECONFIG_VARIABLE;
use testbed::{Cluster, Options};

const PART: &str = "TESTBED_TEST_PART";

/// Runs this test once more, with the variable set.
fn with(kubeconfig: &Path, test: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command.env(KUBECONFIG_VARIABLE, kubeconfig).env(PART, "1");
    command.output().unwrap()
}

fn is_part() -> bool {
    std::env::var_os(PART).is_some()
}

#[tokio::test]
async fn tests_use_the_users_cluster_and_nothing_of_it_is_theirs_to_break() {
    if !is_part() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let test = "tests_use_the_users_cluster_and_nothing_of_it_is_theirs_to_break";
        let output = with(cluster.kubeconfig(), test);
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let cluster = Cluster::shared().await.unwrap();
    let named = std::env::var_os(KUBECONFIG_VARIABLE).unwrap();
    assert_eq!(cluster.kubeconfig(), Path::new(&named));
    cluster.namespace("guest").await.unwrap();
    for error in [
        cluster.etcd().map(drop).unwrap_err(),
        cluster.join_real_node().await.map(drop).unwrap_err(),
        cluster.fake_nodes(1, 0).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains(KUBECONFIG_VARIABLE), "{error}");
    }
}

#[tokio::test]
async fn cluster_that_does_not_answer_is_an_error_that_names_the_file() {
    if !is_part() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let config = "{apiVersion: v1, kind: Config, current-context: c, \
                      clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], \
                      contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}";
        std::fs::write(&file, config).unwrap();
        let test = "cluster_that_does_not_answer_is_an_error_that_names_the_file";
        for file in [&file, &folder.path().join("absent")] {
            let output = with(file, test);
            let words = String::from_utf8_lossy(&output.stdout);
            assert!(words.contains(&file.display().to_string()), "{words}");
            assert!(output.status.success(), "{words}");
        }
        return;
    }
    let error = Cluster::shared().await.unwrap_err();
    println!("{error:#}");
}
