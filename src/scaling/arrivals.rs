//! The arrival rate of a pool, from a counter that is read now and then.

use std::collections::VecDeque;

/// Windows over which arrivals are compared with the rate in use, in seconds.
const WINDOWS: [f64; 7] = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
/// Windows that [`Arrivals::recent`] looks at, in seconds.
const SHORT_WINDOWS: [f64; 7] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
/// Time between two counts that are kept, in ms.
const GRAIN_MS: u64 = 100;
/// Standard errors that a higher rate is believed less by: of many windows the one that shows most is
/// looked at, and chance has its share in that.
const DOUBT: f64 = 2.2;
/// The same for windows below a second, of which there are more.
const MORE_DOUBT: f64 = 3.2;
/// A clock that goes back by more was set back; by less, two readings came in the other order.
const SET_BACK_MS: u64 = 2000;
/// A constant rate is mistaken for a change this often an hour, for each window.
const FALSE_ALARMS: f64 = 0.1;

/// The rate of a Poisson stream, held until the stream contradicts it.
///
/// An average over the last seconds is quick and never still, one over minutes is still and never
/// quick. Here the rate in use is held until the number of arrivals in any window of 2 to 128 s is
/// not one that this rate would bring by chance (generalized likelihood ratio test for the change of
/// a Poisson rate; M. Basseville, I. Nikiforov, Detection of Abrupt Changes, 2.4.3). The window that
/// contradicts most says when the rate changed and what it is since; what is older is forgotten. Of a
/// rise only that much is believed which chance does not explain: if there is much more to it, it will be
/// contradicted again; a worker too many is one that goes again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arrivals {
    /// Counts as of moments, the oldest first: (ms, arrivals).
    counts: VecDeque<(u64, u64)>,
    /// The last count.
    last: (u64, u64),
    /// When the last arrival was noticed, ms.
    arrived_at: u64,
    /// Tasks a second.
    rate: f64,
}

impl Arrivals {
    /// Begins to count; the rate in use stays until it is contradicted.
    pub fn restart(&mut self, at_ms: u64, arrived: u64) {
        self.counts.clear();
        self.counts.push_back((at_ms, arrived));
        self.last = (at_ms, arrived);
        self.arrived_at = at_ms;
    }

    /// The counter as of a moment. True if anything arrived since the last one.
    pub fn count(&mut self, at_ms: u64, arrived: u64) -> bool {
        let came = arrived > self.last.1;
        if at_ms.saturating_add(SET_BACK_MS) < self.last.0 {
            self.restart(at_ms, arrived);
            return came;
        }
        if at_ms <= self.last.0 {
            return false;
        }
        if came {
            self.arrived_at = at_ms;
        }
        self.last = (at_ms, arrived);
        self.follow();
        let oldest = at_ms.saturating_sub(ms(WINDOWS[WINDOWS.len() - 1]));
        while self.counts.front().is_some_and(|(at, _)| *at < oldest) {
            self.counts.pop_front();
        }
        if self
            .counts
            .back()
            .is_none_or(|(at, _)| at + GRAIN_MS <= at_ms)
        {
            self.counts.push_back(self.last);
        }
        came
    }

    /// Tasks a second; 0 when none came for `idle_ms`.
    pub fn rate(&self, idle_ms: u64) -> f64 {
        if self.last.0.saturating_sub(self.arrived_at) >= idle_ms {
            0.0
        } else {
            self.rate
        }
    }

    /// Tasks a second that lately came at the least, by the last 0.5 to 32 s. 0 if that is not above the
    /// rate in use. For tasks that wait already: too restless to size by.
    pub fn recent(&self) -> f64 {
        let rates = SHORT_WINDOWS.iter().filter_map(|window| {
            let seen = self.within(*window).filter(|seen| seen.spread)?;
            let doubt = if *window < 1.0 { MORE_DOUBT } else { DOUBT };
            let rate = seen.at_least(doubt);
            (rate > self.rate).then_some(rate)
        });
        rates.fold(0.0, f64::max)
    }

