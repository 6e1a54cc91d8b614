//! Liveness and readiness as named checks, so that `/readyz` says what is wrong.

use std::{
    fmt,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Health(Arc<Checks>);

#[derive(Default)]
struct Checks {
    live: RwLock<Vec<(&'static str, Check)>>,
    ready: RwLock<Vec<(&'static str, Check)>>,
}

impl Health {
    /// Adds a check of `/livez`: failing it gets the process restarted.
    pub fn live(
        &self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        push(&self.0.live, name, Box::new(check));
    }

    /// Adds a check of `/readyz`: failing it takes the process out of service.
    pub fn ready(
        &self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        push(&self.0.ready, name, Box::new(check));
    }

    /// Adds a check of `/livez` that fails when a loop has not called [`Pulse::beat`] for `limit`.
    pub fn pulse(&self, name: &'static str, limit: Duration) -> Pulse {
        let pulse = Pulse::new();
        let watched = pulse.clone();
        self.live(name, move || {
            let silent = watched.silence();
            if silent <= limit {
                Ok(())
            } else {
                Err(format!("no progress for {} s", silent.as_secs()))
            }
        });
        pulse
    }

    /// What fails of `/livez`, as `name: reason`.
    pub fn liveness(&self) -> Result<(), Vec<String>> {
        verdict(&self.0.live)
    }

    /// What fails of `/readyz`, as `name: reason`.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        verdict(&self.0.ready)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("live", &self.liveness())
            .field("ready", &self.readiness())
            .finish()
    }
}

fn push(checks: &RwLock<Vec<(&'static str, Check)>>, name: &'static str, check: Check) {
    checks
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .push((name, check));
}

fn verdict(checks: &RwLock<Vec<(&'static str, Check)>>) -> Result<(), Vec<String>> {
    let failures: Vec<String> = checks
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .iter()
        .filter_map(|(name, check)| check().err().map(|reason| format!("{name}: {reason}")))
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures)
    }
}

/// Proof that a loop still turns.
#[derive(Clone, Debug)]
pub struct Pulse {
    started: Instant,
    beat_ms: Arc<AtomicU64>,
}

impl Pulse {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            beat_ms: Arc::default(),
        }
    }

    /// The loop made progress now.
    pub fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat_ms.store(now, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.started
            .elapsed()
            .saturating_sub(Duration::from_millis(self.beat_ms.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_check_is_named_and_does_not_hide_the_others() {
        let health = Health::default();
        health.ready("queue", || Err("connection refused".into()));
        health.ready("cache", || Ok(()));
        health.ready("model", || Err("loading".into()));
        assert_eq!(
            health.readiness(),
            Err(vec![
                "queue: connection refused".to_owned(),
                "model: loading".to_owned()
            ])
        );
        assert_eq!(health.liveness(), Ok(()));
    }

    #[test]
    fn a_loop_that_stopped_fails_liveness() {
        let health = Health::default();
        let pulse = health.pulse("loop", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert!(health.liveness().is_err());
        let patient = Health::default();
        patient.pulse("loop", Duration::from_secs(60)).beat();
        assert_eq!(patient.liveness(), Ok(()));
        drop(pulse);
    }
}
