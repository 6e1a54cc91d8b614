//! Phase, epoch, move and history: from the last status to the next. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::census::{Census, Count};
use crate::api::{PersonaTopology, PersonaTopologyStatus, Phase, PhaseRecord, Transition};
use crate::topology::{self, Below, PhaseDecision, Previous};

/// Changes of phase that the status remembers.
const HISTORY: usize = 10;
/// Longest reason of a record.
const REASON: usize = 1024;

/// Decides the phase anew.
pub fn decide(now: Timestamp, topology: &PersonaTopology, count: Count) -> PhaseDecision {
    let previous = topology.status.as_ref().and_then(|status| {
        let below = status.below_since.as_ref().zip(status.below_phase);
        Some(Previous {
            phase: status.phase?,
            below: below.map(|(since, phase)| Below {
                since: since.0,
                phase,
            }),
        })
    });
    topology::phase(
        now,
        count.personas,
        count.adapters,
        previous,
        &topology.spec,
    )
}

/// The epoch that goes with the decision: it grows with each change of phase or spec, and beyond any
/// that the queue has seen. A new topology begins with the time, so that it comes after one of its
/// name that was deleted.
pub fn epoch(
    now: Timestamp,
    topology: &PersonaTopology,
    decision: &PhaseDecision,
    seen: Option<u64>,
) -> i64 {
    let before = topology.status.clone().unwrap_or_default();
    let seen = seen.map_or(0, |epoch| i64::try_from(epoch).unwrap_or(i64::MAX - 1));
    let last = before.epoch.max(seen);
    if before.phase.is_none() {
        return now.as_millisecond().max(last + 1);
    }
    let changed = before.phase != Some(decision.phase)
        || before.observed_generation != topology.metadata.generation;
    if changed || seen > before.epoch {
        last + 1
    } else {
        before.epoch
    }
}

/// What happened to the move between phases.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The phase is what it was.
    None,
    /// Another phase begins.
    Begun {
        /// Phase before.
        from: Phase,
        /// Phase after.
        to: Phase,
    },
    /// Everybody has moved.
    Done(Transition),
}

/// The move that is under way now, and what became of it.
pub fn transition(
    now: Timestamp,
    before: &PersonaTopologyStatus,
    phase: Phase,
    census: &Census<'_>,
) -> (Option<Transition>, Step) {
    let begun = before.phase.filter(|from| *from != phase);
    let current = match begun {
        Some(from) => Some((from, phase, Time(now))),
        None => before
            .transition
            .as_ref()
            .map(|t| (t.from, t.to, t.started_at.clone())),
    };
    let step = begun.map_or(Step::None, |from| Step::Begun { from, to: phase });
    let Some((from, to, started_at)) = current else {
        return (None, step);
    };
    let total = census.arrived + census.away;
    let transition = Transition {
        from,
        to,
        moved: census.arrived,
        total,
        progress: format!(
            "{} -> {} {}/{total}",
            from.as_str(),
            to.as_str(),
            census.arrived
        ),
        started_at,
    };
    match (census.away, step) {
        (0, Step::None) => (None, Step::Done(transition)),
        (0, step) => (None, step),
        (_, step) => (Some(transition), step),
    }
}

/// The last changes of phase, newest first.
pub fn history(
    now: Timestamp,
    before: &PersonaTopologyStatus,
    step: &Step,
    reason: &str,
) -> Vec<PhaseRecord> {
    let mut history = before.history.clone();
    if let Step::Begun { from, to } = step {
        let record = PhaseRecord {
            at: Time(now),
            from: *from,
            to: *to,
            reason: reason.chars().take(REASON).collect(),
        };
        history.insert(0, record);
        history.truncate(HISTORY);
    }
    history
}
