//! Process nodes under a real API server, scheduler and controller manager.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};
use testbed::process_node::Signal;
use testbed::{Cluster, Options, ProcessNode, ProcessNodeOptions};
use tokio::sync::OnceCell;
use tokio::time::timeout;

const IMAGE: &str = "example.com/pod-under-test:1";
const DEADLINE: Duration = Duration::from_secs(60);

fn options(name: &str) -> ProcessNodeOptions {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pod-under-test"));
    ProcessNodeOptions::new(name, [("example.com/pod-under-test".to_owned(), binary)])
}

/// The cluster of this test binary, with one node for all tests.
async fn node() -> &'static ProcessNode {
    static NODE: OnceCell<ProcessNode> = OnceCell::const_new();
    let start = async || {
        let cluster = Cluster::shared().await.unwrap();
        let name = format!("process-{:08x}", rand::random::<u32>());
        cluster.join_process_node(options(&name)).await.unwrap()
    };
    NODE.get_or_init(start).await
}

/// A namespace of its own on the shared node.
struct Place {
    node: &'static ProcessNode,
    client: kube::Client,
    namespace: String,
    pods: Api<Pod>,
}

impl Place {
    async fn new(prefix: &str) -> Self {
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

    async fn create(&self, pod: Value) -> Pod {
        create(&self.pods, pod).await
    }

    /// A pod that is Ready, with what `change` makes of the plain one.
    async fn ready(&self, name: &str, change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = plain(name, self.node.name());
        change(&mut pod);
        self.create(pod).await;
        wait(&self.pods, name, "Ready", is_ready).await
    }

    async fn secret(&self, name: &str, value: &str) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"key": value}});
        let params = PatchParams::apply("test").force();
        secrets
            .patch(name, &params, &Patch::Apply(secret))
            .await
            .unwrap();
    }
}

async fn create(pods: &Api<Pod>, pod: Value) -> Pod {
    let pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap()
}

/// Scheduled to `node`, serves on its pod's address, ready by its probe.
fn plain(name: &str, node: &str) -> Value {
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

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(list) => list.push(item),
        other => *other = json!([item]),
    }
}

async fn wait(pods: &Api<Pod>, name: &str, what: &str, is: impl Fn(&Pod) -> bool) -> Pod {
    let condition = |pod: Option<&Pod>| pod.is_some_and(&is);
    match timeout(DEADLINE, await_condition(pods.clone(), name, condition)).await {
        Ok(pod) => pod.unwrap().unwrap(),
        Err(_) => {
            let pod = pods.get_opt(name).await.unwrap();
            panic!("pod {name} is not {what}: {:#?}", pod.map(|p| p.status))
        }
    }
}

async fn gone(pods: &Api<Pod>, pod: &Pod) {
    let uid = pod.metadata.uid.clone().unwrap();
    let name = pod.metadata.name.clone().unwrap();
    let deleted = await_condition(pods.clone(), &name, conditions::is_deleted(&uid));
    timeout(DEADLINE, deleted).await.unwrap().unwrap();
}

fn condition(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|c| c.type_ == kind)?;
    Some(found.status.clone())
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").as_deref() == Some("True")
}

/// Status of a container, as JSON.
fn container(pod: &Pod, index: usize) -> Value {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let status = statuses.and_then(|s| s.get(index));
    serde_json::to_value(status).unwrap()
}

fn restarts(pod: &Pod) -> i64 {
    container(pod, 0)["restartCount"].as_i64().unwrap_or(0)
}

fn ip(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap()
}

