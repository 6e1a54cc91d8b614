use super::*;

fn pod(uid: &str, version: u32, status: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": uid, "namespace": "n", "uid": uid,
            "resourceVersion": version.to_string(), "labels": {LABEL_POOL: "p"},
        },
        "status": status,
    }))
    .expect("a pod")
}

fn fresh(uid: &str, version: u32) -> Pod {
    pod(uid, version, serde_json::json!({"phase": "Running"}))
}

fn uids(pods: &Pods) -> Vec<String> {
    let mut uids: Vec<_> = pods.of("n", "p").iter().filter_map(|p| p.uid()).collect();
    uids.sort_unstable();
    uids
}

fn list(pods: &Pods, listed: Vec<Pod>) -> Change {
    pods.hear(Event::Init);
    for pod in listed {
        pods.hear(Event::InitApply(pod));
    }
    pods.hear(Event::InitDone)
}

#[test]
fn what_was_created_counts_before_the_watch_shows_it() {
    let pods = Pods::default();
    list(&pods, vec![]);
    pods.wrote(fresh("a", 5));
    assert_eq!(uids(&pods), ["a"]);
    pods.hear(Event::Apply(fresh("a", 5)));
    assert_eq!(uids(&pods), ["a"]);
}

#[test]
fn how_long_a_pod_took_is_known_of_those_that_this_process_made() {
    let ready = |uid: &str, version| {
        let ready = serde_json::json!({"type": "Ready", "status": "True"});
        pod(uid, version, serde_json::json!({"conditions": [ready]}))
    };
    let pods = Pods::default();
    pods.wrote(fresh("a", 5));
    pods.hear(Event::Apply(fresh("a", 6)));
    assert_eq!(pods.ready_after("a"), None, "not yet");
    pods.hear(Event::Apply(ready("a", 7)));
    let took = pods.ready_after("a");
    assert!(took.is_some());
    pods.hear(Event::Apply(fresh("a", 8)));
    pods.hear(Event::Apply(ready("a", 9)));
    assert_eq!(pods.ready_after("a"), took, "the first time counts");
    pods.hear(Event::Apply(fresh("b", 5)));
    pods.hear(Event::Apply(ready("b", 6)));
    assert_eq!(pods.ready_after("b"), None, "somebody else made it");
    pods.hear(Event::Delete(ready("a", 10)));
    assert_eq!(pods.ready_after("a"), None, "forgotten");
}

#[test]
fn an_older_event_does_not_undo_what_was_written() {
    let pods = Pods::default();
    let mut deleting = fresh("a", 9);
    deleting.metadata.deletion_timestamp = Some(
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
    );
    pods.wrote(deleting);
    pods.hear(Event::Apply(fresh("a", 7)));
    assert!(pods.of("n", "p")[0].metadata.deletion_timestamp.is_some());
}

#[test]
fn a_pod_that_is_gone_does_not_come_back_by_a_late_answer() {
    let pods = Pods::default();
    pods.hear(Event::Apply(fresh("a", 5)));
    let change = pods.hear(Event::Delete(fresh("a", 6)));
    let gone = Loss::Gone {
        namespace: "n".into(),
        uid: "a".into(),
    };
    assert_eq!(change.losses, [gone]);
    pods.wrote(fresh("a", 5));
    assert!(uids(&pods).is_empty());
}

#[test]
fn a_new_list_ends_what_it_misses_but_not_what_was_written_meanwhile() {
    let pods = Pods::default();
    list(&pods, vec![fresh("a", 1), fresh("b", 2)]);
    pods.hear(Event::Init);
    pods.hear(Event::InitApply(fresh("a", 1)));
    pods.wrote(fresh("c", 9));
    let change = pods.hear(Event::InitDone);
    assert_eq!(uids(&pods), ["a", "c"]);
    assert_eq!(change.losses.len(), 1);
}

#[test]
fn a_list_of_lower_versions_is_right_but_for_what_was_written_meanwhile() {
    // The cluster's data was restored from a copy.
    let ready = |uid: &str, version| {
        let ready = serde_json::json!({"type": "Ready", "status": "True"});
        pod(uid, version, serde_json::json!({"conditions": [ready]}))
    };
    let versions = |pods: &Pods| {
        let all = pods.of("n", "p").into_iter();
        let mut all: Vec<_> = all.map(|p| (p.uid(), p.resource_version())).collect();
        all.sort_unstable();
        let versions: Vec<_> = all.into_iter().filter_map(|(_, version)| version).collect();
        versions
    };
    let pods = Pods::default();
    list(&pods, vec![fresh("a", 9), fresh("b", 9)]);
    pods.hear(Event::Init);
    pods.hear(Event::InitApply(ready("a", 5)));
    pods.hear(Event::InitApply(ready("b", 5)));
    pods.wrote(fresh("b", 10));
    pods.hear(Event::InitDone);
    assert_eq!(versions(&pods), ["5", "10"]);
    assert!(pods.of("n", "p").iter().any(|pod| is_ready(pod)));
    pods.hear(Event::Apply(fresh("a", 6)));
    assert_eq!(versions(&pods), ["6", "10"], "events count again");
    pods.hear(Event::Delete(fresh("a", 7)));
    assert_eq!(versions(&pods), ["10"]);
    list(&pods, vec![fresh("a", 4), fresh("b", 4)]);
    assert_eq!(versions(&pods), ["4", "4"], "the copy has it still");
}

#[test]
fn an_ended_worker_is_reported_once() {
    let pods = Pods::default();
    let waiting = |state: serde_json::Value, restarts: u32| {
        serde_json::json!({"phase": "Running", "containerStatuses": [{
            "name": "worker", "ready": false, "restartCount": restarts, "image": "i", "imageID": "i",
            "state": state,
        }]})
    };
    let starting = waiting(
        serde_json::json!({"waiting": {"reason": "ContainerCreating"}}),
        0,
    );
    let change = pods.hear(Event::Apply(pod("a", 1, starting)));
    assert!(change.losses.is_empty(), "it has not begun");
    let ended = waiting(serde_json::json!({"terminated": {"exitCode": 137}}), 0);
    assert_eq!(pods.hear(Event::Apply(pod("a", 2, ended))).losses.len(), 1);
    let backoff = |restarts| {
        let reason = serde_json::json!({"waiting": {"reason": "CrashLoopBackOff"}});
        waiting(reason, restarts)
    };
    let again = pods.hear(Event::Apply(pod("a", 3, backoff(0))));
    assert!(again.losses.is_empty());
    let running = serde_json::json!({"running": {}});
    pods.hear(Event::Apply(pod("a", 4, waiting(running, 1))));
    assert!(pods.runs("n", "a") && !pods.runs("m", "a"));
    for (version, restarts, losses) in [(5, 1, 1), (6, 1, 0), (7, 2, 1)] {
        let change = pods.hear(Event::Apply(pod("a", version, backoff(restarts))));
        assert_eq!(change.losses.len(), losses, "restart {restarts}");
    }
    assert!(!pods.runs("n", "a"));
}
