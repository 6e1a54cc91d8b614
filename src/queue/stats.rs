//! What autoscaling observes, in one pipelined read.

use std::collections::BTreeMap;

use redis::{Cmd, Value};

use super::reply::{Reply, wrong};
use super::task::Duties;
use super::work::duties;
use super::{NamespaceQueue, Queue, QueueError};

/// A pool as of one moment. Times are Redis' clock in ms since the epoch, durations in ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolStats {
    /// Namespace of the pool.
    pub namespace: String,
    /// Name of the pool.
    pub pool: String,
    /// Whether the pool is open; a pool that is not has never been opened, or its data was lost.
    pub open: bool,
    /// The namespace's epoch; missing or another than before: all numbers are stale.
    pub epoch: Option<String>,
    /// Redis' clock.
    pub at_ms: u64,
    /// Sum over the personas of min(queued + running, maxConcurrency), without those that may not
    /// run now (suspended, waiting for their provider).
    pub demand: u64,
    /// The same, a lane.
    pub demand_by_lane: BTreeMap<String, u64>,
    /// Personas routed there.
    pub members: u64,
    /// Sum of maxConcurrency of the personas that have demand.
    pub concurrency: u64,
    /// All waiting tasks.
    pub queued: u64,
    /// Waiting tasks that could begin if a slot were free.
    pub runnable: u64,
    /// Running tasks of its personas, wherever they run.
    pub running: u64,
    /// How long the oldest waiting task of a runnable persona waits; 0 = none.
    pub oldest_wait_ms: u64,
    /// Tasks accepted so far. Counters only grow; one that went back means lost data.
    pub arrived: u64,
    /// Tasks completed so far.
    pub completed: u64,
    /// Sum of the waiting times of completed tasks.
    pub wait_sum_ms: u64,
    /// Sum of the service times of completed tasks.
    pub service_sum_ms: u64,
    /// Its registered workers.
    pub workers: Vec<WorkerStats>,
    /// What its workers were told.
    pub duties: Option<Duties>,
    /// Personas of the namespace, in any pool, whose requests have taken workers along.
    pub suspects: u64,
    /// Providers of its personas that have work.
    pub providers: Vec<ProviderStats>,
}

/// A provider as of one moment, as far as the personas of one pool ask it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderStats {
    /// What its limits belong to: API, endpoint and credential, hashed.
    pub key: String,
    /// Sum over its personas of min(queued + running, maxConcurrency).
    pub demand: u64,
    /// Tasks of its personas that run.
    pub running: u64,
    /// Sum of maxConcurrency of its personas.
    pub concurrency: u64,
    /// How often it said 429 so far, in the whole namespace. Begins again after an hour without.
    pub limited: u64,
}

/// A worker as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Pod uid.
    pub uid: String,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Tasks it holds in the queue's books.
    pub running: u32,
    /// What its last heartbeat said it runs, direct calls included.
    pub reported_running: u32,
    /// It takes nothing new.
    pub draining: bool,
    /// Draining, and a heartbeat newer than the drain said that nothing runs: it may go.
    pub drained: bool,
    /// When its last heartbeat came.
    pub heartbeat_at_ms: u64,
    /// When it last began or ended a task of its own pool, or registered.
    pub active_at_ms: u64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Lanes it serves.
    pub lanes: Vec<String>,
    /// `host:port` for direct calls.
    pub address: String,
    /// What its model server holds, in order of name: `adapter/<name>` or `model/<name>`.
    pub loaded: Vec<String>,
    /// What its model server could not load, in order of name, and why in the server's words.
    pub load_failures: Vec<(String, String)>,
}

impl WorkerStats {
    /// Tasks it runs, by the books or by its own word: the one may be behind the other.
    pub fn busy(&self) -> u32 {
        self.running.max(self.reported_running)
    }
}

/// Live numbers of a persona.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersonaStats {
    /// Waiting tasks.
    pub queued: u64,
    /// Running tasks.
    pub running: u64,
    /// Until when it is kept from running anything, or was the last time, because its tasks took
    /// workers along: the queue's clock, in ms. Until one of them ends, or its spec changes.
    pub quarantined_until_ms: Option<u64>,
}

