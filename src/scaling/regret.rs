//! Shrinks that were regretted.

use std::time::Duration;

use jiff::Timestamp;

use super::behavior::after;

/// Time between two shrinks, so that what goes step by step goes in few steps.
const PAUSE: Duration = Duration::from_secs(5);
/// A shrink is regretted if the pool grows again within so many idle timeouts.
const SOON: u32 = 10;
/// Each regret in a row makes a pool keep small differences so many times longer.
const FACTOR: u32 = 4;
/// Regrets in a row that count.
const MOST: u32 = 3;

/// Under a load that is constant but for chance, a pool at the edge of two sizes would go back and
/// forth with every idle timeout. One that grew soon after it had shrunk was too hasty, and keeps a
/// worker or a quarter too many for 4, 16, then 64 idle timeouts. Larger shrinks, and the last one to
/// nothing, are not held up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regret {
    shrunk_at: Option<Timestamp>,
    count: u32,
    keep_until: Option<Timestamp>,
}

impl Regret {
    /// Until when a pool of `size` keeps its workers, though `wanted` would do.
    pub fn keeps(&self, now: Timestamp, size: u32, wanted: u32) -> Option<Timestamp> {
        let small = is_small_shrink(size, wanted);
        self.keep_until.filter(|until| small && now < *until)
    }

    /// When the pool may shrink again after the last step.
    pub fn next_step(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.shrunk_at.map(|at| after(at, PAUSE));
        next.filter(|next| now < *next)
    }

    /// The pool shrinks.
    pub const fn shrunk(&mut self, now: Timestamp) {
        self.shrunk_at = Some(now);
    }

    /// The pool grows.
    pub fn grew(&mut self, now: Timestamp, idle_timeout: Duration) {
        let kept = idle_timeout * FACTOR.pow(self.count);
        let soon = kept.max(idle_timeout * SOON);
        match self.shrunk_at.take() {
            Some(at) if now < after(at, soon) => {
                self.count = (self.count + 1).min(MOST);
                self.keep_until = Some(after(now, idle_timeout * FACTOR.pow(self.count)));
            }
            _ if self.keep_until.is_none_or(|until| until < now) => self.count = 0,
            _ => {}
        }
    }
}

/// A worker or a quarter less, and not the last one: it saves little, and is often needed again.
pub fn is_small_shrink(size: u32, wanted: u32) -> bool {
    wanted > 0 && wanted < size && size - wanted <= (size / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn a_pool_that_grew_again_soon_keeps_small_differences_longer_each_time() {
        let mut regret = Regret::default();
        assert_eq!(regret.keeps(at(0), 8, 7), None);
        regret.shrunk(at(0));
        regret.grew(at(100), IDLE);
        assert_eq!(regret.keeps(at(100), 8, 7), Some(at(220)));
        assert_eq!(regret.keeps(at(220), 8, 7), None);
        regret.shrunk(at(220));
        regret.grew(at(300), IDLE);
        assert_eq!(regret.keeps(at(300), 8, 7), Some(at(780)));
        regret.grew(at(10_000), IDLE);
        regret.shrunk(at(10_000));
        regret.grew(at(10_100), IDLE);
        assert_eq!(
            regret.keeps(at(10_100), 8, 7),
            Some(at(10_220)),
            "a quiet time forgives"
        );
    }

    #[test]
    fn large_shrinks_and_the_last_worker_are_not_held_up() {
        let mut regret = Regret::default();
        regret.shrunk(at(0));
        regret.grew(at(10), IDLE);
        assert!(regret.keeps(at(20), 8, 6).is_some());
        assert_eq!(regret.keeps(at(20), 8, 5), None);
        assert_eq!(regret.keeps(at(20), 1, 0), None);
    }
}
