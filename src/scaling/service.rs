//! How long a pool's tasks take, from two counters.

/// Mean until tasks were measured, in seconds.
const PRIOR: f64 = 1.0;
/// Tasks that the prior counts for.
const PRIOR_WEIGHT: f64 = 2.0;
/// Tasks that the mean looks back on.
const MEMORY: f64 = 500.0;
/// Shortest mean that is believed, in seconds.
const FLOOR: f64 = 0.001;
/// Relative change below which the mean in use is kept; also 4 times the mean's own error.
const BAND: f64 = 0.1;

/// Mean service time of completed tasks; failed ones are in neither counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    completed: u64,
    sum_ms: u64,
    mean: f64,
    /// Variance of a task's time.
    variance: f64,
    /// Tasks behind the mean.
    weight: f64,
    held: f64,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            completed: 0,
            sum_ms: 0,
            mean: PRIOR,
            variance: PRIOR * PRIOR,
            weight: PRIOR_WEIGHT,
            held: PRIOR,
        }
    }
}

impl Service {
    /// Counts from here on; what was learned stays.
    pub const fn restart(&mut self, completed: u64, sum_ms: u64) {
        self.completed = completed;
        self.sum_ms = sum_ms;
    }

    /// The counters as of now: completed tasks and the sum of their service times.
    pub fn count(&mut self, completed: u64, sum_ms: u64) {
        let tasks = completed.saturating_sub(self.completed) as f64;
        let seconds = sum_ms.saturating_sub(self.sum_ms) as f64 / 1000.0;
        self.restart(completed, sum_ms);
        if tasks == 0.0 {
            return;
        }
        let off = seconds / tasks - self.mean;
        self.weight = (self.weight + tasks).min(MEMORY.max(tasks));
        let share = tasks / self.weight;
        self.mean += share * off;
        // The mean of n tasks lies off by the variance of one over n. Capped: the first tasks may be
        // far from the prior, which says nothing of how much they differ.
        let varied = (tasks * off * off).min(100.0 * self.mean * self.mean);
        self.variance += (1.0 / self.weight).min(0.1) * (varied - self.variance);
        let error = 4.0 * (self.variance / (2.0 * self.weight)).sqrt() / self.held;
        if (self.mean / self.held - 1.0).abs() > error.clamp(BAND, 0.5) {
            self.held = self.mean;
        }
    }

    /// Seconds a task takes on average.
    pub const fn seconds(&self) -> f64 {
        self.held.max(FLOOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_guess_until_tasks_were_measured() {
        let mut service = Service::default();
        service.restart(1000, 5_000_000);
        assert_eq!(service.seconds(), PRIOR);
        service.count(1000, 5_000_000);
        assert_eq!(service.seconds(), PRIOR);
        service.count(1040, 5_000_000 + 40 * 200);
        assert!((service.seconds() - 0.24).abs() < 0.01, "{service:?}");
    }

    #[test]
    fn never_is_nothing() {
        let mut service = Service::default();
        service.count(100_000, 0);
        assert_eq!(service.seconds(), FLOOR);
    }

    #[test]
    fn follows_a_lasting_change_and_not_single_tasks() {
        let mut service = Service::default();
        let (mut tasks, mut sum) = (0, 0);
        let mut run = |service: &mut Service, count: u64, ms: u64| {
            for _ in 0..count {
                (tasks, sum) = (tasks + 1, sum + ms);
                service.count(tasks, sum);
            }
        };
        run(&mut service, 1000, 900);
        let before = service.seconds();
        run(&mut service, 1, 3000);
        run(&mut service, 20, 900);
        assert_eq!(service.seconds(), before);
        run(&mut service, 2000, 300);
        assert!((service.seconds() - 0.3).abs() < 0.04, "{service:?}");
    }
}
