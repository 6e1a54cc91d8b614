//! When an idle worker may help other pools. Pure.

use std::time::{Duration, Instant};

/// How long its own pool must have had nothing for it.
const IDLE: Duration = Duration::from_millis(50);
/// How often it looks after that: the bells of other pools are for their own workers.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a worker knows of its idleness.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stealing {
    /// Since when its own pool has nothing for it. Tasks of other pools do not change that.
    idle_since: Option<Instant>,
}

impl Stealing {
    /// A take found (or did not find) tasks of the own pool.
    pub fn note(&mut self, found_own: bool, now: Instant) {
        if found_own {
            self.idle_since = None;
        } else {
            self.idle_since.get_or_insert(now);
        }
    }

    /// Whether it may take tasks of others: one slot stays free for the own pool.
    pub fn allowed(&self, free: u32, now: Instant) -> bool {
        free > 1
            && self
                .idle_since
                .is_some_and(|since| now.saturating_duration_since(since) >= IDLE)
    }

    /// When to look for tasks of others the next time; none while no slot is to spare.
    pub fn next_look(&self, free: u32, now: Instant) -> Option<Duration> {
        let idle = now.saturating_duration_since(self.idle_since?);
        (free > 1).then(|| {
            let rest = IDLE.saturating_sub(idle);
            if rest.is_zero() { LOOK_EVERY } else { rest }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tasks_come_first_and_one_slot_stays_free() {
        let start = Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        let mut stealing = Stealing::default();
        assert!(!stealing.allowed(4, later(1000)));
        stealing.note(false, start);
        assert!(!stealing.allowed(4, later(49)));
        assert_eq!(
            stealing.next_look(4, later(20)),
            Some(Duration::from_millis(30))
        );
        assert!(stealing.allowed(4, later(50)));
        assert!(!stealing.allowed(1, later(50)));
        assert_eq!(stealing.next_look(1, later(50)), None);
        stealing.note(false, later(60));
        assert!(stealing.allowed(2, later(60)));
        assert_eq!(stealing.next_look(2, later(60)), Some(LOOK_EVERY));
        stealing.note(true, later(70));
        assert!(!stealing.allowed(4, later(1000)));
    }
}
