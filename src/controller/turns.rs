//! Which visits have to wait: those of an object that fails again and again, and those of a namespace
//! that has many under way.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Visits of a kind that are under way at once.
pub const CONCURRENCY: u16 = 56;
/// Room for namespaces that have none under way.
const SPARE: usize = 8;
/// A namespace may have so many times as many under way as there is room left besides that. One that is
/// alone gets 32.
const SHARE: usize = 2;
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// An object that fails is visited again when it is rung for, though not more often than this.
const DEAF: Duration = Duration::from_secs(5);

/// Namespace and name.
pub type Key = (String, String);
/// Uid and generation: one that is new, or has a new spec, did not fail yet.
pub type Version = (Option<String>, Option<i64>);

/// Whether a visit may begin.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has begun; [`Turns::end`] is due.
    Now,
    /// It failed lately: come again after this.
    In(Duration),
    /// It is called when others have ended.
    Called,
}

/// The visits of one kind.
#[derive(Debug, Default)]
pub struct Turns {
    failures: HashMap<Key, Failure>,
    /// Namespaces with visits under way, and how many.
    under_way: HashMap<String, usize>,
    /// Who waits to be called, by namespace; whoever came first is first.
    waiting: BTreeMap<String, VecDeque<String>>,
    known: HashSet<Key>,
    /// Who is called.
    called: VecDeque<Key>,
}

#[derive(Debug)]
struct Failure {
    version: Version,
    count: u32,
    deaf_until: Instant,
}

impl Turns {
    /// Asks for a visit.
    pub fn begin(&mut self, key: &Key, version: &Version, now: Instant) -> Turn {
        if let Some(failure) = self.failures.get(key) {
            let rest = failure.deaf_until.saturating_duration_since(now);
            if failure.version != *version {
                self.failures.remove(key);
            } else if failure.count > 1 && !rest.is_zero() {
                // A change often ends a first failure, like a conflict.
                self.call();
                return Turn::In(rest);
            }
        }
        if !self.has_room(&key.0) {
            if self.known.insert(key.clone()) {
                let waiting = self.waiting.entry(key.0.clone()).or_default();
                waiting.push_back(key.1.clone());
            }
            return Turn::Called;
        }
        *self.under_way.entry(key.0.clone()).or_default() += 1;
        Turn::Now
    }

