use serde_json::json;

use super::*;
use crate::process_node::state::Stopping;

fn second(s: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + s).unwrap()
}

fn state(spec: serde_json::Value) -> PodState {
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    PodState::new(
        &serde_json::from_value(pod).unwrap(),
        Duration::from_secs(10),
    )
}

fn plain(policy: &str) -> PodState {
    state(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}))
}

fn with_sidecars() -> PodState {
    state(json!({
        "initContainers": [
            {"name": "setup"},
            {"name": "proxy", "restartPolicy": "Always", "startupProbe": {}},
            {"name": "log", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "a"}, {"name": "b"}],
    }))
}

const PASSED: Verdict = Verdict::Passed;

fn failed() -> Verdict {
    Verdict::Failed {
        message: "no".into(),
        grace: None,
    }
}

/// All three sidecar pod's containers and apps up.
fn running_with_sidecars() -> PodState {
    let mut pod = with_sidecars();
    pod.containers[0].started(1, second(0));
    pod.containers[0].ended(0, None, second(1));
    pod.containers[1].started(2, second(1));
    pod.probed(1, Kind::Startup, &PASSED);
    for index in 2..5 {
        pod.containers[index].started(10, second(2));
    }
    assert_eq!(pod.plan(second(2)), Plan::default());
    assert!(pod.initialized);
    pod
}

#[test]
fn init_containers_run_in_order_and_sidecars_hold_the_next_until_they_started() {
    let mut pod = with_sidecars();
    assert_eq!(pod.plan(second(0)).actions, [Action::Start(0)]);
    pod.containers[0].started(1, second(0));
    assert_eq!(pod.plan(second(0)).actions, []);
    pod.containers[0].ended(0, None, second(1));
    assert_eq!(pod.plan(second(1)).actions, [Action::Start(1)]);
    pod.containers[1].started(2, second(1));
    assert_eq!(
        pod.plan(second(1)).actions,
        [],
        "its startup probe is not through"
    );
    pod.probed(1, Kind::Startup, &PASSED);
    assert_eq!(pod.plan(second(2)).actions, [Action::Start(2)]);
    assert!(!pod.initialized);
    pod.containers[2].started(3, second(2));
    let apps = [Action::Start(3), Action::Start(4)];
    assert_eq!(pod.plan(second(2)).actions, apps);
    assert!(pod.initialized);
}

#[test]
fn failed_init_container_is_tried_again_and_holds_the_pod() {
    let mut pod = with_sidecars();
    for run in 0..2 {
        pod.plan(second(run));
        pod.containers[0].started(1, second(run));
        pod.containers[0].ended(1, None, second(run));
    }
    let plan = pod.plan(second(1));
    assert_eq!((plan.actions, plan.wake_at), (vec![], Some(second(11))));
}

#[test]
fn crashed_app_waits_for_its_back_off_and_counts_restarts() {
    let mut pod = plain("Always");
    pod.plan(second(0));
    pod.containers[0].started(1, second(0));
    pod.containers[0].ended(1, None, second(5));
    assert_eq!(pod.plan(second(5)).actions, [Action::Start(0)]);
    pod.containers[0].started(2, second(5));
    pod.containers[0].ended(1, None, second(6));
    let plan = pod.plan(second(6));
    assert_eq!((plan.actions, plan.wake_at), (vec![], Some(second(16))));
    assert_eq!(pod.plan(second(16)).actions, [Action::Start(0)]);
    pod.containers[0].started(3, second(16));
    assert_eq!(pod.containers[0].restarts, 2);
    assert_eq!(
        pod.containers[0].last.as_ref().unwrap().finished_at,
        second(6)
    );
}

#[test]
fn restart_policy_decides_whether_an_ended_app_runs_again() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let mut pod = plain(policy);
        pod.plan(second(0));
        pod.containers[0].started(1, second(0));
        pod.containers[0].ended(code, None, second(0));
        let started = pod.plan(second(0)).actions == [Action::Start(0)];
        assert_eq!(started, again, "{policy}, exit {code}");
        assert_eq!(pod.finished(), !again, "{policy}, exit {code}");
    }
}

