//! Which adapters a server holds, and which one goes when another is needed. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time until a load that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Failures that are remembered.
const FAILURES: usize = 64;

/// Adapters of one server, by name.
#[derive(Debug)]
pub struct Table {
    /// Adapters that the server holds at most.
    limit: usize,
    entries: BTreeMap<String, Entry>,
    failures: BTreeMap<String, Failure>,
    /// Counts uses: the least recently used one has the lowest number.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    source: String,
    state: State,
    /// Requests that run with it.
    users: usize,
    used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Loading,
    Loaded,
    /// The server has started anew since.
    Lost,
}

#[derive(Debug)]
struct Failure {
    words: String,
    at: Instant,
}

/// What a request has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It may run, and ends with [`Table::release`].
    Run,
    /// It has to load its adapter, and to take another one out before; then [`Table::loaded`] or
    /// [`Table::failed`].
    Load {
        /// The adapter to take out.
        evict: Option<Evicted>,
    },
    /// Another one is being loaded, or all that are there are in use: ask again after a change.
    Wait,
    /// The last load failed a moment ago, with these words.
    Refuse(String),
}

/// An adapter that makes room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its name.
    pub name: String,
    source: String,
}

impl Table {
    /// Nothing is loaded.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            entries: BTreeMap::new(),
            failures: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Asks to run a request with the adapter.
    pub fn request(&mut self, now: Instant, name: &str, source: &str) -> Step {
        if let Some(entry) = self.entries.get_mut(name)
            && entry.source == source
            && entry.state == State::Loaded
        {
            self.uses += 1;
            entry.used = self.uses;
            entry.users += 1;
            return Step::Run;
        }
        if let Some(failure) = self.failures.get(name)
            && now.saturating_duration_since(failure.at) < AGAIN
        {
            return Step::Refuse(failure.words.clone());
        }
        if self
            .entries
            .values()
            .any(|entry| entry.state == State::Loading)
        {
            return Step::Wait;
        }
        let evict = match self.entries.get(name) {
            // Lost, or of another source: it is loaded anew in its own place.
            Some(entry) if entry.users > 0 => return Step::Wait,
            Some(entry) if entry.state == State::Lost => None,
            Some(_) => Some(name.to_owned()),
            None if self.entries.len() < self.limit => None,
            None => match self.least_recently_used() {
                Some(victim) => Some(victim),
                None => return Step::Wait,
            },
        };
        let evict = evict.and_then(|victim| {
            let entry = self.entries.remove(&victim)?;
            let lost = entry.state == State::Lost;
            (!lost).then_some(Evicted {
                name: victim,
                source: entry.source,
            })
        });
        self.entries.insert(
            name.to_owned(),
            Entry {
                source: source.to_owned(),
                state: State::Loading,
                users: 0,
                used: 0,
            },
        );
        Step::Load { evict }
    }

    fn least_recently_used(&self) -> Option<String> {
        let idle = self.entries.iter().filter(|(_, entry)| entry.users == 0);
        let victim = idle.min_by_key(|(_, entry)| (entry.state != State::Lost, entry.used));
        victim.map(|(name, _)| name.clone())
    }

