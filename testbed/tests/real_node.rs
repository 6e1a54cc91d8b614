//! Pods on the real node: isolation, images, logs, exec, Services, DNS; and that nothing of it stays.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, LogParams, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use serde_json::json;
use testbed::{Cluster, RealNode, image, real_node_wanted};

const DEADLINE: Duration = Duration::from_secs(60);

async fn node() -> Result<&'static RealNode> {
    let node = Cluster::shared().await?.join_real_node().await?;
    node.import_redis().await?;
    Ok(node)
}

/// A Redis that is allowed nothing, as the strictest Pod Security asks for.
fn redis(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {testbed::kwok::NODE_KIND: "real"},
            "containers": [{
                "name": "redis",
                "image": image::REDIS,
                "imagePullPolicy": "Never",
                "args": ["--save", "", "--protected-mode", "no"],
                "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
                "securityContext": {
                    "readOnlyRootFilesystem": true,
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    }))
    .expect("a pod")
}

fn is_pod_ready() -> impl Condition<Pod> {
    |pod: Option<&Pod>| {
        let status = pod.and_then(|pod| pod.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    }
}

/// A pod of a namespace, once it is Ready.
async fn run(pods: &Api<Pod>, pod: &Pod) -> Result<Pod> {
    let name = pod.metadata.name.as_deref().context("no name")?;
    pods.create(&PostParams::default(), pod).await?;
    let ready = await_condition(pods.clone(), name, is_pod_ready());
    match tokio::time::timeout(DEADLINE, ready).await {
        Ok(pod) => pod?.context("the pod is gone"),
        Err(_) => bail!("{name} is not Ready: {:?}", pods.get(name).await?.status),
    }
}

async fn service(client: kube::Client, namespace: &str, name: &str) -> Result<String> {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 6379}]},
    }))?;
    let services = Api::namespaced(client, namespace);
    let service = services.create(&PostParams::default(), &service).await?;
    service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .context("no cluster IP")
}

/// What a command in the pod's container printed.
async fn exec(namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
    let mut kubectl = Cluster::shared().await?.kubectl().await?;
    kubectl
        .args(["--namespace", namespace, "exec", pod, "--"])
        .args(command);
    let output = kubectl.output().await?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {words}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command in the pod until it prints PONG: a Service works a moment after its pod is Ready.
async fn exec_until_pong(namespace: &str, pod: &str, command: &[&str]) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match exec(namespace, pod, command).await {
            Ok(printed) if printed.trim() == "PONG" => return Ok(()),
            other if Instant::now() > deadline => bail!("{command:?}: {other:?}"),
            _ => {}
        }
    }
}

/// PING from this machine.
fn ping(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect((address, 6379))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer.to_vec())?)
}

#[tokio::test]
async fn pod_without_any_privilege_becomes_ready_and_gives_logs_and_exec() -> Result<()> {
    if !real_node_wanted() {
        return Ok(());
    }
    node().await?;
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace("real").await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, &namespace);
    let pod = run(&pods, &redis("one")).await?;
    assert_eq!(
        pod.spec.context("no spec")?.node_name.as_deref(),
        Some("real")
    );
    let log = pods.logs("one", &LogParams::default()).await?;
    assert!(log.contains("Ready to accept connections"), "{log}");
    assert_eq!(
        exec(&namespace, "one", &["redis-cli", "ping"])
            .await?
            .trim(),
        "PONG"
    );
    // The root file system is read-only, so Redis cannot dump.
    let refused = exec(&namespace, "one", &["redis-cli", "save"]).await?;
    assert!(refused.contains("ERR"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn service_is_reached_by_name_from_pods_and_by_address_from_this_machine() -> Result<()> {
    if !real_node_wanted() {
        return Ok(());
    }
    node().await?;
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace("real").await?;
    let client = cluster.client().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let address = service(client, &namespace, "server").await?;
    let (client_pod, server_pod) = (redis("client"), redis("server"));
    let (_, server) = tokio::try_join!(run(&pods, &client_pod), run(&pods, &server_pod))?;
    let full = format!("server.{namespace}.svc.cluster.local");
    for (pod, name) in [
        ("client", "server"),
        ("client", &full),
        ("server", "server"),
    ] {
        exec_until_pong(&namespace, pod, &["redis-cli", "-h", name, "ping"]).await?;
    }
    let pod_address = server
        .status
        .and_then(|status| status.pod_ip)
        .context("no pod address")?;
    assert_eq!(ping(&pod_address)?, "+PONG\r\n");
    assert_eq!(ping(&address)?, "+PONG\r\n");
    Ok(())
}

#[tokio::test]
async fn pods_reach_servers_of_this_machine_and_nothing_beyond_it() -> Result<()> {
    if !real_node_wanted() {
        return Ok(());
    }
    let node = node().await?;
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace("real").await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, &namespace);
    run(&pods, &redis("one")).await?;
    let host = testbed::Redis::shared().await?;
    let address = node.forward(host.port())?;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let command = [
        "redis-cli",
        "-h",
        &ip,
        "-p",
        &port,
        "-a",
        host.password(),
        "ping",
    ];
    assert_eq!(exec(&namespace, "one", &command).await?.trim(), "PONG");
    // Addresses for documentation (RFC 5737): where there is a default route, they take it.
    let beyond = exec(
        &namespace,
        "one",
        &["redis-cli", "-h", "203.0.113.1", "ping"],
    )
    .await;
    assert!(format!("{beyond:?}").contains("unreachable"), "{beyond:?}");
    Ok(())
}
