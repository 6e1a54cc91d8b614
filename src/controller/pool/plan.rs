//! What is to be done about a pool's pods. Pure: what was observed and remembered -> what to do.
//!
//! Pods are replaced and taken away in three steps that never cut a request short: a worker drains
//! (atomic with take and claim in the queue), says that nothing runs, and is deleted.

mod backoff;
mod fleet;
mod reading;

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use tokio::time::Instant;

pub use self::backoff::Backoff;
use self::fleet::Fleet;
use self::reading::reading;
use super::disruption;
use super::members::Members;
use super::observe::{Observed, PodView};
use super::template::follows_queue;
use crate::api::Span;
use crate::scaling::{self, Decision, LOOK, after, after_span, victims};

/// So long after the last pause, with a worker Ready, failed pods are forgotten.
const QUIET: Span = Span::secs(60);
/// After so long without a node for its pods a pool adds no more of them.
const STUCK: Span = Span::secs(60);

/// What is remembered of a pool between two visits. Lost with the process; then draining workers get
/// their time anew, and nothing shrinks for one window.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// For whom its workers are made.
    pub members: Members,
    /// What sizing remembers.
    pub size: Option<scaling::Memory>,
    /// Workers that were told to drain, and since when.
    pub draining: HashMap<String, Timestamp>,
    /// Workers that were told to drain, or to take again, and when by our own clock: numbers that were
    /// asked for before that say nothing of it.
    pub told: HashMap<String, Instant>,
    /// Failed pods that were counted.
    pub failed: BTreeSet<String>,
    /// Pods whose worker has been seen in the queue.
    pub began: BTreeSet<String>,
    /// Creations that the API server refused.
    pub refused: Backoff,
    /// Pods that failed after they were made.
    pub lost: Backoff,
    /// What others were told of its workers.
    pub disruption: disruption::Memory,
    /// When the status was last written.
    pub written: Option<Timestamp>,
    /// The template for which templates of claims were last looked for that no pod is made from any more.
    pub tidied: Option<String>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The size and why.
    pub decision: Decision,
    /// Pods to make.
    pub create: Vec<String>,
    /// Workers that shall take no more, by pod uid.
    pub drain: Vec<String>,
    /// Workers that shall take again.
    pub undrain: Vec<String>,
    /// Pods to delete.
    pub delete: Vec<Removal>,
    /// When to look again, though nothing else changes.
    pub again_at: Option<Timestamp>,
}

/// A pod to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Its name.
    pub name: String,
    /// Its uid: another pod of that name is not meant.
    pub uid: String,
    /// Why it may go.
    pub why: Why,
}

/// Why a pod may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It drained, and said that nothing runs.
    Drained,
    /// It drained and had never begun to take requests.
    NeverStarted,
    /// Its time to finish is over: it hands its requests back.
    TimedOut,
    /// It has failed.
    Failed,
}

/// Plans one visit.
pub fn plan(o: &Observed, memory: &mut Memory) -> Plan {
    let fleet = Fleet::new(o, memory);
    let decision = decide(o, &fleet, memory);
    let size = usize::try_from(decision.size).unwrap_or(usize::MAX);
    let mut times: Vec<Timestamp> = decision.again_at.into_iter().collect();

    let mut plan = Plan {
        create: Vec::new(),
        drain: Vec::new(),
        undrain: Vec::new(),
        delete: Vec::new(),
        again_at: None,
        decision,
    };
    let missing = grow(o, &fleet, memory, size, &mut plan);
    if missing == 0 && memory.refused.is_over(o.now) {
        // What was refused is not needed any more: what held of it then need not hold now.
        memory.refused = Backoff::default();
    }
    if fleet.is_whole {
        let has_room = !is_stuck(o, &fleet) && memory.refused.failures == 0;
        shrink(&fleet, size, has_room, &mut plan);
        remove_drained(o, &fleet, memory, &mut plan, &mut times);
        let may_not_have_heard = |pod: &&PodView| fleet.takes(pod) && fleet.is_ahead(pod);
        if fleet.leaving.iter().any(may_not_have_heard) {
            times.push(after(o.now, LOOK));
        }
    }
    remove_failed(o, memory, &mut plan);
    if !plan.drain.is_empty() {
        // Those that never took requests may go as soon as they are marked.
        times.push(o.now);
    }
    let pauses = [&memory.refused, &memory.lost].map(|backoff| backoff.until);
    times.extend(pauses.into_iter().flatten().filter(|until| *until > o.now));
    plan.again_at = times.into_iter().min();
    plan
}

fn decide(o: &Observed, fleet: &Fleet<'_>, memory: &mut Memory) -> Decision {
    let status = o.pool.status.as_ref();
    let size = memory.size.get_or_insert_with(|| {
        // What the last process wanted and had no time to make.
        let wanted = status.map_or(0, |s| u32::try_from(s.desired_replicas).unwrap_or(0));
        // Or made and had no time to tell of. What it made in place of others is not more.
        let serving = fleet.current.len() + fleet.outdated.len();
        let found = match status {
            None => serving + fleet.hollow.len(),
            Some(_) if fleet.outdated.is_empty() => serving,
            Some(_) => serving.saturating_sub(surge(wanted as usize)),
        };
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        let history = status.map_or(&[][..], |s| &s.history);
        scaling::Memory::resume(o.now, found.max(wanted), history)
    });
    let mut readings = o.external.clone();
    if follows_queue(&o.pool) {
        readings.push(reading(o, fleet));
    }
    scaling::desired(o.now, &readings, &o.pool.spec, size)
}

