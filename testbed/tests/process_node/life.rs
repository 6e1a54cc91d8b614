//! Probes, restarts and the end of pods.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use testbed::process_node::Signal;

use super::fixture::{
    Place, ask, container, gone, ip, is_ready, plain, push, restarts, until, wait,
};

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
    let hook = folder.path().join("hook");
    let pod = place
        .ready("p", |pod| {
            let main = &mut pod["spec"]["containers"][0];
            push(
                &mut main["env"],
                json!({"name": "TERM_FILE", "value": file}),
            );
            main["lifecycle"] = json!({"preStop": {"exec": {"command": ["touch", hook]}}});
        })
        .await;
    let deleted = place.pods.delete("p", &DeleteParams::default()).await;
    deleted.unwrap();
    gone(&place.pods, &pod).await;
    assert_eq!(std::fs::read_to_string(file).unwrap(), "terminated");
    assert!(hook.exists(), "the preStop hook did not run");
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
