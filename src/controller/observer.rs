//! The latest numbers of all pools: one reader for all reconcilers.
//!
//! It looks when the queue rings, every 250 ms at pools where something goes on, and every 5 s at all;
//! a reconciler is woken only by numbers that differ.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::lock::lock;
use crate::queue::listen::Ring;
use crate::queue::stats::PoolStats;
use crate::queue::{Queue, QueueError};

/// Time between two looks at pools where something goes on.
const ACTIVE: Duration = Duration::from_millis(250);
/// Time between two looks at all pools.
const IDLE: Duration = Duration::from_secs(5);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Numbers older than this are no numbers.
const STALE: Duration = Duration::from_secs(12);
/// Rings that wait for a look.
const ROOM: usize = 1024;

/// Namespace and name.
pub type PoolKey = (String, String);

/// What was last read of a pool.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The numbers.
    pub stats: Arc<PoolStats>,
    /// Our clock when they were asked for.
    pub asked: Instant,
    /// Our clock when they came.
    pub at: Instant,
}

/// The latest readings.
pub struct Observer {
    readings: Mutex<HashMap<PoolKey, Reading>>,
    /// Why no pool can be read.
    failure: Mutex<Option<String>>,
    /// Why these cannot, though others can.
    spoilt: Mutex<HashMap<PoolKey, String>>,
    requests: mpsc::Sender<PoolKey>,
}

impl Observer {
    /// The observer, and the looks that were asked of it.
    pub fn new() -> (Self, mpsc::Receiver<PoolKey>) {
        let (requests, looks) = mpsc::channel(ROOM);
        let observer = Self {
            readings: Mutex::default(),
            failure: Mutex::default(),
            spoilt: Mutex::default(),
            requests,
        };
        (observer, looks)
    }

    /// The pool's numbers, or why there are none that count.
    ///
    /// # Errors
    /// A few words for a condition's message.
    pub fn stats(&self, namespace: &str, pool: &str) -> Result<Arc<PoolStats>, String> {
        let key = (namespace.to_owned(), pool.to_owned());
        if let Some(words) = lock(&self.spoilt).get(&key) {
            return Err(words.clone());
        }
        match lock(&self.readings).get(&key) {
            Some(reading) if reading.at.elapsed() < STALE => Ok(reading.stats.clone()),
            _ => Err(lock(&self.failure)
                .clone()
                .unwrap_or_else(|| "not read yet".to_owned())),
        }
    }

    /// What was last read of a pool, whether or not it counts.
    pub fn reading(&self, namespace: &str, pool: &str) -> Option<Reading> {
        let key = (namespace.to_owned(), pool.to_owned());
        lock(&self.readings).get(&key).cloned()
    }

    /// Asks for a look at a pool now; what differs wakes its reconciler. A look that is missed under
    /// load is made up for by the next tick.
    pub fn look(&self, namespace: &str, pool: &str) {
        let key = (namespace.to_owned(), pool.to_owned());
        if self.requests.try_send(key).is_err() {
            tracing::debug!(namespace, pool, "the observer is busy; the next tick looks");
        }
    }

    /// The pool is gone.
    pub fn forget(&self, namespace: &str, pool: &str) {
        let key = (namespace.to_owned(), pool.to_owned());
        lock(&self.readings).remove(&key);
        lock(&self.spoilt).remove(&key);
    }

    /// Two looks at once may end in the other order: numbers that were asked for before those that are
    /// known count no more. The queue's clock would not tell, because it can go back.
    fn note(&self, asked: Instant, stats: Vec<PoolStats>) -> Vec<Difference> {
        *lock(&self.failure) = None;
        let mut readings = lock(&self.readings);
        let mut differences = Vec::new();
        for stats in stats {
            let key = (stats.namespace.clone(), stats.pool.clone());
            lock(&self.spoilt).remove(&key);
            let before = readings.get(&key);
            if before.is_some_and(|before| before.asked > asked) {
                continue;
            }
            let before = before.map(|before| before.stats.clone());
            if let Some(difference) = difference(before.as_deref(), &stats) {
                differences.push(difference);
            }
            let stats = Arc::new(stats);
            readings.insert(
                key,
                Reading {
                    stats,
                    asked,
                    at: Instant::now(),
                },
            );
        }
        differences
    }