    /// What came within a window; none while less than half of it was seen.
    fn within(&self, window: f64) -> Option<Seen> {
        let (at_ms, arrived) = self.last;
        let first_since = |ms: u64| self.counts.partition_point(|(at, _)| *at < ms);
        let index = first_since(at_ms.saturating_sub(ms(window)));
        let (since, before) = *self.counts.get(index)?;
        let by = |quarters: u64| {
            let then = self
                .counts
                .get(first_since(since + (at_ms - since) * quarters / 4));
            then.map_or(arrived, |(_, count)| *count)
                .saturating_sub(before)
        };
        let came = arrived.saturating_sub(before);
        let seconds = (at_ms - since) as f64 / 1000.0;
        (seconds >= window / 2.0).then(|| Seen {
            index,
            came: came as f64,
            seconds,
            spread: is_spread(came, by(2), by(3).saturating_sub(by(1))),
        })
    }

    fn follow(&mut self) {
        let strongest = WINDOWS
            .iter()
            .filter_map(|window| {
                let seen = self.within(*window)?;
                let expected = self.rate * seen.seconds;
                let excess = surprise(seen.came, expected) - limit(*window);
                let counts = seen.spread || seen.came < expected;
                (excess > 0.0 && counts).then_some((excess, seen))
            })
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, seen)) = strongest {
            let mean = seen.came / seen.seconds;
            self.rate = if mean > self.rate {
                self.rate.max(seen.at_least(DOUBT))
            } else {
                mean
            };
            self.counts.drain(..seen.index);
        }
    }
}

/// What came within a window.
struct Seen {
    /// Of its first count.
    index: usize,
    came: f64,
    seconds: f64,
    /// Not all at once: a batch is no rate, and waits already.
    spread: bool,
}

impl Seen {
    /// The rate, tasks a second, so many standard errors below the mean. The square root of a Poisson
    /// count has the standard error 1/2 whatever its mean (M. S. Bartlett, The Square Root Transformation
    /// in Analysis of Variance, 1936).
    fn at_least(&self, doubt: f64) -> f64 {
        (self.came.sqrt() - doubt / 2.0).max(0.0).powi(2) / self.seconds
    }
}

/// A quarter of what came did so in each half of the window, and a quarter outside its middle half, which
/// a batch passes through.
fn is_spread(came: u64, first_half: u64, middle_half: u64) -> bool {
    let is_quarter = |part: u64| part.saturating_mul(4) >= came;
    is_quarter(first_half)
        && is_quarter(came.saturating_sub(first_half))
        && is_quarter(came.saturating_sub(middle_half))
}

/// ln of the likelihood ratio: how much better the rate that `came` suggests explains it than the
/// rate that lets `expected` come.
fn surprise(came: f64, expected: f64) -> f64 {
    if came <= 0.0 {
        expected
    } else {
        came * (came / expected).ln() - (came - expected)
    }
}

/// The surprise that chance brings FALSE_ALARMS times an hour in windows of this length.
fn limit(window: f64) -> f64 {
    (3600.0 / window / FALSE_ALARMS).ln()
}

