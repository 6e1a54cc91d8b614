//! The topology of a namespace: which pools its personas share.
//!
//! It says in its status where everyone belongs and makes the pools; each persona walks over by itself
//! when its pool is ready ([`super::persona`]); a pool that nobody needs any more is closed in the
//! queue, which succeeds only when it is empty, and deleted. Every step is taken again from what is
//! there, so that a process that ends at any point leaves nothing half done.
//!
//! - `plan` pure, from `census` (who belongs where), `progress` (phase, epoch, move), `pools` (which
//!   there shall be) and `verdicts` (conditions)
//! - `apply` makes and retires pools

mod apply;
mod census;
pub(super) mod plan;
mod pools;
mod progress;
#[cfg(test)]
mod tests;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::context::{is_paused, now};
use super::{Context, Error, status};
use crate::api::condition::STABLE;
use crate::api::{PersonaTopology, PersonaTopologyStatus, Phase};
use crate::lock::lock;

use plan::{Observed, Plan, plan};

pub use apply::{make, tidy};

/// Field manager of topologies' statuses and of the pools that they make.
const FIELD_MANAGER: &str = "persona-operator-topology";
/// A visit at the latest after this, whatever was heard: its metrics have no other clock.
const AT_LEAST: Duration = Duration::from_secs(30);
/// When to try again what the API server refused.
const REFUSED: Duration = Duration::from_secs(15);
/// When to look again at a pool that somebody is still in.
const BUSY: Duration = Duration::from_secs(1);
/// The progress of a move is written this often at most.
const PROGRESS: Duration = Duration::from_millis(250);

/// What is remembered of a topology between two visits; a new process begins without.
#[derive(Debug, Default)]
pub struct Memory {
    /// Pools that were refused when they were last written or taken away, with the words of who did.
    refusals: BTreeMap<String, String>,
    /// When the status was last written.
    written: Option<Timestamp>,
}

/// One visit to a topology.
pub fn reconcile(
    topology: Arc<PersonaTopology>,
    cx: Arc<Context>,
) -> BoxFuture<'static, Result<Action, Error>> {
    Box::pin(async move { visit(&cx, cx.stores.written_topologies.of(topology)).await })
}

async fn visit(cx: &Context, topology: Arc<PersonaTopology>) -> Result<Action, Error> {
    let namespace = topology.namespace().unwrap_or_default();
    let now = now();
    let (refusals, written) = {
        let mut all = memory(cx);
        let memory = all.entry(namespace.clone()).or_default();
        (memory.refusals.clone(), memory.written)
    };
    let personas: Vec<_> = cx.stores.personas_of(&namespace).collect();
    let pools: Vec<_> = cx.stores.pools_of(&namespace).collect();
    let plan = plan(
        now,
        &Observed {
            topology: &topology,
            personas: &personas,
            pools: &pools,
            seen_epoch: cx.routes.overtaken_by(&namespace),
            queue: cx.contact.safety(),
            refusals: &refusals,
        },
    );
    measure(cx, &namespace, &plan);
    let mut waits = vec![AT_LEAST];
    waits.extend(plan.again_at.map(|at| until(at, now)));

    // The status first: whoever makes pods for a new pool asks it who belongs there.
    let before = topology.status.clone().unwrap_or_default();
    match due(&before, &plan.status, written, now) {
        Some(Duration::ZERO) => {
            if !write(cx, &topology, &plan.status).await? {
                return Ok(Action::await_change());
            }
            for news in plan.news {
                cx.tell(&*topology, news).await;
            }
            memory(cx).entry(namespace.clone()).or_default().written = Some(now);
        }
        Some(wait) => waits.push(wait),
        None => {}
    }

    let mut tried = apply::apply(cx, &namespace, plan.apply).await?;
    let epoch = u64::try_from(plan.status.epoch).unwrap_or_default();
    let retirement = apply::retire(cx, &namespace, &plan.retire, epoch).await;
    if let Ok(retirement) = &retirement {
        tried.extend(retirement.answers.iter().cloned());
    }
    let mut refused = refusals.clone();
    refused.retain(|name, _| {
        let wanted = plan.status.pools.iter().any(|pool| pool.name == *name);
        wanted || plan.retire.iter().any(|retired| retired.name == *name)
    });
    for (name, words) in tried {
        match words {
            None => drop(refused.remove(&name)),
            Some(words) => drop(refused.insert(name, words)),
        }
    }
    if !refused.is_empty() {
        waits.push(REFUSED);
    }
    if refused != refusals {
        waits.push(Duration::ZERO);
        memory(cx).entry(namespace.clone()).or_default().refusals = refused;
    }

    if retirement?.busy > 0 {
        waits.push(BUSY);
    }
    let wait = waits.into_iter().min().unwrap_or(AT_LEAST);
    Ok(Action::requeue(wait.max(Duration::from_millis(20))))
}

