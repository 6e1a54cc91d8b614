use super::*;

#[test]
fn drain_timeouts_go_in_steps() {
    for (longest, step) in [(0, 60), (60, 60), (61, 120), (600, 960)] {
        assert_eq!(rounded_up(Span::secs(longest)), Span::secs(step));
    }
}

#[test]
fn the_model_server_of_a_pod_is_read_off_its_init_containers() {
    let view = |server: serde_json::Value| {
        let mut server = server;
        server["name"] = "model-server".into();
        let worker = serde_json::json!({"name": "worker",
            "state": {"waiting": {"reason": "PodInitializing"}}});
        let pod = serde_json::json!({"status": {
            "initContainerStatuses": [server], "containerStatuses": [worker],
        }});
        view(&serde_json::from_value(pod).expect("a pod"), |_| false)
    };
    let common = |state: serde_json::Value, started: bool| {
        serde_json::json!({"image": "i", "imageID": "", "ready": false, "restartCount": 2,
            "state": state, "started": started,
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}})
    };
    let loading = view(common(serde_json::json!({"running": {}}), false));
    assert!(loading.loading);
    assert_eq!(
        loading.waiting.expect("the worker waits").0,
        "PodInitializing"
    );
    let crashed = serde_json::json!({"waiting": {"reason": "CrashLoopBackOff", "message": "m"}});
    let crashed = view(common(crashed, false));
    assert_eq!(crashed.waiting.expect("it waits").0, "CrashLoopBackOff");
    let ended = crashed.server_ended.expect("it ended");
    assert_eq!(
        ended,
        "its model server ended 2 times, last with code 137 (OOMKilled)"
    );
    assert!(!view(common(serde_json::json!({"running": {}}), true)).loading);
}

#[test]
fn what_counts_of_a_pod_is_read_off_its_status() {
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p-1", "uid": "u", "labels": {"persona.dev/template": "h"}},
        "status": {
            "phase": "Pending",
            "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/3 nodes are available", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    }))
    .expect("a pod");
    let view = view(&pod, |_| false);
    assert_eq!(
        (view.hash.as_str(), view.scheduled, view.ready),
        ("h", false, false)
    );
    assert_eq!(
        view.unschedulable.expect("since").1,
        "0/3 nodes are available"
    );
    assert_eq!(view.failed, None);
}

#[test]
fn a_pod_that_was_not_ready_for_a_while_tells_nothing_of_how_long_a_start_takes() {
    let pod = |restarts: i32, ready_at: &str| -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p-1", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ready_at}],
                "containerStatuses": [{
                    "name": "worker", "image": "i", "imageID": "", "ready": true,
                    "restartCount": restarts,
                    "state": {"running": {"startedAt": "2026-01-01T00:02:00Z"}},
                }],
            },
        }))
        .expect("a pod")
    };
    let after = |restarts, ready_at| view(&pod(restarts, ready_at), |_| false).ready_after;
    assert_eq!(
        after(0, "2026-01-01T00:02:04Z"),
        Some(Duration::from_secs(124)),
        "a large image, then a quick start"
    );
    assert_eq!(after(0, "2026-01-04T00:00:00Z"), None, "the queue was away");
    assert_eq!(after(1, "2026-01-01T00:02:04Z"), None, "it began again");
}

#[test]
fn a_pod_that_ends_because_it_is_deleted_has_not_failed() {
    let ended = |deleted: Option<&str>| {
        let pod = serde_json::json!({
            "metadata": {"name": "p-1", "uid": "u", "deletionTimestamp": deleted},
            "status": {"phase": "Failed", "reason": "Evicted", "message": "disk"},
        });
        view(&serde_json::from_value(pod).expect("a pod"), |_| false)
    };
    assert_eq!(ended(None).failed.as_deref(), Some("Evicted: disk"));
    let deleted = ended(Some("2026-01-01T00:00:00Z"));
    assert_eq!((deleted.failed, deleted.deleting), (None, true));
}
