//! Nodes that pause, stop, work side by side, or lose their parent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use testbed::process_node::{Signal, keep_free};
use testbed::{Cluster, Options};
use tokio::time::timeout;

use super::fixture::{
    DEADLINE, Place, ask, create, env, gone, ip, is_ready, options, plain, restarts, until, wait,
};

#[tokio::test]
async fn paused_node_says_nothing_and_tells_all_when_it_is_back() {
    let cluster = Cluster::shared().await.unwrap();
    let name = format!("paused-{:08x}", rand::random::<u32>());
    let node = cluster.join_process_node(options(&name)).await.unwrap();
    let namespace = cluster.namespace("paused").await.unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client().await.unwrap(), &namespace);
    create(&pods, plain("p", &name)).await;
    create(&pods, plain("doomed", &name)).await;
    wait(&pods, "p", "Ready", is_ready).await;
    let doomed = wait(&pods, "doomed", "Ready", is_ready).await;

    node.pause();
    let pid = async || node.pid(&namespace, "p", "main").await;
    let first = pid().await.unwrap();
    let killed = node.kill_container(&namespace, "p", "main", Signal::SIGKILL);
    killed.await.unwrap();
    let restarted = |pid: &Result<i32>| pid.as_ref().is_ok_and(|pid| *pid != first);
    until("restarted", pid, restarted).await.unwrap();
    pods.delete("doomed", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(restarts(&pods.get("p").await.unwrap()), 0);
    ask(&doomed, "/readyz").await.unwrap();

    node.resume();
    gone(&pods, &doomed).await;
    wait(&pods, "p", "restarted", |p| restarts(p) == 1 && is_ready(p)).await;
    node.stop().await.unwrap();
}

#[tokio::test]
async fn node_that_is_silent_becomes_unreachable_and_comes_back() {
    let cluster = Cluster::start(Options {
        controller_manager_args: ["--node-monitor-grace-period=4s", "--node-monitor-period=1s"]
            .map(String::from)
            .to_vec(),
        ..Options::default()
    })
    .await
    .unwrap();
    let node = cluster.join_process_node(options("n")).await.unwrap();
    let nodes: Api<Node> = Api::all(cluster.client().await.unwrap());
    let ready = |status: &'static str| {
        move |node: Option<&Node>| {
            let conditions = node.and_then(|n| n.status.as_ref()?.conditions.as_ref());
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|c| c.type_ == "Ready" && c.status == status)
        }
    };
    node.pause();
    let unknown = await_condition(nodes.clone(), "n", ready("Unknown"));
    timeout(DEADLINE, unknown).await.unwrap().unwrap();
    node.resume();
    let back = await_condition(nodes.clone(), "n", ready("True"));
    timeout(DEADLINE, back).await.unwrap().unwrap();
}

#[tokio::test]
async fn stopped_node_leaves_nothing_behind() {
    let cluster = Cluster::shared().await.unwrap();
    let name = format!("stopped-{:08x}", rand::random::<u32>());
    let node = cluster.join_process_node(options(&name)).await.unwrap();
    let namespace = cluster.namespace("stopped").await.unwrap();
    let client = cluster.client().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    create(&pods, plain("p", &name)).await;
    let pod = wait(&pods, "p", "Ready", is_ready).await;
    let (address, on_lo) = (node.address(), node.serves_services());
    std::net::TcpListener::bind((address, 0)).unwrap();

    node.stop().await.unwrap();
    gone(&pods, &pod).await;
    let nodes: Api<Node> = Api::all(client);
    assert!(nodes.get_opt(&name).await.unwrap().is_none());
    // Another test's node may have the block by now, and its addresses with it.
    if let Some(_kept) = keep_free(address) {
        assert!(ask(&pod, "/readyz").await.is_err());
        if on_lo {
            std::net::TcpListener::bind((address, 0)).unwrap_err();
        }
    }
}

