//! What autoscaling observes, in one pipelined read.

use std::collections::BTreeMap;

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
}

/// Live numbers of a persona.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersonaStats {
    /// Waiting tasks.
    pub queued: u64,
    /// Running tasks.
    pub running: u64,
}

impl Queue {
    /// Reads pools, in the order asked for, in one round trip.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn stats(
        &self,
        pools: &[(NamespaceQueue, String)],
    ) -> Result<Vec<PoolStats>, QueueError> {
        let _ = pools;
        Err(QueueError::not_implemented("stats"))
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
        let _ = personas;
        Err(QueueError::not_implemented("persona_stats"))
    }

    /// Entries in the dead letters.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn dead_letters(&self) -> Result<u64, QueueError> {
        Err(QueueError::not_implemented("dead_letters"))
    }
}
