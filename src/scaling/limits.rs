//! How many requests at once a provider bears, found out from its refusals (429): additive increase,
//! multiplicative decrease (Chiu and Jain 1989; TCP's congestion avoidance). Each pool does so for its own
//! share, and pools that ask the same provider come to even shares as flows of one link do.

use std::collections::BTreeMap;

use super::reading::ProviderReading;

/// What is left of what ran when the provider said that it was too much.
const CUT: f64 = 0.7;
/// Refusals within so many ms are of one and the same excess.
const ONE_EXCESS_MS: u64 = 2000;
/// Requests at once that are tried more, a second, while all that is allowed is used.
const RAISE: f64 = 0.5;
/// Ms without a refusal after which the provider counts as unlimited again.
const FORGET_MS: u64 = 600_000;

/// What is known of a pool's providers. Those that nobody asks are forgotten.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits(BTreeMap<String, Provider>);

#[derive(Clone, Debug, PartialEq)]
struct Provider {
    /// Its count of refusals at the last reading.
    limited: u64,
    /// What ran then.
    running: u64,
    heard_at_ms: u64,
    limit: Option<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Limit {
    /// Requests at once; at least one, or nobody would find out when it bears more.
    requests: f64,
    /// When it was last cut, ms.
    cut_at_ms: u64,
}

impl Limits {
    /// Takes a reading in; `at_ms` is the queue's clock.
    pub fn hear(&mut self, at_ms: u64, providers: &[ProviderReading]) {
        for reading in providers {
            let provider = self
                .0
                .entry(reading.key.clone())
                .or_insert_with(|| Provider {
                    limited: reading.limited,
                    running: reading.running,
                    heard_at_ms: at_ms,
                    limit: None,
                });
            provider.hear(at_ms, reading);
        }
        self.0
            .retain(|_, provider| at_ms.saturating_sub(provider.heard_at_ms) < FORGET_MS);
    }

    /// Most tasks that may run at once: what limited providers bear, and what maxConcurrency allows the
    /// others (`concurrency` is the sum of all). None while no provider that is asked has a limit.
    pub fn cap(&self, providers: &[ProviderReading], concurrency: Option<u64>) -> Option<u64> {
        let limited: Vec<_> = providers
            .iter()
            .filter_map(|p| Some((p, self.of(&p.key)?)))
            .collect();
        if limited.is_empty() {
            return None;
        }
        let allowed: u64 = limited.iter().map(|(p, _)| p.concurrency).sum();
        let others = concurrency?.saturating_sub(allowed);
        let bear: u64 = limited
            .iter()
            .map(|(p, limit)| (*limit).min(p.concurrency))
            .sum();
        Some(others.saturating_add(bear))
    }

    /// Demand that its providers would refuse.
    pub fn excess(&self, providers: &[ProviderReading]) -> u64 {
        let beyond = |p: &ProviderReading| {
            let limit = self.of(&p.key)?;
            Some(p.demand.saturating_sub(limit.max(p.running)))
        };
        providers.iter().filter_map(beyond).sum()
    }