    /// A visit that had begun ended.
    pub fn end(&mut self, key: &Key, succeeded: bool) {
        if let Some(count) = self.under_way.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(&key.0);
            }
        }
        if succeeded {
            self.failures.remove(key);
        }
        self.call();
    }

    /// A visit failed. How often in a row, and after which pause to come again; `jitter` is about 1.
    pub fn fail(
        &mut self,
        key: &Key,
        version: Version,
        now: Instant,
        jitter: f64,
    ) -> (u32, Duration) {
        let before = self.failures.get(key).filter(|f| f.version == version);
        let count = before.map_or(0, |failure| failure.count).saturating_add(1);
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1 << (count - 1).min(16)).min(longest);
        let deaf_until = now + pause.min(DEAF).mul_f64(jitter);
        let failure = Failure {
            version,
            count,
            deaf_until,
        };
        self.failures.insert(key.clone(), failure);
        (count, pause.mul_f64(jitter))
    }

    /// The object is gone.
    pub fn gone(&mut self, key: &Key) {
        self.failures.remove(key);
        // It may have been called in place of another.
        self.call();
    }

    /// Who is called now.
    pub fn next(&mut self) -> Option<Key> {
        self.called.pop_front()
    }

    fn has_room(&self, namespace: &str) -> bool {
        let called = self.called.iter().filter(|key| key.0 == namespace);
        let own = self.of(namespace) + called.count();
        let all: usize = self.under_way.values().sum::<usize>() + self.called.len();
        let left = usize::from(CONCURRENCY).saturating_sub(all);
        own < SHARE * left.saturating_sub(SPARE) || own == 0 && left > 0
    }

    fn of(&self, namespace: &str) -> usize {
        self.under_way.get(namespace).copied().unwrap_or_default()
    }

    /// Calls those there is room for, of namespaces with few under way first.
    fn call(&mut self) {
        loop {
            let waiting = self.waiting.keys().filter(|name| self.has_room(name));
            let Some(namespace) = waiting.min_by_key(|name| self.of(name)).cloned() else {
                return;
            };
            let Some(waiting) = self.waiting.get_mut(&namespace) else {
                return;
            };
            let name = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&namespace);
            }
            if let Some(name) = name {
                let key = (namespace, name);
                self.known.remove(&key);
                self.called.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 100;

    fn key(namespace: &str, place: usize) -> Key {
        (namespace.to_owned(), place.to_string())
    }

    fn of(generation: i64) -> Version {
        (Some("uid".to_owned()), Some(generation))
    }

    /// How many of `places` begin.
    fn begin(turns: &mut Turns, namespace: &str, places: std::ops::Range<usize>) -> usize {
        let now = Instant::now();
        places
            .filter(|place| turns.begin(&key(namespace, *place), &of(1), now) == Turn::Now)
            .count()
    }

    #[test]
    fn namespaces_whose_visits_do_not_end_leave_room_for_the_others() {
        let mut turns = Turns::default();
        assert_eq!(begin(&mut turns, "alone", 0..MANY), 32);
        for namespace in ["b", "c", "d"] {
            assert!(begin(&mut turns, namespace, 0..MANY) > 0, "{namespace}");
        }
        let all: usize = turns.under_way.values().sum();
        assert!(all < usize::from(CONCURRENCY), "{all}");
        assert_eq!(begin(&mut turns, "late", 0..1), 1);
    }

    #[test]
    fn whoever_waits_is_called_once_in_order_and_nobody_is_forgotten() {
        let mut turns = Turns::default();
        let begun = begin(&mut turns, "n", 0..MANY);
        begin(&mut turns, "n", begun..MANY);
        assert_eq!(turns.next(), None);
        let mut running: VecDeque<Key> = (0..begun).map(|place| key("n", place)).collect();
        let mut visited = Vec::new();
        while let Some(ended) = running.pop_front() {
            turns.end(&ended, true);
            visited.push(ended);
            while let Some(called) = turns.next() {
                assert_eq!(turns.begin(&called, &of(1), Instant::now()), Turn::Now);
                running.push_back(called);
            }
        }
        let all: Vec<_> = (0..MANY).map(|place| key("n", place)).collect();
        assert_eq!(visited, all);
        assert!(turns.under_way.is_empty() && turns.known.is_empty() && turns.waiting.is_empty());
    }

    #[test]
    fn one_that_was_called_and_is_gone_gives_its_turn_to_the_next() {
        let mut turns = Turns::default();
        let begun = begin(&mut turns, "n", 0..MANY);
        for place in 0..begun {
            turns.end(&key("n", place), true);
        }
        let mut left = MANY - begun;
        while let Some(called) = turns.next() {
            turns.gone(&called);
            left -= 1;
        }
        assert_eq!(left, 0);
    }

    #[test]
    fn an_object_that_fails_is_not_visited_at_each_ring() {
        let (mut turns, begun) = (Turns::default(), Instant::now());
        let (object, mut now, mut visits) = (key("n", 0), begun, 0);
        while now < begun + Duration::from_secs(60) {
            if turns.begin(&object, &of(1), now) == Turn::Now {
                visits += 1;
                turns.end(&object, false);
                turns.fail(&object, of(1), now, 1.0);
            }
            now += Duration::from_millis(10);
        }
        assert!((12..25).contains(&visits), "{visits}");
        let Turn::In(rest) = turns.begin(&object, &of(1), now) else {
            panic!("it is visited at once");
        };
        assert!(rest <= DEAF);
        assert_eq!(turns.begin(&object, &of(1), now + rest), Turn::Now);
    }

    #[test]
    fn failures_are_forgotten_with_a_success_a_new_spec_and_the_object() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let object = key("n", 0);
        let fail = |turns: &mut Turns| {
            turns.fail(&object, of(1), now, 1.0);
            turns.fail(&object, of(1), now, 1.0);
            assert!(matches!(turns.begin(&object, &of(1), now), Turn::In(_)));
        };
        fail(&mut turns);
        assert_eq!(turns.begin(&object, &of(2), now), Turn::Now);
        turns.end(&object, false);
        let (count, pause) = turns.fail(&object, of(2), now, 1.0);
        assert_eq!((count, pause), (1, BACKOFF.0));
        assert_eq!(turns.begin(&object, &of(2), now), Turn::Now, "a first one");
        turns.end(&object, true);
        assert!(turns.failures.is_empty());
        fail(&mut turns);
        turns.gone(&object);
        assert!(turns.failures.is_empty());
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let mut fail = || turns.fail(&key("n", 0), of(1), now, 1.0).1;
        assert_eq!(
            [fail(), fail(), fail()].map(|p| p.as_millis()),
            [250, 500, 1_000]
        );
        let last = (0..40).map(|_| fail()).last();
        assert_eq!(last, Some(BACKOFF.1));
    }
}