    /// A pool cannot be read, though others can; whether that is new.
    fn note_spoilt(&self, key: &PoolKey, error: &QueueError) -> bool {
        let words = error.to_string();
        lock(&self.spoilt).insert(key.clone(), words).is_none()
    }

    fn is_active(&self, key: &PoolKey) -> bool {
        lock(&self.readings)
            .get(key)
            .is_none_or(|reading| active(&reading.stats))
    }
}

/// What changed between two readings.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    pool: PoolKey,
    /// Also for the personas: it was opened, another lane is served, or a model server holds something
    /// else.
    personas: bool,
    /// The queue has lost what it knew of the pool or the namespace.
    lost: bool,
}

fn difference(before: Option<&PoolStats>, now: &PoolStats) -> Option<Difference> {
    let opened = now.open && !before.is_some_and(|before| before.open);
    let personas =
        opened || before.map(served) != Some(served(now)) || before.map(held) != Some(held(now));
    let lost = !now.open || now.epoch.is_none();
    (personas || lost || before.is_none_or(|before| numbers(before) != numbers(now))).then(|| {
        Difference {
            pool: (now.namespace.clone(), now.pool.clone()),
            personas,
            lost,
        }
    })
}

/// Lanes of the workers that take tasks.
pub fn served(stats: &PoolStats) -> BTreeSet<&str> {
    let workers = stats.workers.iter().filter(|worker| !worker.draining);
    workers
        .flat_map(|worker| worker.lanes.iter().map(String::as_str))
        .collect()
}

/// What the model servers hold or could not load, of the workers that have something to tell.
fn held(stats: &PoolStats) -> impl PartialEq + '_ {
    let workers = stats
        .workers
        .iter()
        .filter(|w| !(w.loaded.is_empty() && w.load_failures.is_empty()));
    let told = workers.map(|w| (w.uid.as_str(), &w.loaded, &w.load_failures));
    told.collect::<Vec<_>>()
}

/// What a reconciler decides on; neither clocks nor counters.
fn numbers(stats: &PoolStats) -> impl PartialEq + '_ {
    let workers: Vec<_> = stats
        .workers
        .iter()
        .map(|w| (w.uid.as_str(), w.busy(), w.draining, w.drained, w.recycle))
        .collect();
    let limited: Vec<_> = stats.providers.iter().map(|p| p.limited).collect();
    (
        limited,
        stats.open,
        stats.epoch.as_deref(),
        stats.demand,
        stats.queued,
        stats.runnable,
        stats.running,
        stats.members,
        workers,
    )
}

fn active(stats: &PoolStats) -> bool {
    stats.demand > 0
        || stats.queued > 0
        || stats.running > 0
        || !stats.open
        || stats.workers.iter().any(|w| w.draining || w.busy() > 0)
}

