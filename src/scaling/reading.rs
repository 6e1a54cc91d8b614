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
    /// Most tasks that its providers answer at once, as far as they said so.
    pub provider_limit: Option<u64>,
    /// Slots of workers that take tasks.
    pub ready_slots: u64,
    /// For each worker that starts, the time since its creation.
    pub starting: Vec<Duration>,
    /// From the creation of a worker until it is ready, as measured; none = not yet.
    pub lead: Option<Duration>,
}
