//! What the topology says of itself: its conditions. Pure.

use std::collections::BTreeMap;

use super::census::{Assigned, Census};
use super::plan::Observed;
use super::pools::{Changes, Existing};
use crate::api::condition::{self, READY, STABLE, Verdict};
use crate::api::{PersonaTopologyStatus, WorkerPool};
use crate::controller::words::some_of;

/// The conditions of a topology that its owner has paused.
pub fn paused() -> Vec<Verdict> {
    let message = "annotation persona.dev/paused is true: phase and pools stay as they are; remove it to go on";
    [READY, STABLE]
        .map(|type_| Verdict::unknown(type_, "Paused", message))
        .into()
}

/// The conditions of a topology at work.
pub fn verdicts(
    observed: &Observed<'_>,
    status: &PersonaTopologyStatus,
    census: &Census<'_>,
    existing: &Existing<'_>,
    changes: &Changes,
    decision: &str,
) -> Vec<Verdict> {
    let (stay, written) = observed
        .refusals
        .iter()
        .partition(|(name, _)| changes.retire.iter().any(|retired| retired.name == **name));
    vec![
        ready(&written, status, census, existing, changes),
        stable(&stay, status, census, changes, decision),
    ]
}

/// Pools that the API server refused something for, with its words.
type Refusals<'a> = Vec<(&'a String, &'a String)>;

fn ready(
    refusals: &Refusals<'_>,
    status: &PersonaTopologyStatus,
    census: &Census<'_>,
    existing: &Existing<'_>,
    changes: &Changes,
) -> Verdict {
    if !changes.taken.is_empty() {
        let message = format!(
            "WorkerPool {} was not made by this topology and is not touched: delete it, or make it again \
             under another name; until then those who belong there stay where they are",
            some_of(&changes.taken)
        );
        return Verdict::no(READY, "PoolNameTaken", message);
    }
    if let Some(((name, words), more)) = first(refusals) {
        let message = format!("WorkerPool {name} could not be written: {words}{more}");
        return Verdict::no(READY, "PoolRefused", message);
    }
    let waiting = not_ready(&census.pools, existing);
    if !waiting.is_empty() {
        let message = format!(
            "{} of {} pools are not ready: {}; who belongs there stays where they are until they are",
            waiting.len(),
            census.pools.len(),
            some_of(&waiting),
        );
        return Verdict::no(READY, "PoolsNotReady", message);
    }
    let phase = status.phase.unwrap_or_default().as_str();
    let unplaced = match census.unplaced {
        0 => String::new(),
        1 => "; 1 persona has no place, its conditions say why".to_owned(),
        n => format!("; {n} personas have no place, their conditions say why"),
    };
    if census.pools.is_empty() {
        let message = format!("no persona needs a pool of the topology{unplaced}");
        return Verdict::yes(READY, "NoPools", message);
    }
    let message = format!(
        "phase {phase}: {} pools for {} personas{unplaced}",
        census.pools.len(),
        census
            .pools
            .values()
            .map(|p| p.members.len())
            .sum::<usize>(),
    );
    Verdict::yes(READY, "PoolsReady", message)
}

/// Pools that are wanted and not ready, each with the reason it gives itself.
fn not_ready(wanted: &BTreeMap<String, Assigned<'_>>, existing: &Existing<'_>) -> Vec<String> {
    wanted
        .keys()
        .filter_map(|name| match existing.get(name.as_str()) {
            None => Some(format!("{name} (being made)")),
            Some(pool) if is_ready(pool) => None,
            Some(pool) => Some(format!("{name} ({})", reason(pool))),
        })
        .collect()
}

fn is_ready(pool: &WorkerPool) -> bool {
    let status = pool.status.as_ref();
    status.is_some_and(|status| condition::holds(&status.conditions, READY))
}

fn reason(pool: &WorkerPool) -> &str {
    let conditions = pool.status.as_ref().map(|status| &status.conditions);
    conditions
        .and_then(|conditions| conditions.iter().find(|c| c.type_ == READY))
        .map_or("being made", |c| &c.reason)
}

/// The first refusal, and how many more there are.
fn first<'a>(refusals: &Refusals<'a>) -> Option<((&'a String, &'a String), String)> {
    let first = refusals.first()?;
    let more = match refusals.len() {
        1 => String::new(),
        n => format!("; {} more were refused too", n - 1),
    };
    Some((*first, more))
}

fn stable(
    refusals: &Refusals<'_>,
    status: &PersonaTopologyStatus,
    census: &Census<'_>,
    changes: &Changes,
    decision: &str,
) -> Verdict {
    if let Some(transition) = &status.transition {
        return Verdict::no(STABLE, "Moving", transition.progress.clone());
    }
    if census.away > 0 {
        let message = format!("{} personas have still to move to their pool", census.away);
        return Verdict::no(STABLE, "Moving", message);
    }
    if let Some(((name, words), more)) = first(refusals) {
        let message = format!(
            "WorkerPool {name}, which nobody needs any more, could not be taken away: {words}{more}; tried \
             again until it can"
        );
        return Verdict::no(STABLE, "PoolRefused", message);
    }
    if !changes.retire.is_empty() {
        let names: Vec<&str> = changes.retire.iter().map(|r| r.name.as_str()).collect();
        let message = format!(
            "pools that nobody needs any more are drained: {}",
            some_of(&names)
        );
        return Verdict::no(STABLE, "Retiring", message);
    }
    Verdict::yes(STABLE, "Settled", decision)
}
