//! The state of one container, and how it moves on. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container as Spec;
use k8s_openapi::jiff::Timestamp;

use super::backoff::Backoff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next container starts.
    Init,
    /// An init container with `restartPolicy: Always`: must have started before the next one starts.
    Sidecar,
    App,
}

/// When a waiting container may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    Now,
    At(Timestamp),
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Waiting {
        reason: &'static str,
        message: Option<String>,
        retry: Retry,
    },
    Running(Running),
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub pid: i32,
    pub since: Timestamp,
    /// Its startup probe has passed, or it has none.
    pub started: bool,
    pub ready: bool,
    /// A startup or liveness probe gave up on it; the grace it gets.
    pub unhealthy: Option<Duration>,
    pub stopping: Option<Stopping>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping {
    pub kill_at: Timestamp,
    pub killed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// 128 + signal for one that was killed, as container runtimes say it.
    pub code: i32,
    pub reason: &'static str,
    pub message: Option<String>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct Container {
    pub name: String,
    pub role: Role,
    pub phase: Phase,
    /// How the run before this one ended.
    pub last: Option<Ended>,
    pub restarts: i32,
    /// Counts every run, so that late news of an old one is told apart.
    pub run: u32,
    pub backoff: Backoff,
    pub has_startup_probe: bool,
    pub has_readiness_probe: bool,
}

impl Container {
    /// Before its first run.
    pub fn new(spec: &Spec, role: Role, backoff: Duration) -> Self {
        Self {
            name: spec.name.clone(),
            role,
            phase: Phase::Waiting {
                reason: "ContainerCreating",
                message: None,
                retry: Retry::Now,
            },
            last: None,
            restarts: 0,
            run: 0,
            backoff: Backoff::new(backoff),
            has_startup_probe: spec.startup_probe.is_some(),
            has_readiness_probe: spec.readiness_probe.is_some(),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    pub fn is_ready(&self) -> bool {
        matches!(&self.phase, Phase::Running(r) if r.ready)
    }

    /// Its process runs as `pid` since `now`.
    pub fn started(&mut self, pid: i32, now: Timestamp) {
        self.begin_run(now);
        let started = !self.has_startup_probe;
        self.phase = Phase::Running(Running {
            pid,
            since: now,
            started,
            ready: started && !self.has_readiness_probe,
            unhealthy: None,
            stopping: None,
        });
    }

    /// Its process could not be made; counts as a run that ended at once.
    pub fn failed_to_start(&mut self, message: String, now: Timestamp) {
        self.begin_run(now);
        self.phase = Phase::Ended(Ended {
            code: 128,
            reason: "StartError",
            message: Some(message),
            started_at: now,
            finished_at: now,
        });
    }

    fn begin_run(&mut self, now: Timestamp) {
        self.run += 1;
        if let Phase::Ended(ended) = &self.phase {
            self.backoff.restarted(ended.finished_at, now);
            self.last = Some(ended.clone());
            self.restarts += 1;
        }
    }

    /// Its process has ended with `code`.
    pub fn ended(&mut self, code: i32, message: Option<String>, now: Timestamp) {
        if let Phase::Running(running) = &self.phase {
            self.phase = Phase::Ended(Ended {
                code,
                reason: if code == 0 { "Completed" } else { "Error" },
                message,
                started_at: running.since,
                finished_at: now,
            });
        }
    }
}
