//! What a size follows, as plain numbers.

use std::time::Duration;

/// One source's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// The pool's queue.
    Queue(QueueReading),
    /// A number from elsewhere.
    External {
        /// Which, in a sentence: `Prometheus sum(jobs)`.
        name: String,
        /// The number.
        value: f64,
        /// What one worker can take of it.
        target: f64,
    },
    /// No answer: nothing may shrink.
    Failed {
        /// Which source.
        name: String,
        /// What went wrong.
        why: String,
    },
}

impl Reading {
    /// The queue gave no numbers that count.
    pub fn no_queue(why: impl Into<String>) -> Self {
        Self::Failed {
            name: QUEUE.to_owned(),
            why: why.into(),
        }
    }
}

/// Name of the queue among the sources.
pub const QUEUE: &str = "queue";

/// A pool's queue and workers as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueReading {
    /// When, ms of the queue's clock.
    pub at_ms: u64,
    /// It was read a while ago, and the queue may be gone since: no reason to shrink.
    pub is_old: bool,
    /// Another than before: what was counted is lost.
    pub epoch: String,
    /// Sum over its personas of min(queued + running, maxConcurrency), without those that may not
    /// run now.
    pub demand: u64,
    /// All waiting tasks.
    pub queued: u64,
    /// Waiting tasks that could begin if a slot were free.
    pub runnable: u64,
    /// How long the oldest of those waits.
    pub oldest_wait_ms: u64,
    /// Tasks that its workers run, stolen ones and direct calls included, without workers that drain.
    pub running: u64,
    /// Tasks accepted so far.
    pub arrived: u64,
    /// Tasks completed so far.
    pub completed: u64,
    /// Sum of their service times.
    pub service_sum_ms: u64,
    /// Sum of maxConcurrency of its personas, with work or without.
    pub concurrency: Option<u64>,
    /// Providers of its personas that have work.
    pub providers: Vec<ProviderReading>,
    /// Slots of workers that take tasks.
    pub ready_slots: u64,
    /// For each worker that starts, the time since its creation.
    pub starting: Vec<Duration>,
    /// From the creation of a worker until it is ready, as measured; none = not yet.
    pub lead: Option<Duration>,
}

/// A provider as of one moment, as far as the personas of one pool ask it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderReading {
    /// Which.
    pub key: String,
    /// Its share of the pool's demand.
    pub demand: u64,
    /// Tasks of its personas that run.
    pub running: u64,
    /// Sum of maxConcurrency of its personas.
    pub concurrency: u64,
    /// How often it has said that it was too much (429).
    pub limited: u64,
}
