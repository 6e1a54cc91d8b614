//! WorkerPool: its pods, made and taken away so that no request is cut short.

mod apply;
mod disruption;
mod gpu;
mod grow;
mod members;
pub(crate) mod observe;
pub(crate) mod plan;
pub mod server;
mod status;
pub mod template;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use self::observe::Observed;
pub use self::plan::Memory;
use self::status::Counts;
use super::context::{is_paused, now};
use super::{Context, Error, metrics, observer};
use crate::api::condition::merge;
use crate::api::{WorkerPool, WorkerPoolStatus};
use crate::lock::lock;
use crate::scaling::{QUEUE, Reading};

/// Field manager of pools' statuses.
const FIELD_MANAGER: &str = "persona-operator-pool";
/// Until metrics from elsewhere have been asked for once.
const SOON: Duration = Duration::from_secs(1);
/// A visit at the latest after this, whatever was heard.
const AT_LEAST: Duration = Duration::from_secs(300);

/// Whether this very pool made the object, and not an earlier one of its name.
fn is_owned(object: &impl ResourceExt, pool: &WorkerPool) -> bool {
    let mut owners = object.owner_references().iter();
    owners.any(|owner| Some(&owner.uid) == pool.metadata.uid.as_ref())
}

/// One visit to a pool.
pub fn reconcile(
    pool: Arc<WorkerPool>,
    cx: Arc<Context>,
) -> BoxFuture<'static, Result<Action, Error>> {
    Box::pin(async move {
        let pool = cx.stores.written_pools.of(pool);
        if pool.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        if is_paused(&*pool) {
            return paused(&cx, &pool).await;
        }
        let key = (pool.namespace().unwrap_or_default(), pool.name_any());
        let mut memory = take_memory(&cx, &key);
        let result = visit(&cx, pool, &mut memory).await;
        put_memory(&cx, key, memory);
        result
    })
}

async fn visit(cx: &Context, pool: Arc<WorkerPool>, memory: &mut Memory) -> Result<Action, Error> {
    if !cx.sources.have_asked(&pool) {
        // The first answers wake it sooner.
        return Ok(Action::requeue(SOON));
    }
    let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
    if cx.observer.reading(&namespace, &name).is_none() && cx.contact.usable().is_ok() {
        // A new pool is opened at its first visit, and not when the next tick comes by.
        observer::look_at(cx, &namespace, &name).await;
    }
    let mut observed = observe::observe(cx, pool, &mut memory.members, now());
    let mut plan = plan::plan(&observed, memory);
    if plan.decision.awaits_reading || !plan.decision.blind.is_empty() {
        // It says once more that the pool may shrink, or is the first one after an outage or of a queue
        // that counts anew.
        cx.observer.look(&namespace, &name);
    }
    let mut applied = apply::apply(cx, &observed, &mut plan, memory).await;
    // Workers of the owner's are made, whatever has become of the queue.
    if applied.is_ok() || !template::follows_queue(&observed.pool) {
        let grown = grow::grow(cx, &mut observed, &mut plan, memory).await;
        applied = applied.and(grown);
    }
    // What the plan's effects are is read anew: a created pod counts at once.
    let (pool, at) = (observed.pool.clone(), observed.now);
    let seen = Observed {
        pods: observe::observe(cx, pool, &mut memory.members, at).pods,
        ..observed
    };
    measure(cx, &seen, &plan, &status::count(&seen, memory));
    let disruption = disruption::plan(&seen, &mut memory.disruption);
    let status = status::status(&seen, &plan, memory);
    let due = status::due(seen.pool.status.as_ref(), &status, memory.written, seen.now);
    let told = &mut memory.disruption;
    let (written, guarded) = tokio::join!(
        write_status(cx, &seen, &plan, &status, due.is_ok()),
        disruption::apply(cx, &seen, &disruption, plan.decision.size, told),
    );
    written?;
    applied?;
    if due.is_ok() {
        memory.written = Some(seen.now);
    }
    if !plan.delete.is_empty() {
        // Nothing else rings for them: a worker that is drained changes no more.
        return Err(Error::Undeleted(plan.delete.len()));
    }
    let now = now();
    let times = [
        plan.again_at,
        due.err().flatten(),
        memory.refused.until.filter(|until| *until > now),
        disruption.again_at,
        guarded,
    ];
    Ok(requeue(times.into_iter().flatten().min(), now))
}

/// Tells of a change of size, and writes the status, if that is due.
async fn write_status(
    cx: &Context,
    o: &Observed,
    plan: &plan::Plan,
    status: &WorkerPoolStatus,
    due: bool,
) -> Result<(), Error> {
    if !due {
        return Ok(());
    }
    write(cx, &o.pool, status).await?;
    // Told once: a status that could not be written is written, and told of, at the next visit.
    apply::tell_of_size(cx, o, plan).await;
    Ok(())
}

