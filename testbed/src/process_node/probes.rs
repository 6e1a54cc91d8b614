//! Startup, liveness and readiness probes of one run of a container.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::check::{Check, Checker};

/// How long a probe that has not passed yet is repeated quickly; see [`Prober::first`].
const EAGER_PAUSE: Duration = Duration::from_millis(10);
const EAGER_PAUSE_MAX: Duration = Duration::from_millis(160);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A result that counts: the threshold is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed {
        message: String,
        /// The probe's own terminationGracePeriodSeconds.
        grace: Option<Duration>,
    },
}

/// Counts results of one probe until a threshold is reached, as the kubelet does.
#[derive(Debug, Clone)]
pub struct Counter {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    streak: u32,
}

impl Counter {
    pub fn new(probe: &Probe) -> Self {
        let positive =
            |n: Option<i32>, default| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        Self {
            success_threshold: positive(probe.success_threshold, 1).max(1),
            failure_threshold: positive(probe.failure_threshold, 3).max(1),
            last: None,
            streak: 0,
        }
    }

    /// Takes one result; true when enough in a row say the same.
    pub fn counts(&mut self, passed: bool) -> bool {
        if self.last == Some(passed) {
            self.streak = self.streak.saturating_add(1);
        } else {
            self.last = Some(passed);
            self.streak = 1;
        }
        let needed = if passed {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        self.streak >= needed
    }
}

/// Runs the probes of `container` until it is dropped; `report` gets each verdict that differs from
/// the one before, and returns when it is delivered.
pub async fn run<F, R>(container: &Container, checker: Arc<Checker>, report: F)
where
    F: Fn(Kind, Verdict) -> R,
    R: Future<Output = ()>,
{
    let prober = |kind, probe: &Option<Probe>| {
        let probe = probe.as_ref()?;
        let checker = Arc::clone(&checker);
        Some(Prober::new(kind, probe, container, checker))
    };
    if let Some(mut startup) = prober(Kind::Startup, &container.startup_probe) {
        startup.until_passed(&report).await;
    }
    let liveness = prober(Kind::Liveness, &container.liveness_probe);
    let readiness = prober(Kind::Readiness, &container.readiness_probe);
    join(for_ever(liveness, &report), for_ever(readiness, &report)).await;
}

async fn for_ever<F, R>(prober: Option<Prober>, report: &F)
where
    F: Fn(Kind, Verdict) -> R,
    R: Future<Output = ()>,
{
    if let Some(prober) = prober {
        prober.for_ever(report).await;
    }
}

struct Prober {
    kind: Kind,
    check: Check,
    checker: Arc<Checker>,
    counter: Counter,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    grace: Option<Duration>,
}

impl Prober {
    fn new(kind: Kind, probe: &Probe, container: &Container, checker: Arc<Checker>) -> Self {
        let seconds = |n: Option<i32>, default| {
            let n = n.and_then(|n| u64::try_from(n).ok()).unwrap_or(default);
            Duration::from_secs(n)
        };
        let grace = probe.termination_grace_period_seconds;
        Self {
            kind,
            check: Check::of_probe(probe, container),
            checker,
            counter: Counter::new(probe),
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            grace: grace.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))),
        }
    }

    async fn attempt(&self) -> Result<(), String> {
        match timeout(self.timeout, self.checker.check(&self.check)).await {
            Ok(result) => result.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    /// The first period: a process needs some milliseconds before it listens, and a whole period
    /// (1 s at least) lost to that would make every pod slow. Failures do not count here, so it is
    /// as if the kubelet's first probe had come at a lucky moment.
    async fn first(&mut self) -> bool {
        sleep(self.initial_delay).await;
        let eager = async {
            let mut pause = EAGER_PAUSE;
            while self.attempt().await.is_err() {
                sleep(pause).await;
                pause = (2 * pause).min(EAGER_PAUSE_MAX);
            }
        };
        let passed = timeout(self.period, eager).await.is_ok();
        passed && self.counter.counts(true)
    }

    /// Startup: ends with the first pass.
    async fn until_passed<F, R>(&mut self, report: &F)
    where
        F: Fn(Kind, Verdict) -> R,
        R: Future<Output = ()>,
    {
        let mut passed = self.first().await;
        let mut ticks = ticks(self.period);
        while !passed {
            ticks.tick().await;
            let result = self.attempt().await;
            passed = result.is_ok();
            let counts = self.counter.counts(passed);
            if let Err(message) = result
                && counts
            {
                report(self.kind, self.failed(message)).await;
            }
        }
        report(self.kind, Verdict::Passed).await;
    }

    async fn for_ever<F, R>(mut self, report: &F)
    where
        F: Fn(Kind, Verdict) -> R,
        R: Future<Output = ()>,
    {
        let mut passing = self.kind == Kind::Liveness;
        if passing {
            sleep(self.initial_delay + self.period).await;
        } else if self.first().await {
            passing = true;
            report(self.kind, Verdict::Passed).await;
            sleep(self.period).await;
        }
        let mut ticks = ticks(self.period);
        loop {
            ticks.tick().await;
            let result = self.attempt().await;
            if !self.counter.counts(result.is_ok()) || result.is_ok() == passing {
                continue;
            }
            passing = result.is_ok();
            let verdict = match result {
                Ok(()) => Verdict::Passed,
                Err(message) => self.failed(message),
            };
            report(self.kind, verdict).await;
        }
    }

    fn failed(&self, message: String) -> Verdict {
        Verdict::Failed {
            message,
            grace: self.grace,
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(success_threshold: i32, failure_threshold: i32) -> Counter {
        Counter::new(&Probe {
            success_threshold: Some(success_threshold),
            failure_threshold: Some(failure_threshold),
            ..Probe::default()
        })
    }

    #[test]
    fn one_pass_counts_by_default_and_three_failures() {
        let mut counter = Counter::new(&Probe::default());
        assert!(counter.counts(true));
        let failures: Vec<bool> = (0..4).map(|_| counter.counts(false)).collect();
        assert_eq!(failures, [false, false, true, true]);
    }

    #[test]
    fn a_pass_between_failures_starts_the_count_anew() {
        let mut counter = counter(1, 2);
        assert!(!counter.counts(false));
        assert!(counter.counts(true));
        assert!(!counter.counts(false));
        assert!(counter.counts(false));
    }

    #[test]
    fn success_threshold_wants_passes_in_a_row() {
        let mut counter = counter(2, 1);
        assert!(!counter.counts(true));
        assert!(counter.counts(false));
        assert!(!counter.counts(true));
        assert!(counter.counts(true));
    }
}
