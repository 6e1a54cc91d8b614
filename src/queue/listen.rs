//! Waiting for something to happen. Each listener has a connection of its own, and opens it again
//! when it breaks.

use std::time::Duration;

use super::task::{Chunk, Outcome};
use super::{NamespaceQueue, Queue, QueueError};

/// A worker waiting for work.
pub struct Bell {
    _queue: NamespaceQueue,
}

impl NamespaceQueue {
    /// The bell of a pool, for a worker that serves `lanes`.
    pub fn bell(&self, pool: &str, lanes: &[String]) -> Bell {
        let _ = (pool, lanes);
        Bell {
            _queue: self.clone(),
        }
    }

    /// Listens for what concerns a worker.
    ///
    /// # Errors
    /// When the first connection cannot be made.
    pub async fn control(&self, worker: &str) -> Result<Control, QueueError> {
        let _ = worker;
        Err(QueueError::not_implemented("control"))
    }
}

impl Bell {
    /// Waits until there may be something to take (`true`) or the time is over (`false`). May be
    /// dropped at any time.
    ///
    /// # Errors
    /// When Redis is away: wait a moment (with jitter) and call again.
    pub async fn wait(&mut self, timeout: Duration) -> Result<bool, QueueError> {
        let _ = timeout;
        Err(QueueError::not_implemented("bell"))
    }
}

/// Control messages of a worker.
pub struct Control {
    _private: (),
}

/// What a worker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// Stop this task: it has ended.
    Cancel {
        /// Id of the task.
        task: String,
    },
    /// The connection was lost and is back: messages may be missing (renew tells what is lost).
    Gap,
}

impl Control {
    /// The next message; reconnects by itself, with jittered back-off. May be dropped at any time.
    pub async fn next(&mut self) -> ControlMessage {
        std::future::pending().await
    }
}

/// Results of a gateway's tasks, in all namespaces.
pub struct Results {
    _private: (),
}

/// Something about one task.
#[derive(Clone, Debug, PartialEq)]
pub enum ResultMessage {
    /// Chunks of a streamed answer.
    Chunks {
        /// Namespace of the task.
        namespace: String,
        /// Id of the task.
        task: String,
        /// Id of the entry in the task's output, to resume from.
        id: String,
        /// The chunks, in order.
        chunks: Vec<Chunk>,
    },
    /// Its worker was lost before the first token; it waits again.
    Restarted {
        /// Namespace of the task.
        namespace: String,
        /// Id of the task.
        task: String,
    },
    /// The task ended.
    Ended {
        /// Namespace of the task.
        namespace: String,
        /// Id of the task.
        task: String,
        /// How.
        outcome: Outcome,
    },
    /// The connection was lost and is back: catch up with [`NamespaceQueue::output`].
    Gap,
}

impl Queue {
    /// Listens for results of tasks enqueued with this gateway id.
    ///
    /// # Errors
    /// When the first connection cannot be made.
    pub async fn results(&self, gateway: &str) -> Result<Results, QueueError> {
        let _ = gateway;
        Err(QueueError::not_implemented("results"))
    }

    /// Listens for pools that need a look.
    ///
    /// # Errors
    /// When the first connection cannot be made.
    pub async fn doorbell(&self) -> Result<Doorbell, QueueError> {
        Err(QueueError::not_implemented("doorbell"))
    }
}

impl Results {
    /// The next message; reconnects by itself, with jittered back-off. May be dropped at any time.
    pub async fn next(&mut self) -> ResultMessage {
        std::future::pending().await
    }
}

/// Wake-ups of the controller.
pub struct Doorbell {
    _private: (),
}

/// A pool that went from nothing to something, or has no idle live slot for what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Look at this pool.
    Pool {
        /// Namespace of the pool.
        namespace: String,
        /// Name of the pool.
        pool: String,
    },
    /// The connection was lost and is back: look at all of them.
    Gap,
}

impl Doorbell {
    /// The next ring; reconnects by itself, with jittered back-off. May be dropped at any time.
    pub async fn next(&mut self) -> Ring {
        std::future::pending().await
    }
}