/// Reads until `stop`.
pub async fn run(cx: Arc<Context>, mut looks: mpsc::Receiver<PoolKey>, stop: CancellationToken) {
    let rings = tokio::spawn(listen(cx.clone()));
    let mut active = interval(ACTIVE);
    let mut idle = interval(IDLE);
    for tick in [&mut active, &mut idle] {
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    let mut some = Vec::new();
    loop {
        let wanted = tokio::select! {
            () = stop.cancelled() => break,
            count = looks.recv_many(&mut some, ROOM) => {
                if count == 0 {
                    break;
                }
                some.drain(..).collect()
            }
            _ = idle.tick() => known_pools(&cx),
            _ = active.tick() => {
                let mut pools = known_pools(&cx);
                pools.retain(|key| cx.observer.is_active(key));
                pools
            }
        };
        look(&cx, wanted).await;
    }
    rings.abort();
}

/// Hands on the queue's rings.
async fn listen(cx: Arc<Context>) {
    let mut doorbell = loop {
        match cx.queue.doorbell().await {
            Ok(doorbell) => break doorbell,
            // The upkeep of the queue says what is wrong with it.
            Err(error) => tracing::debug!(%error, "the doorbell cannot be heard yet"),
        }
        tokio::time::sleep(ACTIVE.mul_f64(rand::random_range(1.0..4.0))).await;
    };
    loop {
        match doorbell.next().await {
            Ring::Pool { namespace, pool } => cx.observer.look(&namespace, &pool),
            Ring::Gap => {
                for (namespace, pool) in known_pools(&cx) {
                    cx.observer.look(&namespace, &pool);
                }
            }
        }
    }
}

fn known_pools(cx: &Context) -> BTreeSet<PoolKey> {
    let pools = cx.stores.pools.state();
    pools
        .iter()
        .filter_map(|pool| {
            Some((
                pool.metadata.namespace.clone()?,
                pool.metadata.name.clone()?,
            ))
        })
        .collect()
}

/// Looks at one pool at once.
pub async fn look_at(cx: &Context, namespace: &str, pool: &str) {
    look(cx, [(namespace.to_owned(), pool.to_owned())].into()).await;
}

async fn look(cx: &Context, mut pools: BTreeSet<PoolKey>) {
    // The workers of a namespace may ring with any name.
    pools.retain(|(namespace, pool)| cx.stores.pool(namespace, pool).is_some());
    if pools.is_empty() {
        return;
    }
    let asked = Instant::now();
    let read = timeout(PATIENCE, read(&cx.queue, &pools)).await;
    let error = match read {
        Ok(Ok(read)) => {
            let mut stats = Vec::new();
            for (key, pool) in pools.iter().zip(read) {
                match pool {
                    Ok(pool) => stats.push(pool),
                    Err(error) => spoilt(cx, key, &error).await,
                }
            }
            for pool in &stats {
                let known = cx.routes.epoch(&pool.namespace);
                if known.is_some() && known != pool.epoch {
                    cx.routes.check(&pool.namespace);
                    cx.contact.hurry();
                }
            }
            for Difference {
                pool,
                personas,
                lost,
            } in cx.observer.note(asked, stats)
            {
                let (namespace, name) = pool;
                if lost {
                    cx.routes.check(&namespace);
                    cx.contact.suspect();
                }
                if personas {
                    cx.wake_personas_of(&namespace, &name).await;
                }
                cx.bells.pool(&namespace, &name).await;
            }
            // The watch forgets a pool after it has left the store, and may have done so meanwhile.
            for (namespace, pool) in &pools {
                if cx.stores.pool(namespace, pool).is_none() {
                    cx.observer.forget(namespace, pool);
                }
            }
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the queue does not answer".to_owned(),
    };
    let news = lock(&cx.observer.failure).replace(error.clone()).is_none();
    if news {
        tracing::warn!(error, "pools cannot be read, nothing shrinks");
        for (namespace, pool) in known_pools(cx) {
            cx.bells.pool(&namespace, &pool).await;
        }
    }
    cx.contact.suspect();
}

/// What is wrong with one pool's data is said of that pool.
async fn spoilt(cx: &Context, key: &PoolKey, error: &QueueError) {
    let (namespace, pool) = key;
    if cx.observer.note_spoilt(key, error) {
        tracing::warn!(namespace, pool, %error, "a pool cannot be read, it does not shrink");
        cx.bells.pool(namespace, pool).await;
    }
}

async fn read(
    queue: &Queue,
    pools: &BTreeSet<PoolKey>,
) -> Result<Vec<Result<PoolStats, QueueError>>, QueueError> {
    let pools = pools
        .iter()
        .map(|(namespace, pool)| Ok((queue.namespace(namespace)?, pool.clone())))
        .collect::<Result<Vec<_>, QueueError>>()?;
    queue.stats(&pools).await
}