#[test]
fn finished_apps_end_the_sidecars() {
    let mut pod = running_with_sidecars();
    pod.policy = RestartPolicy::Never;
    for index in [3, 4] {
        pod.containers[index].ended(0, None, second(3));
    }
    let last = [Action::Terminate(2, second(33))];
    assert_eq!(pod.plan(second(3)).actions, last);
    pod.containers[2].ended(143, None, second(3));
    assert_eq!(
        pod.plan(second(3)).actions,
        [Action::Terminate(1, second(33))]
    );
}

#[test]
fn shutdown_stops_apps_first_then_sidecars_in_reverse_order() {
    let mut pod = running_with_sidecars();
    pod.shut_down(second(10));
    let apps = [
        Action::Terminate(3, second(10)),
        Action::Terminate(4, second(10)),
    ];
    assert_eq!(pod.plan(second(4)).actions, apps);
    for index in [3, 4] {
        pod.containers[index].ended(0, None, second(9));
    }
    let plan = pod.plan(second(9));
    assert_eq!(
        plan.actions,
        [Action::Terminate(2, second(11))],
        "two seconds at least"
    );
    pod.containers[2].ended(0, None, second(9));
    pod.containers[1].ended(0, None, second(9));
    assert!(pod.is_down());
    assert_eq!(pod.plan(second(9)), Plan::default(), "nothing is restarted");
}

#[test]
fn container_that_ignores_sigterm_is_killed_once_after_its_grace() {
    let mut pod = plain("Always");
    pod.plan(second(0));
    pod.containers[0].started(1, second(0));
    pod.shut_down(second(30));
    assert_eq!(
        pod.plan(second(0)).actions,
        [Action::Terminate(0, second(30))]
    );
    let stop = |pod: &mut PodState, killed| {
        let Phase::Running(running) = &mut pod.containers[0].phase else {
            panic!("not running")
        };
        let kill_at = running.stopping.map_or(second(30), |s| s.kill_at);
        running.stopping = Some(Stopping { kill_at, killed });
    };
    stop(&mut pod, false);
    assert_eq!(pod.plan(second(1)).wake_at, Some(second(30)));
    pod.shut_down(second(5));
    assert_eq!(
        pod.plan(second(1)).wake_at,
        Some(second(5)),
        "a shorter grace counts"
    );
    assert_eq!(pod.plan(second(5)).actions, [Action::Kill(0)]);
    stop(&mut pod, true);
    assert_eq!(pod.plan(second(6)).actions, []);
}

#[test]
fn failed_liveness_ends_the_run_and_it_starts_again() {
    let mut pod = plain("Never");
    pod.policy = RestartPolicy::Always;
    pod.plan(second(0));
    pod.containers[0].started(1, second(0));
    pod.probed(0, Kind::Liveness, &failed());
    assert_eq!(
        pod.plan(second(1)).actions,
        [Action::Terminate(0, second(31))]
    );
    pod.containers[0].ended(143, None, second(2));
    assert_eq!(pod.plan(second(2)).actions, [Action::Start(0)]);
}

#[test]
fn readiness_follows_its_probe_only_after_startup() {
    let probes = json!({"name": "a", "startupProbe": {}, "readinessProbe": {}});
    let mut pod = state(json!({"containers": [probes]}));
    pod.plan(second(0));
    pod.containers[0].started(1, second(0));
    pod.probed(0, Kind::Startup, &PASSED);
    assert!(!pod.containers[0].is_ready());
    pod.probed(0, Kind::Readiness, &PASSED);
    assert!(pod.containers[0].is_ready());
    pod.probed(0, Kind::Readiness, &failed());
    assert!(!pod.containers[0].is_ready());
}

#[test]
fn container_that_cannot_be_started_backs_off_like_one_that_crashed() {
    let mut pod = plain("Always");
    for at in [0, 0] {
        assert_eq!(pod.plan(second(at)).actions, [Action::Start(0)]);
        pod.containers[0].failed_to_start("no such file".into(), second(at));
    }
    assert_eq!(pod.plan(second(0)).wake_at, Some(second(10)));
    assert_eq!(pod.containers[0].restarts, 1);
}
