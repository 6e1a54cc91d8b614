//! A shared node, and pods on it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};
use testbed::{Cluster, ProcessNode, ProcessNodeOptions};
use tokio::sync::OnceCell;
use tokio::time::timeout;

pub const IMAGE: &str = "example.com/pod-under-test:1";
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn options(name: &str) -> ProcessNodeOptions {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pod-under-test"));
    ProcessNodeOptions::new(name, [("example.com/pod-under-test".to_owned(), binary)])
}

/// The cluster of this test binary, with one node for all tests.
pub async fn node() -> &'static ProcessNode {
    static NODE: OnceCell<ProcessNode> = OnceCell::const_new();
    let start = async || {
        let cluster = Cluster::shared().await.unwrap();
        let name = format!("process-{:08x}", rand::random::<u32>());
        cluster.join_process_node(options(&name)).await.unwrap()
    };
    NODE.get_or_init(start).await
}

/// A namespace of its own on the shared node.
pub struct Place {
    pub node: &'static ProcessNode,
    pub client: kube::Client,
    pub namespace: String,
    pub pods: Api<Pod>,
}

impl Place {
    pub async fn new(prefix: &str) -> Self {
        let node = node().await;
        let cluster = Cluster::shared().await.unwrap();
        let client = cluster.client().await.unwrap();
        let namespace = cluster.namespace(prefix).await.unwrap();
        Self {
            node,
            pods: Api::namespaced(client.clone(), &namespace),
            client,
            namespace,
        }
    }

    pub async fn create(&self, pod: Value) -> Pod {
        create(&self.pods, pod).await
    }

    /// A pod that is Ready, with what `change` makes of the plain one.
    pub async fn ready(&self, name: &str, change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = plain(name, self.node.name());
        change(&mut pod);
        self.create(pod).await;
        wait(&self.pods, name, "Ready", is_ready).await
    }

    pub async fn secret(&self, name: &str, value: &str) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"key": value}});
        let params = PatchParams::apply("test").force();
        secrets
            .patch(name, &params, &Patch::Apply(secret))
            .await
            .unwrap();
    }
}

pub async fn create(pods: &Api<Pod>, pod: Value) -> Pod {
    let pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap()
}

/// Scheduled to `node`, serves on its pod's address, ready by its probe.
pub fn plain(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "test"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "main",
                "image": IMAGE,
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "LISTEN", "value": "$(POD_IP):8080"},
                ],
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
            }],
        },
    })
}

pub fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(list) => list.push(item),
        other => *other = json!([item]),
    }
}

pub async fn wait(pods: &Api<Pod>, name: &str, what: &str, is: impl Fn(&Pod) -> bool) -> Pod {
    let condition = |pod: Option<&Pod>| pod.is_some_and(&is);
    match timeout(DEADLINE, await_condition(pods.clone(), name, condition)).await {
        Ok(pod) => pod.unwrap().unwrap(),
        Err(_) => {
            let pod = pods.get_opt(name).await.unwrap();
            panic!("pod {name} is not {what}: {:#?}", pod.map(|p| p.status))
        }
    }
}

pub async fn gone(pods: &Api<Pod>, pod: &Pod) {
    let uid = pod.metadata.uid.clone().unwrap();
    let name = pod.metadata.name.clone().unwrap();
    let deleted = await_condition(pods.clone(), &name, conditions::is_deleted(&uid));
    timeout(DEADLINE, deleted).await.unwrap().unwrap();
}

pub fn condition(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|c| c.type_ == kind)?;
    Some(found.status.clone())
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").as_deref() == Some("True")
}

/// Status of a container, as JSON.
pub fn container(pod: &Pod, index: usize) -> Value {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let status = statuses.and_then(|s| s.get(index));
    serde_json::to_value(status).unwrap()
}

pub fn restarts(pod: &Pod) -> i64 {
    container(pod, 0)["restartCount"].as_i64().unwrap_or(0)
}

pub fn ip(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap()
}

pub async fn ask(pod: &Pod, path: &str) -> Result<String> {
    testbed::install_crypto();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client
        .get(format!("http://{}:8080{path}", ip(pod)))
        .send()
        .await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{path}: {status}: {text}");
    Ok(text)
}

pub async fn env(pod: &Pod) -> BTreeMap<String, String> {
    serde_json::from_str(&ask(pod, "/env").await.unwrap()).unwrap()
}

/// Asks again until the answer is as wanted: for what no watch tells.
pub async fn until<T: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    is: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = ask().await;
        if is(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "not {what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