/// The topology is gone.
pub fn forget(cx: &Context, namespace: &str) {
    memory(cx).remove(namespace);
}

/// Whether it was written: not if the topology is gone.
async fn write(
    cx: &Context,
    topology: &PersonaTopology,
    after: &PersonaTopologyStatus,
) -> Result<bool, Error> {
    let latest = &cx.stores.written_topologies;
    match status::write(&cx.client, latest, FIELD_MANAGER, topology, after).await {
        Ok(()) => Ok(true),
        Err(error) if status::is_gone(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// When the status is to be written, if it is to be at all: at once, except the mere progress of a
/// move, which everybody who moves changes.
fn due(
    before: &PersonaTopologyStatus,
    after: &PersonaTopologyStatus,
    written: Option<Timestamp>,
    now: Timestamp,
) -> Option<Duration> {
    if before == after {
        return None;
    }
    let next = written.and_then(|written| written.checked_add(PROGRESS).ok());
    match next {
        Some(next) if still(before) == still(after) => Some(until(next, now)),
        _ => Some(Duration::ZERO),
    }
}

fn still(status: &PersonaTopologyStatus) -> PersonaTopologyStatus {
    let mut status = status.clone();
    if let Some(transition) = &mut status.transition {
        transition.moved = 0;
        transition.total = 0;
        transition.progress.clear();
        for condition in status.conditions.iter_mut().filter(|c| c.type_ == STABLE) {
            condition.message.clear();
        }
    }
    status
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

fn measure(cx: &Context, namespace: &str, plan: &Plan) {
    let m = &cx.metrics;
    for phase in Phase::ALL {
        let labels = [namespace, phase.as_str()];
        let is = plan.status.phase == Some(phase);
        m.phase.with_label_values(&labels).set(i64::from(is));
        let now = |number: i32| if is { i64::from(number) } else { 0 };
        let personas = now(plan.status.personas);
        m.personas.with_label_values(&labels).set(personas);
        m.moving.with_label_values(&labels).set(now(plan.moving));
    }
    let phase = plan.status.phase.unwrap_or_default();
    let memory = memory_per_persona(cx, namespace, plan);
    for other in Phase::ALL {
        let labels = [namespace, other.as_str()];
        let share = if other == phase { memory } else { 0.0 };
        m.memory_per_persona.with_label_values(&labels).set(share);
    }
}

/// Resident memory of the workers of the topology's pools, over the personas that belong there.
// Memory of workers is far below 2^53 bytes: exact as a float.
#[allow(clippy::cast_precision_loss)]
fn memory_per_persona(cx: &Context, namespace: &str, plan: &Plan) -> f64 {
    let pools = &plan.status.pools;
    let memory: u64 = pools
        .iter()
        .filter_map(|pool| cx.observer.stats(namespace, &pool.name).ok())
        .flat_map(|stats| stats.workers.clone())
        .map(|worker| worker.memory_bytes)
        .sum();
    let personas: i32 = pools.iter().map(|pool| pool.personas).sum();
    memory as f64 / f64::from(personas.max(1))
}

fn memory(cx: &Context) -> MutexGuard<'_, std::collections::HashMap<String, Memory>> {
    lock(&cx.topology_memory)
}
