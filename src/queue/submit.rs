//! Verbs of the gateway: put tasks in, take them back, read what comes out.

use std::time::Duration;

use super::task::{Chunk, Outcome};
use super::work::Taken;
use super::{NamespaceQueue, QueueError};

/// A task to put in a persona's queue.
#[derive(Clone, Debug)]
pub struct Enqueue<'a> {
    /// Persona that shall answer.
    pub persona: &'a str,
    /// Id of the task: unguessable, or a hash of (principal, persona, Idempotency-Key).
    pub task: &'a str,
    /// JSON of a [`super::task::TaskPayload`].
    pub payload: &'a str,
    /// Order in the persona's queue, -100..=100, the higher first. It does not pass other personas.
    pub priority: i32,
    /// It expires when no worker took it by then.
    pub deadline: Duration,
    /// The answer is streamed: after its first token it never starts again.
    pub stream: bool,
    /// Gateway to tell; none for one that is polled.
    pub gateway: Option<&'a str>,
    /// Enqueued before and lost with Redis' data: the length limit does not apply.
    pub resubmit: bool,
    /// How long the outcome can be read after the end.
    pub retention: Duration,
}

impl<'a> Enqueue<'a> {
    /// A plain task: priority 0, 5 min to wait, not streamed, nobody told, outcome kept for 60 s.
    pub fn new(persona: &'a str, task: &'a str, payload: &'a str) -> Self {
        Self {
            persona,
            task,
            payload,
            priority: 0,
            deadline: Duration::from_secs(300),
            stream: false,
            gateway: None,
            resubmit: false,
            retention: Duration::from_secs(60),
        }
    }
}

/// State of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Waiting for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// It has its outcome.
    Ended,
}

/// Answer to [`NamespaceQueue::enqueue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnqueueAnswer {
    /// Accepted.
    Queued {
        /// Tasks of the persona that wait, this one included.
        position: u64,
    },
    /// The same task with the same payload is already there: follow that one.
    Duplicate {
        /// Its state.
        state: TaskState,
    },
    /// The same task id with another payload (422).
    Conflict,
    /// The persona's queue is full (429).
    Full {
        /// When there should be room, from the rate at which it drains.
        retry_after: Duration,
    },
    /// No persona by that name is registered (404; right after a loss of data: ask again).
    Unknown,
    /// The persona is suspended (503).
    Suspended,
    /// The persona was deleted a moment ago (404).
    Gone,
    /// Redis is above 90 % of its memory (503).
    OutOfMemory,
}

/// Answer to [`NamespaceQueue::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelAnswer {
    /// It ends as cancelled; a worker that runs it is told.
    Cancelled,
    /// It had ended before.
    Ended,
    /// No such task.
    Unknown,
}

/// Answer to [`NamespaceQueue::claim`].
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimAnswer {
    /// The worker has it; the fence goes with the direct call.
    Claimed(Taken),
    /// The task is not waiting (any more).
    NotQueued,
    /// Others of its persona go first, or the persona may not run now.
    NotNext,
    /// The worker is unknown, draining, does not serve the persona's lane, or has no free slot.
    NoSlot,
    /// Redis is above its memory mark.
    OutOfMemory,
}

/// What is known of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskOutput {
    /// State of the task.
    pub state: TaskState,
    /// Attempts begun.
    pub attempt: u32,
    /// Entries after the id that was asked for: id and chunks.
    pub entries: Vec<(String, Vec<Chunk>)>,
    /// The terminal entry, once ended.
    pub outcome: Option<Outcome>,
}

impl NamespaceQueue {
    /// Puts a task in. The duplicate check comes before all limits.
    ///
    /// # Errors
    /// When Redis gives no answer: the task may be there; the same call again is safe.
    pub async fn enqueue(&self, task: &Enqueue<'_>) -> Result<EnqueueAnswer, QueueError> {
        let _ = task;
        Err(QueueError::not_implemented("enqueue"))
    }

    /// Ends a task that has not ended.
    ///
    /// # Errors
    /// When Redis gives no answer; the same call again is safe.
    pub async fn cancel(&self, task: &str) -> Result<CancelAnswer, QueueError> {
        let _ = task;
        Err(QueueError::not_implemented("cancel"))
    }

    /// Takes one waiting task for a worker that is then called directly. Same checks as `take`.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn claim(&self, task: &str, worker: &str) -> Result<ClaimAnswer, QueueError> {
        let _ = (task, worker);
        Err(QueueError::not_implemented("claim"))
    }

    /// State, output after `from` (an entry's id; none = from the beginning) and outcome of a task.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn output(
        &self,
        task: &str,
        from: Option<&str>,
    ) -> Result<Option<TaskOutput>, QueueError> {
        let _ = (task, from);
        Err(QueueError::not_implemented("output"))
    }
}
