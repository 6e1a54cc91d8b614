//! What this process has told the queue of each persona, and since which epoch of the queue's data.

use crate::lock::lock;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};

/// What the queue was last told of a persona.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`: configuration and limits.
    pub generation: i64,
    /// The pool it is routed to; none when only registered.
    pub pool: Option<String>,
    /// Epoch of the topology that decided.
    pub epoch: u64,
}

/// The memory of all namespaces. Forgotten when the queue has lost its data, so that all is published
/// again.
#[derive(Default)]
pub struct Routes(Mutex<HashMap<String, Namespace>>);

#[derive(Default)]
struct Namespace {
    personas: HashMap<String, Published>,
    /// The queue's epoch, once all personas were published to it.
    epoch: Option<String>,
    /// The epoch is to be compared.
    doubted: bool,
    /// The highest topology epoch that the queue has answered with, where that was too high for us.
    overtaken_by: Option<u64>,
}

impl Routes {
    /// What was published of a persona.
    pub fn of(&self, namespace: &str, persona: &str) -> Option<Published> {
        let all = self.lock();
        all.get(namespace)?.personas.get(persona).cloned()
    }

    /// The queue has accepted this.
    pub fn published(&self, namespace: &str, persona: &str, what: Published) {
        let mut all = self.lock();
        let entry = all.entry(namespace.to_owned()).or_default();
        entry.doubted |= entry.epoch.is_none();
        entry.personas.insert(persona.to_owned(), what);
    }

    /// The persona was taken out of the queue, or is to be published again.
    pub fn forget(&self, namespace: &str, persona: &str) {
        if let Some(entry) = self.lock().get_mut(namespace) {
            entry.personas.remove(persona);
        }
    }

    /// Nothing of the namespace is left in the queue.
    pub fn forget_namespace(&self, namespace: &str) {
        self.lock().remove(namespace);
    }

    /// The queue has a route of a higher topology epoch than this process knows of.
    pub fn overtaken(&self, namespace: &str, epoch: u64) {
        let mut all = self.lock();
        let entry = all.entry(namespace.to_owned()).or_default();
        entry.overtaken_by = entry.overtaken_by.max(Some(epoch));
    }

    /// The highest topology epoch that the queue has answered with.
    pub fn overtaken_by(&self, namespace: &str) -> Option<u64> {
        self.lock().get(namespace)?.overtaken_by
    }

    /// The namespace's data may be lost: its epoch is to be compared.
    pub fn check(&self, namespace: &str) {
        self.lock().entry(namespace.to_owned()).or_default().doubted = true;
    }

    /// The epoch of the queue's data that the personas were published to.
    pub fn epoch(&self, namespace: &str) -> Option<String> {
        self.lock().get(namespace)?.epoch.clone()
    }

    /// Namespaces whose epoch is to be compared.
    pub fn doubted(&self) -> Vec<String> {
        let all = self.lock();
        all.iter()
            .filter(|(_, entry)| entry.doubted)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What the queue's epoch says, `personas` being all that there are. While it has none, those that are
    /// `registered` tell whether it has lost its data once more.
    pub fn compare(
        &self,
        namespace: &str,
        personas: &BTreeSet<String>,
        found: Result<&str, &BTreeSet<String>>,
    ) -> Verdict {
        let mut all = self.lock();
        let entry = all.entry(namespace.to_owned()).or_default();
        let is_other = entry.epoch.is_some() && entry.epoch.as_deref() != found.ok();
        let is_missing = |registered: &BTreeSet<String>| {
            let mut told = personas.iter().filter(|p| entry.personas.contains_key(*p));
            told.any(|persona| !registered.contains(persona))
        };
        if is_other || found.is_err_and(is_missing) {
            *entry = Namespace {
                doubted: true,
                ..Namespace::default()
            };
            return Verdict::Lost;
        }
        if personas.iter().any(|p| !entry.personas.contains_key(p)) {
            return Verdict::Unfinished;
        }
        match found {
            Ok(found) => {
                entry.epoch = Some(found.to_owned());
                entry.doubted = false;
                Verdict::Settled
            }
            Err(_) => Verdict::Complete,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Namespace>> {
        lock(&self.0)
    }
}

/// Where a namespace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The data is what it was.
    Settled,
    /// Not all personas are published yet.
    Unfinished,
    /// All are published and the queue has no epoch: one is to be set.
    Complete,
    /// The queue has lost its data; all of it is forgotten here too.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Published {
        Published {
            uid: "u".into(),
            generation: 1,
            pool: None,
            epoch: 1,
        }
    }

    #[test]
    fn a_namespace_settles_once_all_personas_are_published() {
        let routes = Routes::default();
        let personas = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        routes.published("n", "a", published());
        assert_eq!(routes.doubted(), ["n"]);
        let one = BTreeSet::from(["a".to_owned()]);
        let verdict = routes.compare("n", &personas, Err(&one));
        assert_eq!(verdict, Verdict::Unfinished);
        routes.published("n", "b", published());
        let verdict = routes.compare("n", &personas, Err(&personas));
        assert_eq!(verdict, Verdict::Complete);
        assert_eq!(routes.compare("n", &personas, Ok("e")), Verdict::Settled);
        assert!(routes.doubted().is_empty());
        routes.published("n", "c", published());
        assert!(routes.doubted().is_empty(), "settled stays settled");
    }

    #[test]
    fn lost_data_is_published_again() {
        let routes = Routes::default();
        let personas = BTreeSet::from(["a".to_owned()]);
        routes.published("n", "a", published());
        routes.compare("n", &personas, Ok("e"));
        for found in [Err(&personas), Ok("f")] {
            routes.check("n");
            let verdict = routes.compare("n", &personas, found);
            assert_eq!(verdict, Verdict::Lost);
            assert_eq!(routes.of("n", "a"), None);
            routes.published("n", "a", published());
            routes.compare("n", &personas, Ok("e"));
        }
    }

    #[test]
    fn data_that_was_lost_before_it_had_an_epoch_is_published_again() {
        let routes = Routes::default();
        let personas = BTreeSet::from(["a".to_owned()]);
        routes.published("n", "a", published());
        let none = BTreeSet::new();
        let verdict = routes.compare("n", &personas, Err(&none));
        assert_eq!((verdict, routes.of("n", "a")), (Verdict::Lost, None));
        assert_eq!(routes.doubted(), ["n"]);
    }
}
