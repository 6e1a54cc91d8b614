//! The WorkerPools that the topology wants, and how they differ from those that are there. Pure.
//!
//! A pool is the topology's own by its label [`names::LABEL_TOPOLOGY`]; it has no ownerReference,
//! because deleting the topology must not take running requests along. Pools without the label, and
//! copies of its own under another name, are somebody else's: never adopted, changed or removed,
//! whatever they are called.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::census::{Assigned, Census, running};
use super::is_paused;
use crate::api::names::{self, of_topology};
use crate::api::{Persona, PersonaTopologySpec, Phase, WorkerPool, WorkerPoolSpec};
use crate::placement::Class;
use crate::topology::PhaseGroup;

/// Most entries of `stealFrom`.
const STEAL_LIMIT: usize = 64;

/// The pools of a namespace by name.
pub type Existing<'a> = BTreeMap<&'a str, &'a WorkerPool>;

/// The pools of a namespace by name.
pub fn by_name(pools: &[Arc<WorkerPool>]) -> Existing<'_> {
    pools
        .iter()
        .filter_map(|pool| Some((pool.metadata.name.as_deref()?, &**pool)))
        .collect()
}

/// A pool to close and delete, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Name of the pool.
    pub name: String,
    /// `metadata.uid`: another pool of that name is not meant.
    pub uid: String,
    /// `metadata.generation`: nor is one that somebody has wanted otherwise since.
    pub generation: Option<i64>,
}

impl Retired {
    /// The pool as it is here.
    pub fn of(pool: &WorkerPool) -> Self {
        Self {
            name: pool.metadata.name.clone().unwrap_or_default(),
            uid: pool.metadata.uid.clone().unwrap_or_default(),
            generation: pool.metadata.generation,
        }
    }
}

/// What is to be done about pools.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Pools to apply, whole.
    pub apply: Vec<WorkerPool>,
    /// Pools to close and delete.
    pub retire: Vec<Retired>,
    /// Names that somebody else's pool has taken.
    pub taken: Vec<String>,
}

/// Compares what is wanted with what is there.
pub fn changes(
    census: &Census<'_>,
    phase: Phase,
    spec: &PersonaTopologySpec,
    existing: &Existing<'_>,
) -> Changes {
    let mut changes = Changes::default();
    let families = families(census, phase);
    for (name, assigned) in &census.pools {
        let found = existing.get(name.as_str()).copied();
        if found.is_some_and(|pool| !of_topology(&pool.metadata)) {
            changes.taken.push(name.clone());
            continue;
        }
        let siblings = match assigned.class {
            Class::Api => &families[..],
            Class::Cpu | Class::Gpu { .. } => &[],
        };
        let wanted = wanted(name, assigned, phase, siblings, spec, found);
        changes.apply_where_different(wanted, found);
    }
    for (name, pool) in existing {
        if census.pools.contains_key(*name) || !of_topology(&pool.metadata) {
            continue;
        }
        if census.occupied.contains(name) {
            if let Some(kept) = kept(pool, spec, existing) {
                changes.apply_where_different(kept, Some(pool));
            }
        } else if pool.metadata.deletion_timestamp.is_none() && !is_paused(*pool) {
            changes.retire.push(Retired::of(pool));
        }
    }
    changes
}

impl Changes {
    fn apply_where_different(&mut self, mut wanted: WorkerPool, found: Option<&WorkerPool>) {
        // Another pool of that name is not meant.
        wanted.metadata.uid = found.and_then(|pool| pool.metadata.uid.clone());
        let differs = match found {
            None => true,
            Some(pool) if is_paused(pool) || pool.metadata.deletion_timestamp.is_some() => false,
            Some(pool) => !covers(pool, &wanted),
        };
        if differs {
            self.apply.push(wanted);
        }
    }
}

/// Pools whose idle workers help each other, in the order of their names. In Hybrid those of all types
/// that call an API, because a model server has only the models of its pool; elsewhere nobody helps:
/// Specialized keeps types apart, and in the other phases there is one pool for all, or isolation is
/// the point.
fn families<'a>(census: &'a Census<'_>, phase: Phase) -> Vec<&'a str> {
    let pools = census.pools.iter().filter(|_| phase == Phase::Hybrid);
    let api = pools.filter(|(_, assigned)| assigned.class == Class::Api);
    api.map(|(name, _)| name.as_str()).collect()
}

/// The pools after `name` in the circle of its family: where a family is larger than the limit, each
/// pool is helped by as many others as any.
fn helps(name: &str, family: &[&str]) -> Vec<String> {
    let here = family.partition_point(|other| *other <= name);
    let mut helped: Vec<String> = family[here..]
        .iter()
        .chain(&family[..here])
        .filter(|other| **other != name)
        .take(STEAL_LIMIT)
        .map(|other| (*other).to_owned())
        .collect();
    helped.sort_unstable();
    helped
}