    /// The server has loaded it.
    pub fn loaded(&mut self, name: &str) {
        self.failures.remove(name);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.state = State::Loaded;
        }
    }

    /// The server refused it, in these words. `still` is what it could not take out either.
    pub fn failed(&mut self, now: Instant, name: &str, words: String, still: Option<Evicted>) {
        self.entries.remove(name);
        if let Some(Evicted { name, source }) = still {
            self.found(&name, &source);
        }
        while self.failures.len() >= FAILURES {
            self.failures.pop_first();
        }
        self.failures
            .insert(name.to_owned(), Failure { words, at: now });
    }

    /// The server holds it already.
    pub fn found(&mut self, name: &str, source: &str) {
        self.entries.entry(name.to_owned()).or_insert(Entry {
            source: source.to_owned(),
            state: State::Loaded,
            users: 0,
            used: 0,
        });
    }

    /// A request that ran with it has ended.
    pub fn release(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    /// The server is away and will start anew: nothing is there, and what it refused it may take then.
    pub fn restarted(&mut self) {
        self.lost(None);
        self.failures.clear();
    }

    /// The server has started anew, or does not have this one: everything, or it, is to be loaded again.
    pub fn lost(&mut self, name: Option<&str>) {
        for (this, entry) in &mut self.entries {
            if entry.state == State::Loaded && name.is_none_or(|name| name == this) {
                entry.state = State::Lost;
            }
        }
    }

    /// Names of those that are loaded.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let loaded = self.entries.iter();
        loaded
            .filter(|(_, entry)| entry.state == State::Loaded)
            .map(|(name, _)| name.as_str())
    }

    /// Those that could not be loaded, and the server's words.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        let failures = self.failures.iter();
        failures.map(|(name, failure)| (name.as_str(), failure.words.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(table: &mut Table, name: &str) -> Step {
        let step = table.request(Instant::now(), name, name);
        table.loaded(name);
        step
    }

    fn run(table: &mut Table, name: &str) -> Step {
        table.request(Instant::now(), name, name)
    }

    fn evicts(step: Step) -> Option<String> {
        match step {
            Step::Load { evict } => evict.map(|evicted| evicted.name),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_least_recently_used_one_makes_room_and_never_one_in_use() {
        let mut table = Table::new(2);
        assert_eq!(evicts(load(&mut table, "a")), None);
        assert_eq!(evicts(load(&mut table, "b")), None);
        assert_eq!(run(&mut table, "b"), Step::Run);
        assert_eq!(run(&mut table, "a"), Step::Run);
        assert_eq!(run(&mut table, "c"), Step::Wait, "both are in use");
        table.release("a");
        table.release("b");
        assert_eq!(evicts(load(&mut table, "c")).as_deref(), Some("b"));
        assert_eq!(table.names().collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn one_is_loaded_at_a_time_and_all_who_want_it_wait_for_it() {
        let mut table = Table::new(4);
        assert_eq!(evicts(run(&mut table, "a")), None);
        assert_eq!(run(&mut table, "a"), Step::Wait);
        assert_eq!(run(&mut table, "b"), Step::Wait);
        table.loaded("a");
        assert_eq!(run(&mut table, "a"), Step::Run);
        assert_eq!(evicts(run(&mut table, "b")), None);
    }

    #[test]
    fn a_failure_is_repeated_in_its_words_for_a_while_and_harms_no_other() {
        let (mut table, now) = (Table::new(1), Instant::now());
        load(&mut table, "a");
        let Step::Load { evict } = table.request(now, "b", "b") else {
            panic!("it is loaded");
        };
        table.failed(now, "b", "no such file".into(), evict);
        assert_eq!(
            table.request(now, "b", "b"),
            Step::Refuse("no such file".into())
        );
        assert_eq!(run(&mut table, "a"), Step::Run, "it could not be taken out");
        table.release("a");
        assert_eq!(
            table.failures().collect::<Vec<_>>(),
            [("b", "no such file")]
        );
        let later = now + AGAIN;
        let again = table.request(later, "b", "b");
        assert_eq!(evicts(again).as_deref(), Some("a"));
        table.loaded("b");
        assert_eq!(table.failures().count(), 0);
    }

    #[test]
    fn a_server_that_started_anew_gets_them_again_when_they_are_wanted() {
        let mut table = Table::new(2);
        load(&mut table, "a");
        assert_eq!(run(&mut table, "a"), Step::Run);
        table.lost(None);
        assert_eq!(table.names().count(), 0);
        assert_eq!(
            run(&mut table, "a"),
            Step::Wait,
            "a request of before is at it"
        );
        table.release("a");
        assert_eq!(evicts(load(&mut table, "a")), None);
    }

    #[test]
    fn another_source_of_the_same_name_takes_its_place() {
        let mut table = Table::new(2);
        load(&mut table, "a");
        let step = table.request(Instant::now(), "a", "elsewhere");
        assert_eq!(evicts(step).as_deref(), Some("a"));
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_and_none_goes_while_it_is_used(
            limit in 1usize..4, steps in proptest::collection::vec((0u8..6, 0u8..5), 1..200)
        ) {
            let mut table = Table::new(limit);
            let (mut server, mut running) = (std::collections::BTreeSet::new(), Vec::<String>::new());
            for (name, what) in steps {
                let name = name.to_string();
                match what {
                    0 if !running.is_empty() => table.release(&running.remove(0)),
                    1 if running.is_empty() => { server.clear(); table.lost(None); }
                    _ => match run(&mut table, &name) {
                        Step::Run => {
                            prop_assert!(server.contains(&name));
                            running.push(name);
                        }
                        Step::Load { evict } => {
                            if let Some(evicted) = evict {
                                prop_assert!(!running.contains(&evicted.name));
                                prop_assert!(server.remove(&evicted.name));
                            }
                            server.insert(name.clone());
                            table.loaded(&name);
                        }
                        Step::Wait => prop_assert!(!running.is_empty()),
                        Step::Refuse(words) => prop_assert!(false, "{words}"),
                    },
                }
                prop_assert!(server.len() <= limit);
            }
        }
    }
}
