//! What a pod's process sees: environment, files, the API server.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::fixture::{
    Place, ask, condition, container, env, ip, is_ready, plain, push, restarts, until, wait,
};

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