fn wanted(
    name: &str,
    assigned: &Assigned<'_>,
    phase: Phase,
    family: &[&str],
    spec: &PersonaTopologySpec,
    found: Option<&WorkerPool>,
) -> WorkerPool {
    let mut pool = defaults(spec, assigned.class);
    pool.steal_from = helps(name, family);
    pool.warm_replicas = warm(&assigned.entering, &pool, found);
    if assigned.members.iter().all(|persona| persona.spec.suspend) {
        pool.min_replicas = 0;
    }
    let mut labels = BTreeMap::from([
        (names::LABEL_PHASE, phase.as_str().to_owned()),
        (names::LABEL_CLASS, assigned.class.to_string()),
    ]);
    if let Some(member) = assigned.members.first() {
        match PhaseGroup::from(phase) {
            PhaseGroup::PerPersona => {
                let name = member.metadata.name.clone().unwrap_or_default();
                labels.insert(names::LABEL_PERSONA, name);
            }
            PhaseGroup::Generic => {}
            PhaseGroup::Typed => {
                labels.insert(names::LABEL_TYPE, names::label_value(&member.spec.type_));
            }
        }
    }
    object(name, labels, pool)
}

/// A pool that nobody belongs to any more, while somebody is still there: it follows the topology's
/// spec as the others do, so that a mend reaches it when the move takes long.
fn kept(
    pool: &WorkerPool,
    spec: &PersonaTopologySpec,
    existing: &Existing<'_>,
) -> Option<WorkerPool> {
    let found = pool.metadata.labels.as_ref()?;
    let mut new = defaults(spec, found.get(names::LABEL_CLASS)?.parse().ok()?);
    let helped = pool.spec.steal_from.iter();
    new.steal_from = helped
        .filter(|name| existing.contains_key(name.as_str()))
        .cloned()
        .collect();
    let labels = [
        names::LABEL_PHASE,
        names::LABEL_CLASS,
        names::LABEL_PERSONA,
        names::LABEL_TYPE,
    ];
    let labels = labels
        .into_iter()
        .filter_map(|key| Some((key, found.get(key)?.clone())))
        .collect();
    Some(object(pool.metadata.name.as_deref()?, labels, new))
}

fn defaults(spec: &PersonaTopologySpec, class: Class) -> WorkerPoolSpec {
    let mut pool = match class {
        Class::Gpu { .. } => spec.gpu_pool.as_ref().unwrap_or(&spec.pool).clone(),
        Class::Api | Class::Cpu => spec.pool.clone(),
    };
    pool.placement = class.placement(pool.placement.gpu);
    // Who pins a pool by `kubectl scale` owns this field.
    pool.replicas = None;
    pool
}

/// Workers that must be ready before anybody enters: enough for the requests that those who enter
/// have running. What was asked for before stays, as long as it is enough and not twice as much, so
/// that the pool does not chase a number that moves.
fn warm(entering: &[&Persona], pool: &WorkerPoolSpec, found: Option<&WorkerPool>) -> Option<u32> {
    if entering.is_empty() {
        return None;
    }
    let running: u64 = entering.iter().map(|persona| running(persona)).sum();
    let slots = u64::from(pool.slots_per_worker.max(1));
    let needed = u32::try_from(running.div_ceil(slots)).unwrap_or(u32::MAX);
    let needed = needed.clamp(1, pool.max_replicas.max(1));
    let before = found.and_then(|pool| pool.spec.warm_replicas);
    let keep = before.filter(|before| (needed..=needed.saturating_mul(2)).contains(before));
    Some(keep.unwrap_or(needed).min(pool.max_replicas.max(1)))
}

fn object(name: &str, labels: BTreeMap<&str, String>, spec: WorkerPoolSpec) -> WorkerPool {
    let mut pool = WorkerPool::new(name, spec);
    let own = [
        (names::LABEL_MANAGED_BY, names::MANAGER.to_owned()),
        (names::LABEL_TOPOLOGY, names::TOPOLOGY_NAME.to_owned()),
    ];
    let labels = labels.into_iter().chain(own);
    pool.metadata.labels = Some(labels.map(|(k, v)| (k.to_owned(), v)).collect());
    let mark = names::applied(name, &ours(&pool).to_string());
    let annotations = BTreeMap::from([(names::ANNOTATION_APPLIED.to_owned(), mark)]);
    pool.metadata.annotations = Some(annotations);
    pool
}

/// What the topology says of a pool.
fn ours(pool: &WorkerPool) -> Value {
    json!({"labels": pool.metadata.labels, "spec": pool.spec})
}

/// Whether the pool is as wanted: it has all that the topology wants, and the topology did not want
/// more when it applied last. What others added is theirs.
fn covers(pool: &WorkerPool, wanted: &WorkerPool) -> bool {
    let applied = |pool: &WorkerPool| {
        let annotations = pool.metadata.annotations.as_ref()?;
        annotations.get(names::ANNOTATION_APPLIED).cloned()
    };
    applied(pool) == applied(wanted) && contains(&ours(pool), &ours(wanted))
}

fn contains(all: &Value, part: &Value) -> bool {
    match (all, part) {
        (Value::Object(all), Value::Object(part)) => part
            .iter()
            .all(|(key, value)| all.get(key).is_some_and(|found| contains(found, value))),
        (Value::Array(all), Value::Array(part)) => part
            .iter()
            .all(|value| all.iter().any(|found| contains(found, value))),
        _ => all == part,
    }
}