    fn of(&self, key: &str) -> Option<u64> {
        let limit = self.0.get(key)?.limit?;
        Some(limit.requests as u64)
    }
}

impl Provider {
    fn hear(&mut self, at_ms: u64, reading: &ProviderReading) {
        let seconds = at_ms.saturating_sub(self.heard_at_ms) as f64 / 1000.0;
        // A refusal takes its task off the books: before it, more ran.
        let ran = self.running.max(reading.running).max(1) as f64;
        // A count that went back has begun anew and says nothing of now.
        let refused = reading.limited > self.limited;
        let since_cut = self
            .limit
            .map(|limit| at_ms.saturating_sub(limit.cut_at_ms));
        if refused && since_cut.is_none_or(|since| since >= ONE_EXCESS_MS) {
            let before = self.limit.map_or(ran, |limit| limit.requests.min(ran));
            self.limit = Some(Limit {
                requests: (before * CUT).max(1.0),
                cut_at_ms: at_ms,
            });
        } else if let Some(limit) = &mut self.limit
            && !refused
        {
            // What waits for workers that start has not shown that the provider bears it.
            if ran >= limit.requests.floor() {
                limit.requests += RAISE * seconds;
            }
            let is_wide = limit.requests >= reading.concurrency as f64;
            if is_wide || since_cut.is_some_and(|since| since >= FORGET_MS) {
                self.limit = None;
            }
        }
        self.limited = reading.limited;
        self.running = reading.running;
        self.heard_at_ms = at_ms;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(demand: u64, running: u64, limited: u64) -> ProviderReading {
        ProviderReading {
            key: "p".into(),
            demand,
            running,
            concurrency: 100,
            limited,
        }
    }

    /// What the provider bears after these readings, one a second.
    fn after(readings: &[ProviderReading]) -> Option<u64> {
        let mut limits = Limits::default();
        for (second, reading) in (0..).zip(readings) {
            limits.hear(second * 1000, std::slice::from_ref(reading));
        }
        limits.cap(&readings[readings.len() - 1..], Some(100))
    }

    #[test]
    fn a_provider_that_never_refused_has_no_limit() {
        assert_eq!(after(&[asked(50, 50, 0), asked(50, 50, 0)]), None);
        assert_eq!(
            after(&[asked(50, 50, 9)]),
            None,
            "of before this process' time"
        );
    }

    #[test]
    fn a_refusal_cuts_what_ran_to_seven_tenths_and_more_of_the_same_do_not_cut_again() {
        let first = [asked(40, 40, 0), asked(40, 3, 5)];
        assert_eq!(after(&first), Some(28));
        let same = [asked(40, 40, 0), asked(40, 3, 5), asked(40, 3, 9)];
        assert_eq!(after(&same), Some(28));
        let still = [first.as_slice(), &[asked(40, 28, 5), asked(40, 28, 6)]].concat();
        assert_eq!(after(&still), Some(19));
    }

    #[test]
    fn it_is_tried_again_while_it_is_used_and_only_then() {
        let cut = [asked(40, 40, 0), asked(40, 3, 5)];
        let used = [cut.as_slice(), &vec![asked(40, 30, 5); 4]].concat();
        assert_eq!(after(&used), Some(30));
        let idle = [cut.as_slice(), &vec![asked(3, 3, 5); 4]].concat();
        assert_eq!(after(&idle), Some(28));
        let waits = [cut.as_slice(), &vec![asked(90, 20, 5); 300]].concat();
        assert_eq!(after(&waits), Some(28), "workers start, for minutes");
    }

    #[test]
    fn a_limit_that_nobody_reaches_or_that_is_old_is_none() {
        let cut = [asked(90, 90, 0), asked(90, 3, 5)];
        let wide = [cut.as_slice(), &vec![asked(100, 100, 5); 80]].concat();
        assert_eq!(after(&wide), None, "maxConcurrency is the limit again");
        let old = [cut.as_slice(), &vec![asked(1, 1, 5); 601]].concat();
        assert_eq!(after(&old), None);
    }

    #[test]
    fn a_count_that_begins_anew_is_no_refusal() {
        assert_eq!(after(&[asked(40, 40, 7), asked(40, 40, 0)]), None);
        assert_eq!(after(&[asked(40, 40, 7), asked(40, 40, 2)]), None);
    }

    #[test]
    fn only_the_share_of_the_provider_that_refused_is_capped() {
        let other = |demand| ProviderReading {
            key: "other".into(),
            demand,
            concurrency: 20,
            ..ProviderReading::default()
        };
        let mut limits = Limits::default();
        limits.hear(0, &[asked(80, 10, 0), other(6)]);
        let now = [asked(80, 2, 1), other(6)];
        limits.hear(1000, &now);
        assert_eq!(limits.excess(&now), 73, "it bears 7");
        assert_eq!(limits.cap(&now, Some(120)), Some(27));
    }

    proptest! {
        #[test]
        fn it_bears_one_at_least_and_maxconcurrency_at_most(
            readings in prop::collection::vec((0u64..200, 0u64..200, 0u64..5), 1..50)
        ) {
            let mut limits = Limits::default();
            let mut limited = 0;
            for (second, (demand, running, refusals)) in (0..).zip(readings) {
                limited += refusals;
                let reading = [asked(demand, running, limited)];
                limits.hear(second * 1000, &reading);
                let cap = limits.cap(&reading, Some(100));
                prop_assert!(cap.is_none_or(|cap| (1..=100).contains(&cap)));
                prop_assert!(limits.excess(&reading) <= demand);
            }
        }

        #[test]
        fn pools_at_one_provider_come_to_even_shares(first in 1.0f64..60.0) {
            let bears = 40.0;
            let mut pools = [Limits::default(), Limits::default()];
            let mut running = [first, bears + 5.0 - first];
            let mut limited = 0;
            for second in 0..1200u64 {
                limited += u64::from(running.iter().sum::<f64>() > bears);
                for (pool, running) in pools.iter_mut().zip(&mut running) {
                    let reading = [asked(100, running.max(0.0) as u64, limited)];
                    pool.hear(second * 1000, &reading);
                    *running = pool.of("p").map_or(*running, |limit| limit as f64);
                }
            }
            let [one, two] = running;
            prop_assert!((one - two).abs() <= 6.0, "{one} and {two}");
            prop_assert!(one + two > bears * 0.5, "{one} and {two}");
        }
    }
}
