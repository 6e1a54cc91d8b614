//! How much the number of tasks in a pool varies, beside what tasks that come at random would do.

/// Time that the variance looks back on, in seconds.
const MEMORY: f64 = 300.0;
/// Independent looks before anything is said. The number of tasks in a pool forgets itself within
/// about two service times.
const LOOKS: f64 = 30.0;
/// Smaller loads, in tasks, vary too little in number to tell.
const LEAST_LOAD: f64 = 4.0;
/// What is answered: peakedness is held until it belongs to another step, so that sizes stand still.
const STEPS: [f64; 4] = [0.1, 0.3, 0.6, 1.0];

/// Peakedness: variance over mean of the number of tasks in a pool. 1 where tasks come at random and
/// nobody waits; near 0 where they come evenly, or where each client sends its next one when it has
/// its answer. By Hayward's approximation a load `a` with peakedness `z` needs `z` times the servers
/// that a random load of `a / z` needs (A. Fredericks, Congestion in Blocking Systems, Bell System
/// Technical Journal 59, 1980).
///
/// Only what lowers it is used, and only what is certain: a load that varies more is one whose rate
/// changes, which [`super::arrivals`] follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Peakedness {
    /// The last reading: (ms, tasks).
    last: Option<(u64, f64)>,
    /// Seconds behind the mean.
    seconds: f64,
    mean: f64,
    variance: f64,
    held: f64,
}

impl Default for Peakedness {
    fn default() -> Self {
        Self {
            last: None,
            seconds: 0.0,
            mean: 0.0,
            variance: 0.0,
            held: 1.0,
        }
    }
}

impl Peakedness {
    /// The tasks in the pool as of a moment, each of `service` seconds; the number before was there
    /// until then.
    pub fn count(&mut self, at_ms: u64, tasks: u64, service: f64) {
        if let Some((before, number)) = self.last
            && before < at_ms
        {
            let seconds = (at_ms - before) as f64 / 1000.0;
            self.seconds = (self.seconds + seconds).min(MEMORY.max(seconds));
            let share = seconds / self.seconds;
            let off = number - self.mean;
            self.mean += share * off;
            self.variance = (1.0 - share) * (self.variance + share * off * off);
        }
        self.last = Some((at_ms, tasks as f64));
        self.held = self.step(service);
    }

    /// Between 0 and 1.
    pub const fn value(&self) -> f64 {
        self.held
    }

    fn step(&self, service: f64) -> f64 {
        let looks = self.seconds / (2.0 * service);
        if looks < LOOKS || self.mean < LEAST_LOAD {
            return 1.0;
        }
        // Three standard errors of a variance above what was seen.
        let most = self.variance / self.mean * (1.0 + 3.0 * (2.0 / looks).sqrt());
        // Down only when well within a lower step.
        let slack = |step: f64| if step < self.held { 0.8 } else { 1.0 };
        let fits = STEPS.into_iter().find(|step| most <= step * slack(*step));
        fits.unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64, tasks: impl Fn(u64) -> u64) -> Peakedness {
        let mut peakedness = Peakedness::default();
        for tick in 0..seconds * 4 {
            peakedness.count(tick * 250, tasks(tick), 1.0);
        }
        peakedness
    }

    #[test]
    fn a_load_that_stands_still_has_none_once_it_was_seen_long_enough() {
        assert_eq!(after(50, |_| 10).value(), 1.0);
        assert_eq!(after(70, |_| 10).value(), 0.1);
        assert_eq!(after(300, |_| 3).value(), 1.0, "too few to tell");
    }

    #[test]
    fn a_load_that_varies_as_by_chance_or_more_counts_as_random() {
        // 10 +- 3.3: variance over mean 1.1.
        assert_eq!(after(300, |tick| 10 + tick % 12 - 5).value(), 1.0);
        assert_eq!(after(300, |tick| tick / 10).value(), 1.0);
    }

    #[test]
    fn a_change_is_seen_at_once_and_calm_only_when_it_lasts() {
        let mut peakedness = after(300, |_| 10);
        peakedness.count(300_000, 60, 1.0);
        peakedness.count(301_000, 60, 1.0);
        assert!(peakedness.value() > 0.3, "{peakedness:?}");
    }
}
