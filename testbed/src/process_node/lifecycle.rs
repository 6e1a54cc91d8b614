//! What a pod's containers have to do next. Pure: the rules of the kubelet that this node keeps.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::backoff::after;
use super::probes::{Kind, Verdict};
use super::state::{Container, Ended, Phase, Retry, Role};

/// A sidecar gets at least this long to stop, as from the kubelet.
const SIDECAR_MINIMUM_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// The containers of one pod: init containers in their order, then the others.
#[derive(Debug, Clone)]
pub struct PodState {
    pub containers: Vec<Container>,
    pub policy: RestartPolicy,
    /// All init containers have done their part once.
    pub initialized: bool,
    /// The pod shall end; no container lives past this time.
    pub shutdown: Option<Timestamp>,
    grace: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Start(usize),
    /// SIGTERM (after the preStop hook), SIGKILL at the time.
    Terminate(usize, Timestamp),
    Kill(usize),
}

/// What to do now, and when to ask again if nothing happens before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

impl PodState {
    /// The state before anything was started.
    pub fn new(pod: &Pod, backoff: Duration) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.iter().flatten().map(|c| {
            let sidecar = c.restart_policy.as_deref() == Some("Always");
            (c, if sidecar { Role::Sidecar } else { Role::Init })
        });
        let apps = spec.containers.iter().map(|c| (c, Role::App));
        let containers = init.chain(apps);
        let grace = spec.termination_grace_period_seconds.unwrap_or(30);
        Self {
            containers: containers
                .map(|(c, role)| Container::new(c, role, backoff))
                .collect(),
            policy: match spec.restart_policy.as_deref() {
                Some("OnFailure") => RestartPolicy::OnFailure,
                Some("Never") => RestartPolicy::Never,
                _ => RestartPolicy::Always,
            },
            initialized: false,
            shutdown: None,
            grace: Duration::from_secs(u64::try_from(grace).unwrap_or(0)),
        }
    }

    /// Whether an ended container runs again.
    pub fn restarts(&self, container: &Container, ended: &Ended) -> bool {
        if self.shutdown.is_some() {
            return false;
        }
        match (container.role, self.policy) {
            (Role::Sidecar, _) => !self.finished(),
            (Role::App, RestartPolicy::Always) => true,
            (Role::Init, RestartPolicy::Never) | (Role::App, RestartPolicy::Never) => false,
            (Role::Init, _) | (Role::App, RestartPolicy::OnFailure) => ended.code != 0,
        }
    }

    /// The pod has run to its end: nothing but sidecars can still run.
    pub fn finished(&self) -> bool {
        let stuck = |c: &Container| match &c.phase {
            Phase::Ended(e) => c.role == Role::Init && e.code != 0,
            _ => false,
        };
        if self.policy == RestartPolicy::Never && self.containers.iter().any(stuck) {
            return true;
        }
        let over = |c: &Container| match (&c.phase, self.policy) {
            (Phase::Ended(_), RestartPolicy::Never) => true,
            (Phase::Ended(e), RestartPolicy::OnFailure) => e.code == 0,
            _ => false,
        };
        self.apps().all(over)
    }

    pub fn apps(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| c.role == Role::App)
    }

    /// No process is left.
    pub fn is_down(&self) -> bool {
        !self.containers.iter().any(Container::is_running)
    }

    /// Ends the pod; a later call can only shorten the time.
    pub fn shut_down(&mut self, kill_at: Timestamp) {
        self.shutdown = Some(
            self.shutdown
                .map_or(kill_at, |earlier| earlier.min(kill_at)),
        );
    }

    /// What to do at `now`.
    pub fn plan(&mut self, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if self.shutdown.is_some() || self.finished() {
            self.plan_stop(now, &mut plan);
        } else {
            self.plan_init(now, &mut plan);
            if self.initialized {
                for (index, container) in self.containers.iter().enumerate() {
                    if container.role == Role::App {
                        self.plan_start(index, container, now, &mut plan);
                    }
                }
            }
        }
        for (index, container) in self.containers.iter().enumerate() {
            container.plan_end(index, now, &mut plan);
        }
        plan
    }

    fn plan_init(&mut self, now: Timestamp, plan: &mut Plan) {
        for (index, container) in self.containers.iter().enumerate() {
            let done = match container.role {
                Role::App => break,
                Role::Init if self.initialized => true,
                Role::Init => matches!(&container.phase, Phase::Ended(e) if e.code == 0),
                Role::Sidecar => matches!(&container.phase, Phase::Running(r) if r.started),
            };
            if !done {
                self.plan_start(index, container, now, plan);
                if !self.initialized {
                    return;
                }
            }
        }
        self.initialized = true;
    }

    fn plan_start(&self, index: usize, container: &Container, now: Timestamp, plan: &mut Plan) {
        let due = match &container.phase {
            Phase::Running(_) => return,
            Phase::Waiting { retry, .. } => match retry {
                Retry::Now => now,
                Retry::At(at) => *at,
                Retry::Never => return,
            },
            Phase::Ended(ended) if self.restarts(container, ended) => {
                container.backoff.due(ended.finished_at)
            }
            Phase::Ended(_) => return,
        };
        if due <= now {
            plan.actions.push(Action::Start(index));
        } else {
            plan.wake(due);
        }
    }

    /// Apps and init containers first; then the sidecars, one after the other, last started first.
    fn plan_stop(&mut self, now: Timestamp, plan: &mut Plan) {
        let kill_at = self.shutdown.unwrap_or_else(|| after(now, self.grace));
        let others = |c: &Container| c.is_running() && c.role != Role::Sidecar;
        let any_other = self.containers.iter().any(others);
        let last_sidecar = self.containers.iter().rposition(Container::is_running);
        for (index, container) in self.containers.iter_mut().enumerate() {
            let sidecar = container.role == Role::Sidecar;
            let turn = if any_other {
                !sidecar
            } else {
                Some(index) == last_sidecar
            };
            let Phase::Running(running) = &mut container.phase else {
                continue;
            };
            if !turn {
                continue;
            }
            match &mut running.stopping {
                Some(stopping) if self.shutdown.is_some() && !sidecar => {
                    stopping.kill_at = stopping.kill_at.min(kill_at);
                }
                Some(_) => {}
                None if sidecar => {
                    let at = kill_at.max(after(now, SIDECAR_MINIMUM_GRACE));
                    plan.actions.push(Action::Terminate(index, at));
                }
                None => plan.actions.push(Action::Terminate(index, kill_at)),
            }
        }
    }

    /// Takes news of a probe of the current run.
    pub fn probed(&mut self, index: usize, kind: Kind, verdict: &Verdict) {
        let grace = self.grace;
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let has_readiness_probe = container.has_readiness_probe;
        let Phase::Running(running) = &mut container.phase else {
            return;
        };
        match (kind, verdict) {
            (Kind::Startup, Verdict::Passed) => {
                running.started = true;
                running.ready = !has_readiness_probe;
            }
            (Kind::Readiness, _) => running.ready = *verdict == Verdict::Passed,
            (Kind::Liveness, Verdict::Passed) => {}
            (Kind::Startup | Kind::Liveness, Verdict::Failed { grace: own, .. }) => {
                if running.stopping.is_none() {
                    running.unhealthy = Some(own.unwrap_or(grace));
                }
            }
        }
    }
}

impl Container {
    fn plan_end(&self, index: usize, now: Timestamp, plan: &mut Plan) {
        let Phase::Running(running) = &self.phase else {
            return;
        };
        match (running.stopping, running.unhealthy) {
            (Some(stopping), _) if stopping.killed => {}
            (Some(stopping), _) if stopping.kill_at <= now => {
                plan.actions.push(Action::Kill(index));
            }
            (Some(stopping), _) => plan.wake(stopping.kill_at),
            (None, Some(grace)) => {
                let planned = |a: &Action| matches!(a, Action::Terminate(i, _) if *i == index);
                if !plan.actions.iter().any(planned) {
                    plan.actions
                        .push(Action::Terminate(index, after(now, grace)));
                }
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests;