async fn write(cx: &Context, pool: &WorkerPool, status: &WorkerPoolStatus) -> Result<(), Error> {
    let latest = &cx.stores.written_pools;
    match super::status::write(&cx.client, latest, FIELD_MANAGER, pool, status).await {
        Err(error) if super::status::is_gone(&error) => Ok(()),
        other => Ok(other?),
    }
}

async fn paused(cx: &Context, pool: &WorkerPool) -> Result<Action, Error> {
    let before = pool.status.clone().unwrap_or_default();
    let status = WorkerPoolStatus {
        conditions: merge(
            &before.conditions,
            &status::paused(&before.conditions),
            pool.metadata.generation,
            now(),
        ),
        observed_generation: pool.metadata.generation,
        ..before.clone()
    };
    if status != before {
        write(cx, pool, &status).await?;
    }
    Ok(Action::await_change())
}

fn measure(cx: &Context, o: &Observed, plan: &plan::Plan, counts: &Counts) {
    let (namespace, pool) = (o.pool.namespace().unwrap_or_default(), o.pool.name_any());
    let labels = [namespace.as_str(), pool.as_str()];
    let m = &cx.metrics;
    let set = |gauge: &prometheus::IntGaugeVec, value: u64| {
        gauge
            .with_label_values(&labels)
            .set(i64::try_from(value).unwrap_or(i64::MAX));
    };
    if let Ok(stats) = &o.stats {
        set(&m.queued, stats.queued);
        set(&m.running, stats.running);
        let wait = Duration::from_millis(stats.oldest_wait_ms).as_secs_f64();
        m.oldest_wait.with_label_values(&labels).set(wait);
    }
    for (source, is_blind) in sources(o, plan) {
        let labels = [labels[0], labels[1], source];
        match is_blind {
            Some(is_blind) => m.blind.with_label_values(&labels).set(i64::from(is_blind)),
            // It may have been followed, and blind, before.
            None => drop(m.blind.remove_label_values(&labels)),
        }
    }
    sizing(m, &labels, plan);
    set(&m.slots, counts.slots);
    set(&m.desired, u64::from(plan.decision.size));
    // Slots are counts: exact as floats.
    #[allow(clippy::cast_precision_loss)]
    let share = counts.busy_slots as f64 / counts.slots.max(1) as f64;
    m.utilization.with_label_values(&labels).set(share);
    let by_state = [
        counts.starting,
        counts.idle,
        counts.busy,
        counts.draining,
        counts.failed,
    ];
    for (state, count) in metrics::STATES.into_iter().zip(by_state) {
        m.workers
            .with_label_values(&[labels[0], labels[1], state])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// All kinds of metrics, and whether one of each kind gives no numbers; none = the pool does not follow it.
fn sources<'a>(
    o: &'a Observed,
    plan: &'a plan::Plan,
) -> impl Iterator<Item = (&'static str, Option<bool>)> + 'a {
    let external = o.external.iter().filter_map(|reading| match reading {
        Reading::External { name, .. } | Reading::Failed { name, .. } => Some(name.as_str()),
        Reading::Queue(_) => None,
    });
    let queue = template::follows_queue(&o.pool).then_some(QUEUE);
    let names: Vec<&str> = external.chain(queue).collect();
    metrics::SOURCES.into_iter().map(move |source| {
        // A name goes on with what is asked.
        let is = |name: &str| {
            let kind = name.split(' ').next().unwrap_or_default();
            kind.eq_ignore_ascii_case(source)
        };
        let is_blind = plan.decision.blind.iter().any(|(name, _)| is(name));
        let is_followed = names.iter().any(|name| is(name));
        (source, is_followed.then_some(is_blind))
    })
}

/// What the size was computed from.
fn sizing(m: &metrics::Metrics, labels: &[&str; 2], plan: &plan::Plan) {
    let Some(inputs) = plan.decision.inputs else {
        return;
    };
    m.arrival_rate.with_label_values(labels).set(inputs.rate);
    m.service.with_label_values(labels).set(inputs.service);
    match inputs.provider_limit {
        Some(limit) => {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            m.provider_limit.with_label_values(labels).set(limit);
        }
        // No provider complains, and most pools never had such a series.
        None => drop(m.provider_limit.remove_label_values(labels)),
    }
}

fn requeue(at: Option<Timestamp>, now: Timestamp) -> Action {
    let wait = at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    Action::requeue(
        wait.unwrap_or(AT_LEAST)
            .clamp(Duration::from_millis(20), AT_LEAST),
    )
}

fn take_memory(cx: &Context, key: &(String, String)) -> Memory {
    let mut all = lock(&cx.pool_memory);
    all.remove(key).unwrap_or_default()
}

fn put_memory(cx: &Context, key: (String, String), memory: Memory) {
    lock(&cx.pool_memory).insert(key.clone(), memory);
    // A pool that was deleted during the visit leaves nothing behind: neither memory nor series. Looked up
    // only now, because the watch forgets a pool after it has left the store.
    if cx.stores.pool(&key.0, &key.1).is_none() {
        cx.forget_pool(&key.0, &key.1);
    }
}