impl Queue {
    /// Reads pools, in the order asked for, in one round trip. What is wrong with the data of one of
    /// them keeps nobody from reading the others.
    ///
    /// # Errors
    /// When Redis gives no answer, or none that is about single pools.
    pub async fn stats(
        &self,
        pools: &[(NamespaceQueue, String)],
    ) -> Result<Vec<Result<PoolStats, QueueError>>, QueueError> {
        if pools.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for (namespace, pool) in pools {
            pipe.add_command(namespace.verb("stats").arg(pool).to_owned());
        }
        let answers: Vec<Value> = pipe.query_async(&mut self.manager()).await?;
        answers
            .into_iter()
            .zip(pools)
            .map(|(answer, (namespace, pool))| {
                let read = answer
                    .extract_error()
                    .map_err(QueueError::from)
                    .and_then(|answer| Reply::new("stats", answer))
                    .and_then(|reply| pool_stats(reply, namespace.namespace(), pool));
                match read {
                    Err(error) if error.is_of_all() => Err(error),
                    read => Ok(read),
                }
            })
            .collect()
    }
}

impl NamespaceQueue {
    /// Live numbers of personas, in the order asked for, in one round trip.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn persona_stats(
        &self,
        personas: &[String],
    ) -> Result<Vec<PersonaStats>, QueueError> {
        if personas.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for persona in personas {
            pipe.zcard(self.keys.queued(persona))
                .scard(self.keys.running(persona))
                .zscore(self.keys.quarantine(), persona);
        }
        let numbers: Vec<Option<u64>> = pipe.query_async(&mut self.queue.manager()).await?;
        Ok(numbers
            .chunks_exact(3)
            .map(|found| PersonaStats {
                queued: found[0].unwrap_or_default(),
                running: found[1].unwrap_or_default(),
                quarantined_until_ms: found[2],
            })
            .collect())
    }

    /// Entries in the dead letters.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn dead_letters(&self) -> Result<u64, QueueError> {
        Ok(Cmd::xlen(self.keys.dead())
            .query_async(&mut self.queue.manager())
            .await?)
    }
}

fn pool_stats(mut reply: Reply, namespace: &str, pool: &str) -> Result<PoolStats, QueueError> {
    Ok(PoolStats {
        namespace: namespace.to_owned(),
        pool: pool.to_owned(),
        open: reply.flag()?,
        epoch: Some(reply.text()?).filter(|epoch| !epoch.is_empty()),
        at_ms: reply.next()?,
        demand: reply.next()?,
        demand_by_lane: lanes(reply.list()?)?,
        members: reply.next()?,
        concurrency: reply.next()?,
        queued: reply.next()?,
        runnable: reply.next()?,
        running: reply.next()?,
        oldest_wait_ms: reply.next()?,
        arrived: reply.next()?,
        completed: reply.next()?,
        wait_sum_ms: reply.next()?,
        service_sum_ms: reply.next()?,
        workers: reply
            .list()?
            .lists()?
            .into_iter()
            .map(worker_stats)
            .collect::<Result<_, _>>()?,
        duties: duties("stats", &reply.text()?)?,
        suspects: reply.next()?,
        providers: reply
            .list()?
            .lists()?
            .into_iter()
            .map(provider_stats)
            .collect::<Result<_, _>>()?,
    })
}

fn provider_stats(mut reply: Reply) -> Result<ProviderStats, QueueError> {
    Ok(ProviderStats {
        key: reply.text()?,
        demand: reply.next()?,
        running: reply.next()?,
        concurrency: reply.next()?,
        limited: reply.next()?,
    })
}

/// Lane and demand in turn.
fn lanes(reply: Reply) -> Result<BTreeMap<String, u64>, QueueError> {
    let items: Vec<String> = reply.rest()?;
    items
        .chunks_exact(2)
        .map(|pair| {
            let demand = pair[1]
                .parse()
                .map_err(|_| wrong("stats", format!("demand `{}`", pair[1])))?;
            Ok((pair[0].clone(), demand))
        })
        .collect()
}

fn worker_stats(mut reply: Reply) -> Result<WorkerStats, QueueError> {
    Ok(WorkerStats {
        uid: reply.text()?,
        slots: reply.next()?,
        running: reply.next()?,
        reported_running: reply.next()?,
        draining: reply.flag()?,
        drained: reply.flag()?,
        heartbeat_at_ms: reply.next()?,
        active_at_ms: reply.next()?,
        memory_bytes: reply.next()?,
        lanes: lines(&reply.text()?),
        address: reply.text()?,
        // In order, because a model server tells of them in any: the same again is no news.
        loaded: sorted(lines(&reply.text()?)),
        load_failures: sorted(load_failures(&reply.text()?)),
    })
}

fn lines(text: &str) -> Vec<String> {
    let lines = text.split('\n').filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// What a worker told of failed loads. What cannot be read counts as none: the other numbers of the
/// pool are worth more than one worker's words.
fn load_failures(json: &str) -> Vec<(String, String)> {
    if json.is_empty() {
        return Vec::new();
    }
    serde_json::from_str(json).unwrap_or_else(|error| {
        tracing::debug!(%error, "a worker's failed loads cannot be read");
        Vec::new()
    })
}
