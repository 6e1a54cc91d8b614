//! Which adapters a server holds, and which one goes when another is needed. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time until a load that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Failures that are remembered.
const FAILURES: usize = 64;

/// Adapters of one server, by the names that it knows them by.
#[derive(Debug)]
pub struct Table {
    /// Adapters that the server holds at most.
    limit: usize,
    entries: BTreeMap<String, Entry>,
    failures: BTreeMap<String, Failure>,
    /// Requests that have not got their adapter yet, by its name.
    waiting: BTreeMap<String, usize>,
    /// Counts uses: the least recently used one has the lowest number.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// Requests that run with it.
    users: usize,
    /// 0 until one has.
    used: u64,
    /// Those that run are the last while somebody waits for room: all that are there can be in use for ever.
    leaving: bool,
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
        evict: Option<String>,
    },
    /// It is being loaded, or all that are there are in use: ask again after a change.
    Wait,
    /// The last load failed a moment ago, with these words.
    Refuse(String),
}

impl Entry {
    const fn new(state: State) -> Self {
        Self {
            state,
            users: 0,
            used: 0,
            leaving: false,
        }
    }
}

impl Table {
    /// Nothing is loaded.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            entries: BTreeMap::new(),
            failures: BTreeMap::new(),
            waiting: BTreeMap::new(),
            uses: 0,
        }
    }

    /// A request begins to ask for the adapter, until [`Table::has_waited`].
    pub fn wait(&mut self, name: &str) {
        *self.waiting.entry(name.to_owned()).or_default() += 1;
    }

    /// A request does not ask any more: it runs, or has been given up.
    pub fn has_waited(&mut self, name: &str) {
        if let Some(count) = self.waiting.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(name);
            }
        }
    }

    /// Asks to run a request with the adapter.
    pub fn request(&mut self, now: Instant, name: &str) -> Step {
        let others_wait = self
            .waiting
            .keys()
            .any(|other| !self.entries.contains_key(other));
        match self.entries.get_mut(name) {
            Some(entry) if entry.state == State::Loaded && !(entry.leaving && others_wait) => {
                self.uses += 1;
                entry.leaving = false;
                entry.used = self.uses;
                entry.users += 1;
                return Step::Run;
            }
            Some(entry) if entry.state != State::Lost || entry.users > 0 => return Step::Wait,
            _ => {}
        }
        if let Some(failure) = self.failures.get(name)
            && now.saturating_duration_since(failure.at) < AGAIN
        {
            return Step::Refuse(failure.words.clone());
        }
        let is_known = self.entries.contains_key(name);
        let victim = if is_known || self.entries.len() < self.limit {
            None
        } else if let Some(victim) = self.idle() {
            Some(victim)
        } else {
            self.ask_one_to_leave();
            return Step::Wait;
        };
        let evicted = victim.and_then(|victim| {
            let entry = self.entries.remove(&victim)?;
            (entry.state != State::Lost).then_some(victim)
        });
        self.entries
            .insert(name.to_owned(), Entry::new(State::Loading));
        Step::Load { evict: evicted }
    }

    /// The least recently used one that nobody uses. One that has just been loaded is left to who waits for it.
    fn idle(&self) -> Option<String> {
        let idle = self.entries.iter().filter(|(name, entry)| {
            let is_wanted = entry.used == 0 && self.waiting.contains_key(*name);
            entry.users == 0 && entry.state != State::Loading && !is_wanted
        });
        let victim = idle.min_by_key(|(_, entry)| (entry.state != State::Lost, entry.used));
        victim.map(|(name, _)| name.clone())
    }

    /// One at a time, so that the others serve on.
    fn ask_one_to_leave(&mut self) {
        let mut loaded = self.entries.values_mut();
        if loaded.any(|entry| entry.leaving) {
            return;
        }
        let used = self.entries.values_mut().filter(|entry| entry.users > 0);
        if let Some(entry) = used.min_by_key(|entry| entry.used) {
            entry.leaving = true;
        }
    }

    /// The server has loaded it.
    pub fn loaded(&mut self, name: &str) {
        self.failures.remove(name);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.state = State::Loaded;
        }
    }

    /// The server refused it, in these words. `still` is what it could not take out either.
    pub fn failed(&mut self, now: Instant, name: &str, words: String, still: Option<&str>) {
        self.entries.remove(name);
        if let Some(still) = still {
            self.found(still);
        }
        while self.failures.len() >= FAILURES {
            self.failures.pop_first();
        }
        self.failures
            .insert(name.to_owned(), Failure { words, at: now });
    }

    /// The server holds it already.
    pub fn found(&mut self, name: &str) {
        let entries = &mut self.entries;
        entries
            .entry(name.to_owned())
            .or_insert(Entry::new(State::Loaded));
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
        let step = table.request(Instant::now(), name);
        table.loaded(name);
        step
    }

    fn run(table: &mut Table, name: &str) -> Step {
        table.request(Instant::now(), name)
    }

    fn evicts(step: Step) -> Option<String> {
        match step {
            Step::Load { evict } => evict,
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
    fn it_is_loaded_once_and_all_who_want_it_wait_for_it() {
        let mut table = Table::new(4);
        assert_eq!(evicts(run(&mut table, "a")), None);
        assert_eq!(run(&mut table, "a"), Step::Wait);
        table.loaded("a");
        assert_eq!(run(&mut table, "a"), Step::Run);
    }

    #[test]
    fn a_load_that_hangs_keeps_no_other_from_its_own() {
        let mut table = Table::new(2);
        assert_eq!(evicts(run(&mut table, "hangs")), None);
        assert_eq!(evicts(load(&mut table, "a")), None);
        assert_eq!(run(&mut table, "a"), Step::Run);
        table.release("a");
        assert_eq!(evicts(load(&mut table, "b")).as_deref(), Some("a"));
        assert_eq!(run(&mut table, "hangs"), Step::Wait);
    }

    #[test]
    fn who_waits_for_room_gets_it_from_one_that_is_in_use_without_end() {
        let mut table = Table::new(1);
        load(&mut table, "a");
        assert_eq!(run(&mut table, "a"), Step::Run);
        table.wait("b");
        assert_eq!(run(&mut table, "b"), Step::Wait);
        table.wait("a");
        assert_eq!(run(&mut table, "a"), Step::Wait, "no more than run already");
        table.release("a");
        assert_eq!(run(&mut table, "a"), Step::Wait, "it is b's turn");
        assert_eq!(evicts(load(&mut table, "b")).as_deref(), Some("a"));
        assert_eq!(run(&mut table, "a"), Step::Wait, "b has not run yet");
        assert_eq!(run(&mut table, "b"), Step::Run);
        table.has_waited("b");
        table.release("b");
        assert_eq!(evicts(load(&mut table, "a")).as_deref(), Some("b"));
    }

    #[test]
    fn who_was_asked_to_leave_stays_when_nobody_waits_any_more() {
        let mut table = Table::new(1);
        load(&mut table, "a");
        assert_eq!(run(&mut table, "a"), Step::Run);
        table.wait("b");
        assert_eq!(run(&mut table, "b"), Step::Wait);
        table.has_waited("b");
        assert_eq!(run(&mut table, "a"), Step::Run);
    }

    #[test]
    fn a_failure_is_repeated_in_its_words_for_a_while_and_harms_no_other() {
        let (mut table, now) = (Table::new(1), Instant::now());
        load(&mut table, "a");
        let Step::Load { evict } = table.request(now, "b") else {
            panic!("it is loaded");
        };
        table.failed(now, "b", "no such file".into(), evict.as_deref());
        assert_eq!(table.request(now, "b"), Step::Refuse("no such file".into()));
        assert_eq!(run(&mut table, "a"), Step::Run, "it could not be taken out");
        table.release("a");
        assert_eq!(
            table.failures().collect::<Vec<_>>(),
            [("b", "no such file")]
        );
        let later = now + AGAIN;
        let again = table.request(later, "b");
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
                                prop_assert!(!running.contains(&evicted));
                                prop_assert!(server.remove(&evicted));
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
