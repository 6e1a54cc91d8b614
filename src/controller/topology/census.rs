//! Who counts, who belongs where, and who is still elsewhere. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::is_paused;
use crate::api::{Persona, Phase};
use crate::placement::{Class, Offer};
use crate::topology::{self, Home};

/// What the phase is decided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Personas that are neither suspended, being deleted nor on a pool of their owner's.
    pub personas: u32,
    /// Those of them with an adapter.
    pub adapters: u32,
}

/// Counts the personas that the phase follows.
pub fn count(personas: &[Arc<Persona>]) -> Count {
    let mut count = Count::default();
    for persona in personas {
        let spec = &persona.spec;
        if !spec.suspend && spec.pool_ref.is_none() && !is_deleting(persona) {
            count.personas += 1;
            count.adapters += u32::from(spec.adapter.is_some());
        }
    }
    count
}

/// A pool that the topology makes, and who belongs there.
#[derive(Debug)]
pub struct Assigned<'a> {
    /// Resource class.
    pub class: Class,
    /// Everybody who belongs there; never empty.
    pub members: Vec<&'a Persona>,
    /// Those of them whose route does not point there yet, and who may be moved.
    pub entering: Vec<&'a Persona>,
}

/// Everybody's place.
#[derive(Debug, Default)]
pub struct Census<'a> {
    /// By name of the pool.
    pub pools: BTreeMap<String, Assigned<'a>>,
    /// Pools that somebody's route points to, whoever made them.
    pub occupied: BTreeSet<&'a str>,
    /// Personas that are routed to the pool they belong to.
    pub arrived: i32,
    /// Personas that are routed to another pool than theirs, and may be moved.
    pub away: i32,
    /// Personas that no class of workers can run.
    pub unplaced: i32,
}

/// Finds everybody's place in a phase. Suspended personas keep one, because requests may wait in
/// their queues; a persona that is being deleted stays where it is until it is gone.
pub fn take<'a>(personas: &'a [Arc<Persona>], phase: Phase, offer: &Offer) -> Census<'a> {
    let mut census = Census::default();
    for persona in personas {
        let at = routed_to(persona);
        census.occupied.extend(at);
        if is_deleting(persona) {
            continue;
        }
        match topology::home(persona, phase, offer) {
            Home::Managed { pool, class } => census.settle(persona, at, pool, class),
            Home::Own { .. } => {}
            Home::Unplaced(_) => census.unplaced += 1,
        }
    }
    census
}

impl<'a> Census<'a> {
    fn settle(&mut self, persona: &'a Persona, at: Option<&str>, pool: String, class: Class) {
        let arrived = at == Some(pool.as_str());
        let movable = !is_paused(persona);
        if arrived {
            self.arrived += 1;
        } else if movable && at.is_some() {
            self.away += 1;
        }
        let assigned = self.pools.entry(pool).or_insert_with(|| Assigned {
            class,
            members: Vec::new(),
            entering: Vec::new(),
        });
        assigned.members.push(persona);
        if !arrived && movable {
            assigned.entering.push(persona);
        }
    }
}

/// The pool that the persona's route points to.
pub fn routed_to(persona: &Persona) -> Option<&str> {
    persona.status.as_ref()?.pool.as_deref()
}

/// Requests of a persona that are being answered, as its status last said.
pub fn running(persona: &Persona) -> u64 {
    let running = persona.status.as_ref().map_or(0, |status| status.running);
    u64::try_from(running).unwrap_or_default()
}

fn is_deleting(persona: &Persona) -> bool {
    persona.metadata.deletion_timestamp.is_some()
}
