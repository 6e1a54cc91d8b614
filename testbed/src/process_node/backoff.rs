//! The kubelet's restart back-off: at once, then 10 s, 20 s, 40 s … up to 5 minutes.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// The kubelet's `MaxContainerBackOff`.
const MAX: Duration = Duration::from_secs(300);

/// How long one container of one pod has to wait before it runs again.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    current: Duration,
    restarted_at: Option<Timestamp>,
}

impl Backoff {
    /// `base` is the delay before the second restart; the first comes at once. The kubelet's is 10 s.
    pub fn new(base: Duration) -> Self {
        Self {
            base,
            current: Duration::ZERO,
            restarted_at: None,
        }
    }

    /// When a container that ended at `ended` may run again.
    pub fn due(&self, ended: Timestamp) -> Timestamp {
        after(ended, self.delay(ended))
    }

    /// The delay after an end at `ended`. A container that ran twice the longest delay starts anew.
    pub fn delay(&self, ended: Timestamp) -> Duration {
        match self.restarted_at {
            Some(at) if ended <= after(at, 2 * MAX) => self.current,
            _ => Duration::ZERO,
        }
    }

    /// Notes a restart at `now` of a container that had ended at `ended`.
    pub fn restarted(&mut self, ended: Timestamp, now: Timestamp) {
        let delay = self.delay(ended);
        self.current = if delay.is_zero() {
            self.base.min(MAX)
        } else {
            (2 * delay).min(MAX)
        };
        self.restarted_at = Some(now);
    }
}

/// `at + duration`, held at the end of time.
pub fn after(at: Timestamp, duration: Duration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap()
    }

    #[test]
    fn first_restart_is_immediate_and_delays_double_up_to_five_minutes() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let mut now = second(0);
        let mut delays = Vec::new();
        for _ in 0..8 {
            delays.push(backoff.delay(now).as_secs());
            let due = backoff.due(now);
            backoff.restarted(now, due);
            now = after(due, Duration::from_secs(1));
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn container_that_ran_well_for_ten_minutes_restarts_at_once() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        backoff.restarted(second(0), second(0));
        assert_eq!(backoff.due(second(600)), second(610));
        assert_eq!(backoff.due(second(601)), second(601));
    }
}
