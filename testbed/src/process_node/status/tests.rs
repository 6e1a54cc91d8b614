use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::process_node::probes::{Kind, Verdict as Probed};

fn second(s: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + s).unwrap()
}

struct Fixture {
    pod: Pod,
    state: PodState,
    before: Option<PodStatus>,
}

impl Fixture {
    fn new(spec: Value) -> Self {
        let meta = json!({"name": "p", "namespace": "n", "uid": "u", "generation": 3});
        let pod: Pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        let mut state = PodState::new(&pod, Duration::from_secs(10));
        state.plan(second(0));
        Self {
            pod,
            state,
            before: None,
        }
    }

    fn app(policy: &str, readiness: bool) -> Self {
        let mut container = json!({"name": "c", "image": "i"});
        if readiness {
            container["readinessProbe"] = json!({});
        }
        Self::new(json!({"restartPolicy": policy, "containers": [container]}))
    }

    fn status(&mut self, s: i64) -> Value {
        let facts = Facts {
            pod: &self.pod,
            addresses: Addresses {
                pod: Ipv4Addr::new(198, 18, 0, 7),
                host: Ipv4Addr::new(198, 18, 0, 1),
            },
            start_time: second(0),
            mounted: true,
        };
        let status = build(&facts, &self.state, self.before.as_ref(), second(s));
        self.before = Some(status.clone());
        serde_json::to_value(status).unwrap()
    }
}

fn condition_of<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status["conditions"].as_array().unwrap();
    conditions.iter().find(|c| c["type"] == kind).unwrap()
}

#[test]
fn running_pod_without_probes_is_ready_and_has_addresses() {
    let mut f = Fixture::app("Always", false);
    f.state.containers[0].started(42, second(1));
    let status = f.status(1);
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "198.18.0.7");
    assert_eq!(status["hostIP"], "198.18.0.1");
    assert_eq!(status["observedGeneration"], 3);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["ready"], true);
    assert_eq!(container["started"], true);
    assert!(container["state"]["running"]["startedAt"].is_string());
    for kind in ["Initialized", "ContainersReady", "Ready", "PodScheduled"] {
        assert_eq!(condition_of(&status, kind)["status"], "True", "{kind}");
    }
}

#[test]
fn condition_keeps_its_time_until_it_changes() {
    let mut f = Fixture::app("Always", true);
    f.state.containers[0].started(42, second(1));
    let unready = f.status(1);
    assert_eq!(
        condition_of(&unready, "Ready")["reason"],
        "ContainersNotReady"
    );
    let words = "containers with unready status: [c]";
    assert_eq!(condition_of(&unready, "ContainersReady")["message"], words);
    let later = f.status(5);
    assert_eq!(unready, later);
    f.state.probed(0, Kind::Readiness, &Probed::Passed);
    let ready = f.status(9);
    let time =
        |status: &Value, kind: &str| condition_of(status, kind)["lastTransitionTime"].clone();
    assert_ne!(time(&ready, "Ready"), time(&later, "Ready"));
    assert_eq!(time(&ready, "Initialized"), time(&later, "Initialized"));
}

#[test]
fn crashing_container_waits_in_back_off_and_shows_its_last_end() {
    let mut f = Fixture::app("Always", false);
    for run in 0..2 {
        f.state.containers[0].started(42, second(run));
        f.state.containers[0].ended(1, Some("last words".into()), second(run));
    }
    let status = f.status(2);
    assert_eq!(status["phase"], "Running");
    let container = &status["containerStatuses"][0];
    assert_eq!(container["restartCount"], 1);
    let waiting = &container["state"]["waiting"];
    assert_eq!(waiting["reason"], "CrashLoopBackOff");
    assert_eq!(
        waiting["message"],
        "back-off 10s restarting failed container=c pod=p_n(u)"
    );
    let last = &container["lastState"]["terminated"];
    assert_eq!(
        (&last["exitCode"], &last["reason"]),
        (&json!(1), &json!("Error"))
    );
    assert_eq!(last["message"], "last words");
    assert_eq!(condition_of(&status, "Ready")["status"], "False");
}

#[test]
fn finished_pod_tells_how_it_went() {
    for (code, phase, reason) in [(0, "Succeeded", "PodCompleted"), (2, "Failed", "PodFailed")] {
        let mut f = Fixture::app("Never", false);
        f.state.containers[0].started(42, second(0));
        f.state.containers[0].ended(code, None, second(1));
        let status = f.status(1);
        assert_eq!(status["phase"], phase);
        assert_eq!(condition_of(&status, "Ready")["reason"], reason);
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(ended["exitCode"], code);
    }
}

#[test]
fn pod_that_was_told_to_end_has_a_final_phase_once_it_is_down() {
    let mut f = Fixture::app("Always", false);
    f.state.containers[0].started(42, second(0));
    f.state.shut_down(second(30));
    assert_eq!(f.status(1)["phase"], "Running");
    f.state.containers[0].ended(0, None, second(2));
    assert_eq!(f.status(2)["phase"], "Succeeded");

    let mut never_ran = Fixture::app("Always", false);
    never_ran.state.shut_down(second(30));
    assert_eq!(never_ran.status(2)["phase"], "Failed");
}

#[test]
fn unmapped_image_keeps_the_pod_pending() {
    let mut f = Fixture::app("Always", false);
    f.state.containers[0].phase = Phase::Waiting {
        reason: "ErrImagePull",
        message: Some("no binary".into()),
        retry: crate::process_node::state::Retry::Never,
    };
    let status = f.status(1);
    assert_eq!(status["phase"], "Pending");
    let waiting = &status["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "ErrImagePull");
}

#[test]
fn init_containers_have_statuses_of_their_own() {
    let mut f = Fixture::new(json!({
        "initContainers": [{"name": "i", "image": "x"}],
        "containers": [{"name": "c", "image": "y"}],
    }));
    let pending = f.status(0);
    assert_eq!(pending["phase"], "Pending");
    assert_eq!(
        condition_of(&pending, "Initialized")["reason"],
        "ContainersNotInitialized"
    );
    f.state.containers[0].started(1, second(0));
    f.state.containers[0].ended(0, None, second(1));
    f.state.plan(second(1));
    f.state.containers[1].started(2, second(1));
    let status = f.status(1);
    assert_eq!(status["initContainerStatuses"][0]["name"], "i");
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    assert_eq!(status["containerStatuses"][0]["name"], "c");
    assert_eq!(condition_of(&status, "Ready")["status"], "True");
}

#[test]
fn readiness_gate_holds_the_pod_but_not_its_containers() {
    let mut f = Fixture::app("Always", false);
    f.pod.spec.as_mut().unwrap().readiness_gates =
        serde_json::from_value(json!([{"conditionType": "example.com/gate"}])).unwrap();
    f.state.containers[0].started(42, second(1));
    let status = f.status(1);
    assert_eq!(condition_of(&status, "ContainersReady")["status"], "True");
    assert_eq!(
        condition_of(&status, "Ready")["reason"],
        "ReadinessGatesNotReady"
    );
}

#[test]
fn restarts_are_counted_on_after_the_node_came_back() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "status": {"containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2, "containerID": "process://1"},
            {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0},
        ]},
    }))
    .unwrap();
    assert_eq!(earlier_restarts(&pod, "a"), Some(3));
    assert_eq!(earlier_restarts(&pod, "b"), None);
}