#[tokio::test]
async fn fifty_pods_at_once_on_two_nodes_are_all_ready() {
    let place = Place::new("fifty").await;
    let cluster = Cluster::shared().await.unwrap();
    let name = format!("second-{:08x}", rand::random::<u32>());
    let second = cluster.join_process_node(options(&name)).await.unwrap();
    let since = Instant::now();
    let pods = (0..50).map(|i| {
        let node = [place.node.name(), second.name()][i % 2];
        place.create(plain(&format!("p{i}"), node))
    });
    let pods = futures::future::join_all(pods).await;
    let names = pods.iter().map(|p| p.metadata.name.clone().unwrap());
    let names: Vec<String> = names.collect();
    let ready = names
        .iter()
        .map(|name| wait(&place.pods, name, "Ready", is_ready));
    let ready = futures::future::join_all(ready).await;
    println!("50 pods Ready after {:?}", since.elapsed());
    let addresses: BTreeSet<String> = ready.iter().map(ip).collect();
    assert_eq!(addresses.len(), 50);
    for pod in &ready {
        assert_eq!(env(pod).await["POD_IP"], ip(pod));
    }
    second.stop().await.unwrap();
}

#[tokio::test]
async fn pods_are_endpoints_of_their_service_unless_they_have_loopback_addresses() {
    let place = Place::new("service").await;
    let pod = place.ready("p", |_| {}).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "test"}, "ports": [{"port": 80}]}});
    let services: Api<Service> = Api::namespaced(place.client.clone(), &place.namespace);
    let service = serde_json::from_value(service).unwrap();
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    let slices: Api<EndpointSlice> = Api::namespaced(place.client.clone(), &place.namespace);
    let selector = ListParams::default().labels("kubernetes.io/service-name=s");
    let addresses = async || {
        let slices = slices.list(&selector).await.unwrap().items;
        let endpoints = slices.into_iter().flat_map(|s| s.endpoints).flatten();
        endpoints.flat_map(|e| e.addresses).collect::<Vec<String>>()
    };
    if place.node.serves_services() {
        let found = until("an endpoint", addresses, |a| !a.is_empty()).await;
        assert_eq!(found, [ip(&pod)]);
    } else {
        assert!(ip(&pod).starts_with("127."), "{}", ip(&pod));
    }
}

const VICTIM: &str = "PROCESS_NODE_VICTIM_WRITES_ADDRESS_TO";

#[tokio::test]
async fn killed_parent_leaves_no_process_of_a_pod() {
    // This test runs itself once more, as the process that gets killed.
    if let Some(file) = std::env::var_os(VICTIM) {
        return be_the_victim(&PathBuf::from(file)).await.unwrap();
    }
    let cluster = Cluster::shared().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "nodes::killed_parent_leaves_no_process_of_a_pod",
            "--nocapture",
        ])
        .stdout(Stdio::null())
        .env(VICTIM, &file)
        .env("TESTBED_KUBECONFIG", cluster.kubeconfig());
    let victim = testbed::process::Process::spawn(command).unwrap();
    let written = async || std::fs::read_to_string(&file).ok();
    let pid = until("written", written, |pid| {
        pid.is_some() || victim.exited().is_some()
    })
    .await;
    let pid = pid.expect("the victim ended by itself");
    let alive = async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.ok().filter(|stat| !stat.contains(") Z "))
    };
    assert!(alive().await.is_some());
    victim.kill().await.unwrap();
    until("gone", alive, Option::is_none).await;
}

async fn be_the_victim(file: &Path) -> Result<()> {
    let place = Place::new("victim").await;
    place.ready("p", |_| {}).await;
    let pid = place.node.pid(&place.namespace, "p", "main").await?;
    let partial = file.with_extension("partial");
    std::fs::write(&partial, pid.to_string())?;
    std::fs::rename(&partial, file).context("cannot tell the pid")?;
    std::future::pending().await
}
