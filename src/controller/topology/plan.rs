//! From what was observed to what is to be done. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::census::{self, Census};
use super::pools::{self, Retired};
use super::progress::{self, Step};
use super::{is_paused, verdicts};
use crate::api::condition::QUEUE_SAFE;
use crate::api::{
    Persona, PersonaTopology, PersonaTopologyStatus, TopologyPool, WorkerPool, condition,
};
use crate::controller::context::News;
use crate::placement::Offer;

/// What the plan is made from.
pub struct Observed<'a> {
    /// The topology with its last status.
    pub topology: &'a PersonaTopology,
    /// All personas of the namespace.
    pub personas: &'a [Arc<Persona>],
    /// All pools of the namespace, whoever made them.
    pub pools: &'a [Arc<WorkerPool>],
    /// The highest epoch that the queue has answered with.
    pub seen_epoch: Option<u64>,
    /// What is said of the queue's server; none where it was not asked, which changes nothing.
    pub queue: Option<condition::Verdict>,
    /// Pools that were refused when they were last written or taken away, with the words of who did.
    pub refusals: &'a BTreeMap<String, String>,
}

/// What is to be done, in this order: write the status, apply pools, retire pools.
#[derive(Debug)]
pub struct Plan {
    /// The status, whole.
    pub status: PersonaTopologyStatus,
    /// Pools to apply, whole.
    pub apply: Vec<WorkerPool>,
    /// Pools to close and delete.
    pub retire: Vec<Retired>,
    /// What people are told.
    pub news: Vec<News>,
    /// Personas that have still to move to their pool.
    pub moving: i32,
    /// When to plan again, though nothing else changes.
    pub again_at: Option<Timestamp>,
}

/// Plans: the phase by the number of personas, the pools of that phase, and nothing that would take a
/// pool from under anybody.
pub fn plan(now: Timestamp, observed: &Observed<'_>) -> Plan {
    let topology = observed.topology;
    let before = topology.status.clone().unwrap_or_default();
    if is_paused(topology) {
        return paused(now, before, observed);
    }
    let count = census::count(observed.personas);
    let decision = progress::decide(now, topology, count);
    let phase = decision.phase;
    let census = census::take(observed.personas, phase, &Offer::of(&topology.spec));
    let (transition, step) = progress::transition(now, &before, phase, &census);
    let existing = pools::by_name(observed.pools);
    let changes = pools::changes(&census, phase, &topology.spec, &existing);
    let pools = listed(&census);
    let mut status = PersonaTopologyStatus {
        phase: Some(phase),
        personas: i32::try_from(count.personas).unwrap_or(i32::MAX),
        epoch: progress::epoch(now, topology, &decision, observed.seen_epoch),
        below_since: decision.below.map(|below| Time(below.since)),
        below_phase: decision.below.map(|below| below.phase),
        pool_count: i32::try_from(pools.len()).unwrap_or(i32::MAX),
        pools,
        transition,
        history: progress::history(now, &before, &step, &decision.reason),
        observed_generation: topology.metadata.generation,
        conditions: Vec::new(),
    };
    let verdicts = verdicts::verdicts(
        observed,
        &status,
        &census,
        &existing,
        &changes,
        &decision.reason,
    );
    let news = news(now, &before, &step, &decision.reason, &verdicts);
    let generation = topology.metadata.generation;
    status.conditions = conditions(now, &before, verdicts, observed, generation);
    Plan {
        status,
        apply: changes.apply,
        retire: changes.retire,
        news,
        moving: census.away,
        again_at: decision.again_at,
    }
}

fn paused(now: Timestamp, mut status: PersonaTopologyStatus, observed: &Observed<'_>) -> Plan {
    let generation = status.observed_generation;
    status.conditions = conditions(now, &status, verdicts::paused(), observed, generation);
    Plan {
        status,
        apply: Vec::new(),
        retire: Vec::new(),
        news: Vec::new(),
        moving: 0,
        again_at: None,
    }
}

/// What the topology says of itself, and what is said of the queue.
fn conditions(
    now: Timestamp,
    before: &PersonaTopologyStatus,
    mut verdicts: Vec<condition::Verdict>,
    observed: &Observed<'_>,
    generation: Option<i64>,
) -> Vec<Condition> {
    verdicts.extend(observed.queue.clone());
    let mut after = condition::merge(&before.conditions, &verdicts, generation, now);
    if observed.queue.is_none() {
        let mut before = before.conditions.iter();
        after.extend(before.find(|c| c.type_ == QUEUE_SAFE).cloned());
    }
    after
}

fn listed(census: &Census<'_>) -> Vec<TopologyPool> {
    census
        .pools
        .iter()
        .map(|(name, assigned)| TopologyPool {
            name: name.clone(),
            class: assigned.class.to_string(),
            personas: i32::try_from(assigned.members.len()).unwrap_or(i32::MAX),
        })
        .collect()
}

/// What is new to people: a phase that begins or is complete, and a trouble that was not there before.
fn news(
    now: Timestamp,
    before: &PersonaTopologyStatus,
    step: &Step,
    reason: &str,
    verdicts: &[condition::Verdict],
) -> Vec<News> {
    let mut news = Vec::new();
    match step {
        Step::None => {}
        Step::Begun { from, to } => {
            let note = format!("{} -> {}: {reason}", from.as_str(), to.as_str());
            news.push(News::normal("PhaseChanged", "ChangePhase", note));
        }
        Step::Done(transition) => {
            let took = now.duration_since(transition.started_at.0).as_secs();
            let note = format!("{} in {took} s", transition.progress);
            news.push(News::normal("PhaseComplete", "ChangePhase", note));
        }
    }
    let troubles = verdicts
        .iter()
        .filter(|v| ["PoolNameTaken", "PoolRefused"].contains(&v.reason));
    for trouble in troubles {
        let known = before
            .conditions
            .iter()
            .any(|c| c.type_ == trouble.type_ && c.reason == trouble.reason);
        if !known {
            let note = trouble.message.clone();
            news.push(News::warning(trouble.reason, "MakePools", note));
        }
    }
    news
}