/// Pods to add: those who drain are called back first. While some are replaced, a quarter more than the
/// size (one at least) may be there, those not counted that drain (as a Deployment counts none that
/// terminates). Answers how many are missing, whether or not they may be made now.
fn grow(o: &Observed, fleet: &Fleet<'_>, memory: &Memory, size: usize, plan: &mut Plan) -> usize {
    let coming = o.under_way.len();
    let mut missing = size.saturating_sub(fleet.current.len() + coming);
    if fleet.stats.is_some() {
        plan.undrain = fleet.to_call_back(o, missing);
        missing -= plan.undrain.len();
    }
    if !fleet.outdated.is_empty() {
        let there = fleet.current.len() + fleet.outdated.len() + plan.undrain.len() + coming;
        missing = missing.min((size + surge(size)).saturating_sub(there));
    }
    if is_stuck(o, fleet) {
        return missing;
    }
    let allowed = memory.refused.allowed(o.now, missing);
    let allowed = memory.lost.allowed(o.now, allowed);
    let names = o.pods.iter().map(|pod| pod.name.as_str());
    let others = o.under_way.iter().chain(&o.others).map(String::as_str);
    let taken: BTreeSet<&str> = names.chain(others).collect();
    let pool = o.pool.metadata.name.as_deref().unwrap_or_default();
    plan.create = (0..)
        .map(|slot| format!("{pool}-{}-{slot}", o.template.hash))
        .filter(|name| !taken.contains(name.as_str()))
        .take(allowed)
        .collect();
    missing
}

/// Pods beside the size while some are replaced.
fn surge(size: usize) -> usize {
    (size / 4).max(1)
}

/// More pods would find no node either.
fn is_stuck(o: &Observed, fleet: &Fleet<'_>) -> bool {
    fleet.current.iter().any(|pod| {
        let since = pod.unschedulable.as_ref().map(|(since, _)| *since);
        since.is_some_and(|since| after_span(since, STUCK) <= o.now)
    })
}

/// Workers to drain: those too many, and those to be replaced as soon as others are Ready. Where there is
/// no room for others, a quarter of the size (of a pool of four or more) makes room first.
fn shrink(fleet: &Fleet<'_>, size: usize, has_room: bool, plan: &mut Plan) {
    // Deleted by others (evicted, drained node): they take no more from now on.
    let takes = |pod: &&&PodView| fleet.takes(pod) && !fleet.is_ahead(pod);
    let leaving = fleet.leaving.iter().filter(takes);
    plan.drain.extend(leaving.map(|pod| pod.uid.clone()));
    // The queue has forgotten that they were told.
    let draining = fleet.draining.iter().filter(takes);
    let forgot = draining.filter(|pod| !plan.undrain.contains(&pod.uid));
    plan.drain.extend(forgot.map(|pod| pod.uid.clone()));
    plan.drain
        .extend(fleet.hollow.iter().map(|pod| pod.uid.clone()));

    let too_many = fleet.current.len().saturating_sub(size);
    let current = fleet.candidates(&fleet.current, false);
    plan.drain.extend(victims(current, too_many));

    let ready = fleet.current.iter().filter(|pod| pod.ready).count();
    let serving = ready.min(size) + fleet.outdated.len();
    let spare = serving.saturating_sub(size).min(fleet.outdated.len());
    let outdated = fleet.candidates(&fleet.outdated, true);
    plan.drain.extend(victims(outdated, spare));
    if spare == 0 && !has_room {
        // Room on a node that goes is of no use.
        let outdated = fleet.outdated.iter().copied();
        let movable: Vec<_> = outdated.filter(|pod| !pod.node_going).collect();
        let dispensable = serving.saturating_sub(size - size / 4);
        plan.drain
            .extend(victims(fleet.candidates(&movable, true), dispensable));
    }
}

fn remove_drained(
    o: &Observed,
    fleet: &Fleet<'_>,
    memory: &Memory,
    plan: &mut Plan,
    times: &mut Vec<Timestamp>,
) {
    for pod in &fleet.draining {
        if plan.undrain.contains(&pod.uid) {
            continue;
        }
        let since = memory.draining.get(&pod.uid).copied().unwrap_or(o.now);
        let due = after_span(since, o.drain_timeout);
        let is_ahead = fleet.is_ahead(pod);
        let why = match fleet.workers.get(pod.uid.as_str()) {
            // It may have taken requests since, and begun to.
            _ if is_ahead && due > o.now => None,
            // Unless it was there before: then it tells of itself again within a few seconds.
            None if !memory.began.contains(&pod.uid) => Some(Why::NeverStarted),
            Some(worker) if worker.drained => Some(Why::Drained),
            // Who is told anew only now has taken requests until now.
            _ if due <= o.now && !plan.drain.contains(&pod.uid) => Some(Why::TimedOut),
            _ => None,
        };
        match why {
            Some(why) => plan.delete.push(Removal {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                why,
            }),
            None if is_ahead => times.push(after(o.now, LOOK)),
            None => times.push(due),
        }
    }
}

fn remove_failed(o: &Observed, memory: &mut Memory, plan: &mut Plan) {
    for pod in &o.pods {
        let Some(words) = &pod.failed else { continue };
        let is_new = memory.failed.insert(pod.uid.clone());
        // What a node loses together is one failure.
        if is_new && memory.lost.until.is_none_or(|until| until <= o.now) {
            memory.lost.fail(o.now, words.clone(), usize::MAX);
        }
        if !pod.deleting {
            plan.delete.push(Removal {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                why: Why::Failed,
            });
        }
    }
}

#[cfg(test)]
mod tests;