fn ms(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks that come evenly, looked at four times a second.
    fn feed(arrivals: &mut Arrivals, seconds: std::ops::Range<u64>, rate: u64) {
        for tick in seconds.start * 4..seconds.end * 4 {
            let (at, count) = arrivals.last;
            arrivals.count(
                at + 250,
                count + rate * (tick % 4 + 1) / 4 - rate * (tick % 4) / 4,
            );
        }
    }

    fn begun() -> Arrivals {
        let mut arrivals = Arrivals::default();
        arrivals.restart(1_000_000, 77);
        arrivals
    }

    /// What is in use after that: of a rise not all is believed before many have come.
    fn assert_rate(arrivals: &Arrivals, least: f64, most: f64) {
        let rate = arrivals.rate(30_000);
        assert!((least..=most).contains(&rate), "{rate}: {arrivals:?}");
    }

    #[test]
    fn finds_a_rate_and_its_changes_within_seconds() {
        let mut arrivals = begun();
        feed(&mut arrivals, 0..60, 5);
        assert_rate(&arrivals, 4.0, 5.2);
        feed(&mut arrivals, 60..63, 50);
        assert_rate(&arrivals, 35.0, 52.0);
        feed(&mut arrivals, 63..70, 50);
        assert_rate(&arrivals, 40.0, 52.0);
        feed(&mut arrivals, 70..74, 5);
        assert_rate(&arrivals, 3.0, 15.0);
    }

    #[test]
    fn a_constant_rate_is_held_still() {
        let mut arrivals = begun();
        feed(&mut arrivals, 0..120, 20);
        assert_rate(&arrivals, 18.0, 20.5);
        let rate = arrivals.rate(30_000);
        for second in 120..2000 {
            feed(&mut arrivals, second..second + 1, 20);
            assert_eq!(arrivals.rate(30_000), rate);
        }
    }

    #[test]
    fn of_a_rise_only_what_chance_does_not_explain_is_believed() {
        let seen = |came: f64| Seen {
            index: 0,
            came,
            seconds: 2.0,
            spread: true,
        };
        assert_eq!(seen(0.0).at_least(DOUBT), 0.0);
        assert_eq!(seen(1.0).at_least(DOUBT), 0.0);
        let hundred = seen(100.0).at_least(DOUBT);
        assert!((hundred - 39.6).abs() < 0.1, "{hundred}");
        assert!(seen(100.0).at_least(MORE_DOUBT) < hundred);
    }

    #[test]
    fn is_nothing_when_nothing_came_for_the_idle_timeout() {
        let mut arrivals = begun();
        feed(&mut arrivals, 0..10, 20);
        let (at, count) = arrivals.last;
        arrivals.count(at + 29_999, count);
        assert!(arrivals.rate(30_000) >= 0.0);
        arrivals.count(at + 30_000, count);
        assert_eq!(arrivals.rate(30_000), 0.0);
    }

    /// A thousand tasks within so many ms, `after` the last count; looked at every `tick` ms for a minute.
    fn rates_after_batch(takes: u64, after: u64, tick: u64) -> (f64, f64) {
        let mut arrivals = begun();
        feed(&mut arrivals, 0..10, 0);
        let (start, count) = arrivals.last;
        let (mut rate, mut recent) = (0.0_f64, 0.0_f64);
        for look in 1..60_000 / tick {
            let came = (look * tick).saturating_sub(after).min(takes) * 1000 / takes;
            arrivals.count(start + look * tick, count + came);
            rate = rate.max(arrivals.rate(30_000));
            recent = recent.max(arrivals.recent());
        }
        (rate, recent)
    }

    #[test]
    fn a_batch_is_no_rate() {
        for after in [0, 30, 110, 190, 240] {
            for tick in [50, 250] {
                for takes in [1, 100, 200, 400, 600] {
                    let (rate, recent) = rates_after_batch(takes, after, tick);
                    let told = format!("{takes} ms, {after} ms after a look, every {tick} ms");
                    assert_eq!(rate, 0.0, "{told}");
                    // Between looks that far apart it may as well have come evenly.
                    let is_seen = takes <= 200 && tick == 50;
                    assert!(recent == 0.0 || !is_seen, "{recent}: {told}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_back_holds_up_nothing() {
        let mut arrivals = begun();
        feed(&mut arrivals, 0..60, 20);
        let (at, count) = arrivals.last;
        let rate = arrivals.rate(30_000);
        assert!(!arrivals.count(at - 1000, count), "an older reading");
        assert_eq!(arrivals.last, (at, count));
        assert!(arrivals.count(at - 500_000, count + 1));
        assert_eq!(arrivals.rate(30_000), rate, "it stays in use");
        feed(&mut arrivals, 0..60, 5);
        assert!((arrivals.rate(30_000) - 5.0).abs() < 0.5, "{arrivals:?}");
        arrivals.count(arrivals.last.0 + 30_000, arrivals.last.1);
        assert_eq!(arrivals.rate(30_000), 0.0);
    }

    #[test]
    fn the_same_reading_twice_counts_once() {
        let mut arrivals = begun();
        feed(&mut arrivals, 0..10, 20);
        let before = arrivals.clone();
        let (at, count) = arrivals.last;
        assert!(!arrivals.count(at, count));
        assert_eq!(arrivals, before);
    }
}
