//! A pod's status as a kubelet writes it. Pure.

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::downward::Addresses;
use super::lifecycle::PodState;
use super::state::{Container, Ended, Phase, Role};

/// What the status says beside the state of the containers.
#[derive(Debug)]
pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub addresses: Addresses,
    /// When this node saw the pod first.
    pub start_time: Timestamp,
    /// The volumes are there.
    pub mounted: bool,
}

/// The status at `now`; conditions that are as in `before` keep their times.
pub fn build(
    facts: &Facts<'_>,
    state: &PodState,
    before: Option<&PodStatus>,
    now: Timestamp,
) -> PodStatus {
    let spec = facts.pod.spec.clone().unwrap_or_default();
    let statuses = |specs: &[Spec], apps: bool| -> Vec<ContainerStatus> {
        let matching = state
            .containers
            .iter()
            .filter(|c| (c.role == Role::App) == apps);
        matching
            .zip(specs)
            .map(|(container, spec)| container_status(facts, state, container, spec))
            .collect()
    };
    let init = statuses(spec.init_containers.as_deref().unwrap_or_default(), false);
    let (pod_ip, host_ip) = (
        facts.addresses.pod.to_string(),
        facts.addresses.host.to_string(),
    );
    PodStatus {
        phase: Some(phase(state).to_owned()),
        conditions: Some(conditions(facts, state, before, now)),
        container_statuses: Some(statuses(&spec.containers, true)),
        init_container_statuses: Some(init).filter(|i| !i.is_empty()),
        observed_generation: facts.pod.metadata.generation,
        start_time: Some(Time(facts.start_time)),
        host_ip: Some(host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: host_ip }]),
        pod_ip: Some(pod_ip.clone()),
        pod_ips: Some(vec![PodIP { ip: pod_ip }]),
        ..PodStatus::default()
    }
}

/// The kubelet's `getPhase`, and the last word on a pod that was told to end.
pub fn phase(state: &PodState) -> &'static str {
    let codes = || {
        state.apps().filter_map(|c| match &c.phase {
            Phase::Ended(ended) => Some(ended.code),
            _ => None,
        })
    };
    let outcome = || {
        if codes().all(|code| code == 0) {
            "Succeeded"
        } else {
            "Failed"
        }
    };
    let all_ended = codes().count() == state.apps().count();
    if state.shutdown.is_some() && state.is_down() {
        return if all_ended && state.initialized {
            outcome()
        } else {
            "Failed"
        };
    }
    if !state.initialized {
        return if state.finished() {
            "Failed"
        } else {
            "Pending"
        };
    }
    if state.finished() {
        return outcome();
    }
    let never_ran = |c: &Container| matches!(c.phase, Phase::Waiting { .. }) && c.last.is_none();
    if state.apps().any(never_ran) {
        "Pending"
    } else {
        "Running"
    }
}

fn container_status(
    facts: &Facts<'_>,
    state: &PodState,
    container: &Container,
    spec: &Spec,
) -> ContainerStatus {
    let uid = facts.pod.metadata.uid.as_deref().unwrap_or_default();
    let id = |run: u32| format!("process://{uid}/{}/{run}", container.name);
    let current = (container.run > 0).then(|| id(container.run));
    let previous = id(container.run.saturating_sub(1));
    let (now, last) = match &container.phase {
        Phase::Waiting {
            reason, message, ..
        } => (
            waiting(reason, message.clone()),
            container.last.as_ref().map(|e| terminated(e, &previous)),
        ),
        Phase::Running(running) => {
            let running = ContainerStateRunning {
                started_at: Some(Time(running.since)),
            };
            let now = ContainerState {
                running: Some(running),
                ..ContainerState::default()
            };
            (
                now,
                container.last.as_ref().map(|e| terminated(e, &previous)),
            )
        }
        Phase::Ended(ended) if state.restarts(container, ended) => {
            let message = back_off_message(facts.pod, container, ended);
            let now = waiting("CrashLoopBackOff", Some(message));
            (now, Some(terminated(ended, &id(container.run))))
        }
        Phase::Ended(ended) => (
            terminated(ended, &id(container.run)),
            container.last.as_ref().map(|e| terminated(e, &previous)),
        ),
    };
    let started = matches!(&container.phase, Phase::Running(r) if r.started);
    // A finished init container counts as ready.
    let done = container.role == Role::Init
        && matches!(&container.phase, Phase::Ended(ended) if ended.code == 0);
    ContainerStatus {
        name: container.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        image_id: spec.image.clone().unwrap_or_default(),
        container_id: current,
        ready: container.is_ready() || done,
        started: Some(started),
        restart_count: container.restarts,
        state: Some(now),
        last_state: last,
        ..ContainerStatus::default()
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    }
}

