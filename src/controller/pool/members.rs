//! For whom a pool's workers are made. Pure.
//!
//! A persona whose new model belongs to another pool is served here until it can move. What its manifest
//! asks for by then is the other pool's to hold: here it counts as it was when it last belonged here, so
//! that no worker is replaced by one that could not serve it any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{Persona, PersonaTopology};
use crate::controller::assignment::assigned_pool;

/// Personas as they were when they last belonged to a pool, by uid. Lost with the process.
#[derive(Clone, Debug, Default)]
pub struct Members(BTreeMap<String, Arc<Persona>>);

/// A persona that belongs to a pool, or is served there.
#[derive(Clone, Debug)]
pub struct Stay {
    persona: Arc<Persona>,
    /// It belongs there.
    at_home: bool,
    /// Its requests run with an older manifest than the present one.
    outdated: bool,
}

impl Stay {
    /// None for who has nothing to do with the pool. `served` says which generation of a persona the queue
    /// has, if that is known.
    pub fn of(
        persona: Arc<Persona>,
        pool: &str,
        topology: Option<&PersonaTopology>,
        served: impl Fn(&Persona) -> Option<i64>,
    ) -> Option<Self> {
        let routed = persona.status.as_ref().and_then(|s| s.pool.as_deref());
        let at_home = assigned_pool(&persona, topology).as_deref() == Some(pool);
        (at_home || routed == Some(pool)).then(|| Self {
            at_home,
            outdated: served(&persona) != persona.metadata.generation,
            persona,
        })
    }
}

impl Members {
    /// Everybody in the form that counts here, and whether that is not known of somebody.
    pub fn look(&mut self, stays: Vec<Stay>) -> (Vec<Arc<Persona>>, bool) {
        let before = std::mem::take(&mut self.0);
        let mut unknown = false;
        let mut members = Vec::new();
        for stay in stays {
            let uid = stay.persona.metadata.uid.clone().unwrap_or_default();
            let member = match before.get(&uid) {
                Some(known) if !stay.at_home => known.clone(),
                _ => {
                    unknown |= !stay.at_home && stay.outdated;
                    stay.persona
                }
            };
            if stay.at_home || before.contains_key(&uid) {
                self.0.insert(uid, member.clone());
            }
            members.push(member);
        }
        (members, unknown)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn persona(generation: i64, key: &str, home: &str) -> Arc<Persona> {
        let persona = json!({
            "apiVersion": "persona.dev/v1alpha1", "kind": "Persona",
            "metadata": {"name": "p", "uid": "u", "generation": generation},
            "spec": {
                "model": {"provider": "OpenAI", "name": "m", "apiKeySecretRef": {"name": key, "key": "k"}},
                "poolRef": {"name": home},
            },
            "status": {"pool": "old"},
        });
        Arc::new(serde_json::from_value(persona).expect("a persona"))
    }

    /// The Secret that counts in the pool `old`, and whether it holds still, with generation 1 in the queue.
    fn look(members: &mut Members, persona: Arc<Persona>) -> (String, bool) {
        let stay = Stay::of(persona, "old", None, |_| Some(1)).expect("it is there");
        let (found, still) = members.look(vec![stay]);
        let reference = found[0].spec.model.api_key_secret_ref.clone();
        (reference.expect("a key").name, still)
    }

    #[test]
    fn who_belongs_elsewhere_by_now_counts_as_when_it_belonged_here() {
        let mut members = Members::default();
        assert_eq!(
            look(&mut members, persona(1, "a", "old")),
            ("a".into(), false)
        );
        for generation in [2, 3] {
            let leaving = persona(generation, "b", "new");
            assert_eq!(look(&mut members, leaving), ("a".into(), false));
        }
        let back = persona(4, "c", "old");
        assert_eq!(look(&mut members, back), ("c".into(), false));
    }

    #[test]
    fn a_process_that_came_later_leaves_the_workers_as_they_are() {
        let mut members = Members::default();
        let leaving = persona(2, "b", "new");
        assert_eq!(look(&mut members, leaving.clone()), ("b".into(), true));
        assert_eq!(look(&mut members, leaving), ("b".into(), true), "still");
        // Moved by a change of phase alone, it needs what it always did.
        let same = persona(1, "a", "new");
        assert_eq!(look(&mut Members::default(), same), ("a".into(), false));
    }

    #[test]
    fn who_was_never_here_is_not_remembered() {
        assert!(Stay::of(persona(1, "a", "b"), "c", None, |_| None).is_none());
        let mut members = Members::default();
        look(&mut members, persona(1, "a", "old"));
        members.look(Vec::new());
        assert!(members.0.is_empty());
    }
}