async fn ask(pod: &Pod, path: &str) -> Result<String> {
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

async fn env(pod: &Pod) -> BTreeMap<String, String> {
    serde_json::from_str(&ask(pod, "/env").await.unwrap()).unwrap()
}

/// Asks again until the answer is as wanted: for what no watch tells.
async fn until<T: Debug>(
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

#[tokio::test]
async fn ready_pod_sees_its_environment_and_its_secrets() {
    let place = Place::new("env").await;
    place.secret("queue", "hunter2").await;
    let pod = place
        .ready("p", |pod| {
            pod["spec"]["volumes"] = json!([{"name": "queue", "projected": {"sources": [
                {"secret": {"name": "queue"}},
                {"secret": {"name": "absent", "optional": true}},
            ]}}]);
            let main = &mut pod["spec"]["containers"][0];
            main["volumeMounts"] = json!([{"name": "queue", "mountPath": "/var/run/queue"}]);
            main["command"] = json!(["/pod-under-test", "--dir=/var/run/queue"]);
            main["args"] = json!(["$(POD_IP)", "/var/run/queue/key"]);
            for var in [
                json!({"name": "KEY", "value": "/var/run/queue/key"}),
                json!({"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "queue", "key": "key"}}}),
                json!({"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
                json!({"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}),
                json!({"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}),
                json!({"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}),
                json!({"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}),
            ] {
                push(&mut main["env"], var);
            }
        })
        .await;
    let env = env(&pod).await;
    assert_eq!(env["POD_IP"], ip(&pod));
    assert_eq!(env["PASSWORD"], "hunter2");
    assert_eq!(env["NAME"], "p");
    assert_eq!(Some(&env["UID"]), pod.metadata.uid.as_ref());
    assert_eq!(env["APP"], "test");
    assert_eq!(env["NODE"], place.node.name());
    assert_eq!(env["HOST"], place.node.address().to_string());
    assert!(
        !env.contains_key("CARGO_MANIFEST_DIR"),
        "the node's own environment leaked"
    );
    let file = ask(&pod, &format!("/file?{}", env["KEY"])).await.unwrap();
    assert_eq!(file, "hunter2");
    let args: Vec<String> = serde_json::from_str(&ask(&pod, "/args").await.unwrap()).unwrap();
    let folder = env["KEY"].strip_suffix("/key").unwrap();
    assert_eq!(
        args,
        [format!("--dir={folder}"), ip(&pod), env["KEY"].clone()]
    );

    let status = pod.status.as_ref().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.start_time.is_some());
    for kind in [
        "PodScheduled",
        "Initialized",
        "ContainersReady",
        "PodReadyToStartContainers",
    ] {
        assert_eq!(condition(&pod, kind).as_deref(), Some("True"), "{kind}");
    }
}

#[tokio::test]
async fn running_process_sees_the_new_value_of_a_mounted_secret() {
    let place = Place::new("update").await;
    place.secret("token", "old").await;
    let pod = place
        .ready("p", |pod| {
            pod["spec"]["volumes"] = json!([
                {"name": "token", "secret": {"secretName": "token"}},
                {"name": "late", "secret": {"secretName": "late", "optional": true}},
            ]);
            let main = &mut pod["spec"]["containers"][0];
            main["volumeMounts"] = json!([
                {"name": "token", "mountPath": "/token"},
                {"name": "late", "mountPath": "/late"},
            ]);
            push(
                &mut main["env"],
                json!({"name": "TOKEN", "value": "/token/key"}),
            );
            push(
                &mut main["env"],
                json!({"name": "LATE", "value": "/late/key"}),
            );
        })
        .await;
    let env = env(&pod).await;
    let read = async |file: &str| ask(&pod, &format!("/file?{file}")).await;
    assert_eq!(read(&env["TOKEN"]).await.unwrap(), "old");
    assert!(read(&env["LATE"]).await.is_err());

    place.secret("token", "new").await;
    place.secret("late", "here").await;
    let is = |expected: &'static str| {
        move |text: &Result<String>| text.as_ref().is_ok_and(|text| text == expected)
    };
    until("updated", async || read(&env["TOKEN"]).await, is("new"))
        .await
        .unwrap();
    until("there", async || read(&env["LATE"]).await, is("here"))
        .await
        .unwrap();
    assert_eq!(place.pods.get("p").await.map(|p| restarts(&p)).unwrap(), 0);
}

#[tokio::test]
async fn pod_waits_for_a_secret_that_is_not_there_yet() {
    let place = Place::new("waits").await;
    let mut pod = plain("p", place.node.name());
    pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "late"}}]);
    place.create(pod).await;
    let pod = wait(&place.pods, "p", "waiting", |p| !container(p, 0).is_null()).await;
    assert_eq!(
        container(&pod, 0)["state"]["waiting"]["reason"],
        "ContainerCreating"
    );
    place.secret("late", "here").await;
    wait(&place.pods, "p", "Ready", is_ready).await;
}

#[tokio::test]
async fn missing_key_of_the_environment_is_named_in_the_status() {
    let place = Place::new("config").await;
    let mut pod = plain("p", place.node.name());
    let source = json!({"secretKeyRef": {"name": "late", "key": "key"}});
    push(
        &mut pod["spec"]["containers"][0]["env"],
        json!({"name": "X", "valueFrom": source}),
    );
    place.create(pod).await;
    let waiting =
        |p: &Pod| container(p, 0)["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    let pod = wait(&place.pods, "p", "waiting", waiting).await;
    let message = container(&pod, 0)["state"]["waiting"]["message"].clone();
    assert!(
        message
            .as_str()
            .unwrap()
            .contains("secret \"late\" not found"),
        "{message}"
    );
    place.secret("late", "here").await;
    wait(&place.pods, "p", "Ready", is_ready).await;
}

#[tokio::test]
async fn image_without_a_binary_is_not_pulled() {
    let place = Place::new("image").await;
    let mut pod = plain("p", place.node.name());
    pod["spec"]["containers"][0]["image"] = json!("elsewhere.org/x");
    place.create(pod).await;
    let waiting = |p: &Pod| container(p, 0)["state"]["waiting"]["reason"] == "ErrImagePull";
    let pod = wait(&place.pods, "p", "refused", waiting).await;
    assert_eq!(
        pod.status.as_ref().unwrap().phase.as_deref(),
        Some("Pending")
    );
    let message = container(&pod, 0)["state"]["waiting"]["message"].clone();
    assert!(
        message
            .as_str()
            .unwrap()
            .contains("example.com/pod-under-test"),
        "{message}"
    );
}

#[tokio::test]
async fn readiness_follows_the_probe() {
    let place = Place::new("ready").await;
    let pod = place.ready("p", |_| {}).await;
    ask(&pod, "/set/ready/false").await.unwrap();
    let pod = wait(&place.pods, "p", "unready", |p| !is_ready(p)).await;
    assert_eq!(container(&pod, 0)["ready"], false);
    assert_eq!(
        pod.status.as_ref().unwrap().phase.as_deref(),
        Some("Running")
    );
    ask(&pod, "/set/ready/true").await.unwrap();
    let pod = wait(&place.pods, "p", "Ready again", is_ready).await;
    assert_eq!(restarts(&pod), 0);
}

#[tokio::test]
async fn container_that_fails_its_liveness_probe_is_restarted() {
    let place = Place::new("live").await;
    let pod = place
        .ready("p", |pod| {
            pod["spec"]["containers"][0]["livenessProbe"] =
                json!({"httpGet": {"path": "/livez", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
        })
        .await;
    ask(&pod, "/set/live/false").await.unwrap();
    let pod = wait(&place.pods, "p", "restarted", |p| {
        restarts(p) == 1 && is_ready(p)
    })
    .await;
    let last = &container(&pod, 0)["lastState"]["terminated"];
    assert_eq!(
        last["exitCode"], 0,
        "it ended in good order on SIGTERM: {last}"
    );
}

#[tokio::test]
async fn crashing_container_is_restarted_at_once_and_then_with_back_off() {
    let place = Place::new("crash").await;
    let pod = place.ready("p", |_| {}).await;
    assert!(ask(&pod, "/exit/7").await.is_err());
    let pod = wait(&place.pods, "p", "restarted", |p| {
        restarts(p) == 1 && is_ready(p)
    })
    .await;
    let last = container(&pod, 0)["lastState"]["terminated"].clone();
    assert_eq!(
        (&last["exitCode"], &last["reason"]),
        (&json!(7), &json!("Error"))
    );

    let killed = place
        .node
        .kill_container(&place.namespace, "p", "main", Signal::SIGKILL);
    killed.await.unwrap();
    let backing_off = |p: &Pod| container(p, 0)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let pod = wait(&place.pods, "p", "backing off", backing_off).await;
    assert_eq!(
        container(&pod, 0)["lastState"]["terminated"]["exitCode"],
        137
    );
    assert_eq!(restarts(&pod), 1);
    assert!(!is_ready(&pod));
}

#[tokio::test]
async fn deleted_pod_gets_sigterm_and_goes_when_its_process_has_ended() {
    let place = Place::new("term").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("terminated");
    let pod = place
        .ready("p", |pod| {
            let var = json!({"name": "TERM_FILE", "value": file});
            push(&mut pod["spec"]["containers"][0]["env"], var);
        })
        .await;
    let deleted = place.pods.delete("p", &DeleteParams::default()).await;
    deleted.unwrap();
    gone(&place.pods, &pod).await;
    assert_eq!(std::fs::read_to_string(file).unwrap(), "terminated");
    assert!(ask(&pod, "/readyz").await.is_err());
    let log = place.node.log_file(&place.namespace, "p", "main");
    assert!(std::fs::read_to_string(log).unwrap().contains("SIGTERM"));
}

#[tokio::test]
async fn process_that_ignores_sigterm_is_killed_after_its_grace() {
    let place = Place::new("grace").await;
    let pod = place
        .ready("p", |pod| {
            pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
            let var = json!({"name": "IGNORE_TERM", "value": "1"});
            push(&mut pod["spec"]["containers"][0]["env"], var);
        })
        .await;
    let since = Instant::now();
    let deleted = place.pods.delete("p", &DeleteParams::default()).await;
    deleted.unwrap();
    gone(&place.pods, &pod).await;
    assert!(since.elapsed() >= Duration::from_secs(1), "it had no grace");
    assert!(ask(&pod, "/readyz").await.is_err());
}

#[tokio::test]
async fn sidecar_starts_first_and_ends_with_the_job() {
    let place = Place::new("sidecar").await;
    let mut pod = plain("p", place.node.name());
    pod["spec"]["restartPolicy"] = json!("Never");
    let mut sidecar = pod["spec"]["containers"][0].clone();
    sidecar["name"] = json!("sidecar");
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
    pod["spec"]["initContainers"] = json!([sidecar]);
    pod["spec"]["containers"][0]["env"][1]["value"] = json!("$(POD_IP):8081");
    pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = json!(8081);
    place.create(pod).await;
    let pod = wait(&place.pods, "p", "Ready", is_ready).await;
    let status = pod.status.as_ref().unwrap();
    let started = |state: &Value| {
        state["state"]["running"]["startedAt"]
            .as_str()
            .map(str::to_owned)
    };
    let sidecar =
        serde_json::to_value(&status.init_container_statuses.as_ref().unwrap()[0]).unwrap();
    assert!(started(&sidecar).unwrap() <= started(&container(&pod, 0)).unwrap());
    assert_eq!(sidecar["started"], true);

    let main = place
        .node
        .kill_container(&place.namespace, "p", "main", Signal::SIGTERM);
    main.await.unwrap();
    let ended = |p: &Pod| p.status.as_ref().unwrap().phase.as_deref() == Some("Succeeded");
    let pod = wait(&place.pods, "p", "Succeeded", ended).await;
    assert!(
        ask(&pod, "/readyz").await.is_err(),
        "the sidecar still runs"
    );
    place
        .pods
        .delete("p", &DeleteParams::default())
        .await
        .unwrap();
    gone(&place.pods, &pod).await;
}

#[tokio::test]
async fn process_reaches_the_api_server_with_its_service_account() {
    let place = Place::new("token").await;
    let pod = place.ready("p", |_| {}).await;
    let name = ask(&pod, "/whoami").await.unwrap();
    assert_eq!(
        name,
        format!("system:serviceaccount:{}:default", place.namespace)
    );

    let other = |pod: &mut Value| pod["spec"]["automountServiceAccountToken"] = json!(false);
    let pod = place.ready("without", other).await;
    assert!(ask(&pod, "/whoami").await.is_err());
}

#[tokio::test]
async fn pod_of_the_same_name_can_follow_at_once() {
    let place = Place::new("again").await;
    let first = place.ready("p", |_| {}).await;
    place
        .pods
        .delete("p", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let second = place.ready("p", |_| {}).await;
    assert_ne!(first.metadata.uid, second.metadata.uid);
    assert_ne!(ip(&first), ip(&second));
    until(
        "the first process ended",
        async || ask(&first, "/readyz").await,
        Result::is_err,
    )
    .await
    .unwrap_err();
    ask(&second, "/readyz").await.unwrap();
}

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
    let address = node.address();
    std::net::TcpListener::bind((address, 0)).unwrap();

    node.stop().await.unwrap();
    assert!(ask(&pod, "/readyz").await.is_err());
    gone(&pods, &pod).await;
    let nodes: Api<Node> = Api::all(client);
    assert!(nodes.get_opt(&name).await.unwrap().is_none());
    if nix::unistd::geteuid().is_root() {
        std::net::TcpListener::bind((address, 0)).unwrap_err();
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
    let addresses: std::collections::BTreeSet<String> = ready.iter().map(ip).collect();
    assert_eq!(addresses.len(), 50);
    for pod in &ready {
        assert_eq!(env(pod).await["POD_IP"], ip(pod));
    }
    second.stop().await.unwrap();
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
            "killed_parent_leaves_no_process_of_a_pod",
            "--nocapture",
        ])
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

async fn be_the_victim(file: &std::path::Path) -> Result<()> {
    let place = Place::new("victim").await;
    place.ready("p", |_| {}).await;
    let pid = place.node.pid(&place.namespace, "p", "main").await?;
    let partial = file.with_extension("partial");
    std::fs::write(&partial, pid.to_string())?;
    std::fs::rename(&partial, file).context("cannot tell the pid")?;
    std::future::pending().await
}