fn terminated(ended: &Ended, id: &str) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(id.to_owned()),
            exit_code: ended.code,
            reason: Some(ended.reason.to_owned()),
            message: ended.message.clone(),
            started_at: Some(Time(ended.started_at)),
            finished_at: Some(Time(ended.finished_at)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// The kubelet's words.
pub fn back_off_message(pod: &Pod, container: &Container, ended: &Ended) -> String {
    let meta = &pod.metadata;
    format!(
        "back-off {}s restarting failed container={} pod={}_{}({})",
        container.backoff.delay(ended.finished_at).as_secs(),
        container.name,
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    )
}

fn conditions(
    facts: &Facts<'_>,
    state: &PodState,
    before: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let pod = facts.pod;
    let mut conditions = vec![
        condition("PodReadyToStartContainers", mounted(facts)),
        condition("Initialized", initialized(state)),
        condition("Ready", ready(pod, state)),
        condition("ContainersReady", containers_ready(state)),
        condition("PodScheduled", Ok(())),
    ];
    let known = before.and_then(|s| s.conditions.as_ref());
    for condition in &mut conditions {
        let same = known.into_iter().flatten().find(|c| {
            c.type_ == condition.type_
                && c.status == condition.status
                && c.reason == condition.reason
        });
        condition.last_transition_time = match same {
            Some(same) => same.last_transition_time.clone(),
            None => Some(Time(now)),
        };
        condition.observed_generation = pod.metadata.generation;
    }
    conditions
}

type Verdict = Result<(), (&'static str, String)>;

fn condition(type_: &str, verdict: Verdict) -> PodCondition {
    let status = if verdict.is_ok() { "True" } else { "False" };
    let (reason, message) = verdict.err().unzip();
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message: message.filter(|m| !m.is_empty()),
        ..PodCondition::default()
    }
}

fn mounted(facts: &Facts<'_>) -> Verdict {
    if facts.mounted {
        Ok(())
    } else {
        Err(("VolumesNotMounted", "volumes are not there yet".into()))
    }
}

fn initialized(state: &PodState) -> Verdict {
    if state.initialized {
        return Ok(());
    }
    let incomplete = names(state, |c| c.role != Role::App && !c.is_ready());
    let message = format!("containers with incomplete status: {incomplete}");
    Err(("ContainersNotInitialized", message))
}

fn containers_ready(state: &PodState) -> Verdict {
    match phase(state) {
        "Succeeded" => return Err(("PodCompleted", String::new())),
        "Failed" => return Err(("PodFailed", String::new())),
        _ => {}
    }
    let unready = |c: &Container| c.role != Role::Init && !c.is_ready();
    if !state.containers.iter().any(unready) {
        return Ok(());
    }
    let message = format!("containers with unready status: {}", names(state, unready));
    Err(("ContainersNotReady", message))
}

fn ready(pod: &Pod, state: &PodState) -> Verdict {
    containers_ready(state)?;
    let gates = pod.spec.iter().flat_map(|s| &s.readiness_gates).flatten();
    let known = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    for gate in gates {
        let mut met = known.into_iter().flatten();
        if !met.any(|c| c.type_ == gate.condition_type && c.status == "True") {
            let message = format!(
                "the status of pod readiness gate {:?} is not \"True\"",
                gate.condition_type
            );
            return Err(("ReadinessGatesNotReady", message));
        }
    }
    Ok(())
}

/// `[a b]`, as the kubelet writes lists.
fn names(state: &PodState, which: impl Fn(&Container) -> bool) -> String {
    let names = state.containers.iter().filter(|c| which(c));
    let names: Vec<&str> = names.map(|c| c.name.as_str()).collect();
    format!("[{}]", names.join(" "))
}

/// Whether a pod with this status never runs again.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether restarts of the pod's containers are counted on from an earlier life of the node.
pub fn earlier_restarts(pod: &Pod, container: &str) -> Option<i32> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let all = init.chain(status.container_statuses.iter().flatten());
    let status = all.into_iter().find(|s| s.name == container)?;
    let ran = status.container_id.is_some();
    ran.then_some(status.restart_count + 1)
}

#[cfg(test)]
mod tests;
