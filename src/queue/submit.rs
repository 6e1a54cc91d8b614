//! Verbs of the gateway: put tasks in, take them back, read what comes out.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::keys::{check_name, gateway_slot};
use super::reply::wrong;
use super::task::{Chunk, Outcome};
use super::work::{LEASE, Taken, millis, taken};
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
    /// A known task that ended in a passing failure (429, 5xx) runs again, as if it were not known. Others
    /// that had ended are duplicates.
    pub anew: bool,
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
            anew: false,
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
    /// Attempts that were used up.
    pub failed_attempts: u32,
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
        check_name(task.task)?;
        check_name(task.persona)?;
        if let Some(gateway) = task.gateway {
            check_name(gateway)?;
        }
        let mut cmd = self.verb("enqueue");
        cmd.arg(&[task.persona, task.task, task.payload])
            .arg(fingerprint(task.payload))
            .arg(task.priority.clamp(-100, 100))
            .arg(millis(task.deadline))
            .arg(u8::from(task.stream))
            .arg(
                task.gateway
                    .map_or_else(String::new, |id| gateway_slot(id).to_string()),
            )
            .arg(u8::from(task.resubmit))
            .arg(millis(task.retention).max(1))
            .arg(u8::from(task.anew));
        let mut reply = match self.reply("enqueue", &cmd).await {
            // Above maxmemory Redis refuses the call itself.
            Err(QueueError::OutOfMemory(_)) => return Ok(EnqueueAnswer::OutOfMemory),
            other => other?,
        };
        let word = reply.text()?;
        Ok(match word.as_str() {
            "queued" => EnqueueAnswer::Queued {
                position: reply.next()?,
            },
            "duplicate" => EnqueueAnswer::Duplicate {
                state: state("enqueue", &reply.text()?)?,
            },
            "conflict" => EnqueueAnswer::Conflict,
            "full" => EnqueueAnswer::Full {
                retry_after: reply.millis()?,
            },
            "unknown" => EnqueueAnswer::Unknown,
            "suspended" => EnqueueAnswer::Suspended,
            "gone" => EnqueueAnswer::Gone,
            "out_of_memory" => EnqueueAnswer::OutOfMemory,
            _ => return Err(reply.unknown(&word)),
        })
    }

    /// Ends a task that has not ended.
    ///
    /// # Errors
    /// When Redis gives no answer; the same call again is safe.
    pub async fn cancel(&self, task: &str) -> Result<CancelAnswer, QueueError> {
        let mut cmd = self.verb("cancel");
        let word: String = cmd.arg(task).query_async(&mut self.queue.manager()).await?;
        match word.as_str() {
            "cancelled" => Ok(CancelAnswer::Cancelled),
            "ended" => Ok(CancelAnswer::Ended),
            "unknown" => Ok(CancelAnswer::Unknown),
            _ => Err(wrong("cancel", format!("unknown answer `{word}`"))),
        }
    }

    /// Takes one waiting task for a worker that is then called directly. Same checks as `take`.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn claim(&self, task: &str, worker: &str) -> Result<ClaimAnswer, QueueError> {
        let mut cmd = self.verb("claim");
        // The worker counts its own calls: a claim needs another name space, as unguessable.
        cmd.arg(&[
            task,
            worker,
            &format!("claim-{:032x}", rand::random::<u128>()),
        ])
        .arg(millis(LEASE));
        let mut reply = match self.reply("claim", &cmd).await {
            Err(QueueError::OutOfMemory(_)) => return Ok(ClaimAnswer::OutOfMemory),
            other => other?,
        };
        let word = reply.text()?;
        Ok(match word.as_str() {
            "claimed" => ClaimAnswer::Claimed(taken(reply.list()?)?),
            "not_queued" => ClaimAnswer::NotQueued,
            "not_next" => ClaimAnswer::NotNext,
            "no_slot" => ClaimAnswer::NoSlot,
            "out_of_memory" => ClaimAnswer::OutOfMemory,
            _ => return Err(reply.unknown(&word)),
        })
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
        self.read_output(task, from, None).await
    }

    /// As [`NamespaceQueue::output`], of at most `most` entries. A full page may have others after it:
    /// the outcome comes with the first that is not full.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn output_page(
        &self,
        task: &str,
        from: Option<&str>,
        most: usize,
    ) -> Result<Option<TaskOutput>, QueueError> {
        let mut output = self.read_output(task, from, Some(most)).await?;
        if let Some(output) = &mut output
            && output.entries.len() >= most
        {
            output.outcome = None;
        }
        Ok(output)
    }

    async fn read_output(
        &self,
        task: &str,
        from: Option<&str>,
        most: Option<usize>,
    ) -> Result<Option<TaskOutput>, QueueError> {
        let after = from.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        // State first: what is ended when it is read has all its entries when they are read.
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET")
            .arg(self.keys.task(task))
            .arg(&["state", "attempts", "outcome"])
            .cmd("XRANGE")
            .arg(self.keys.output(task))
            .arg(&[after.as_str(), "+"]);
        if let Some(most) = most {
            pipe.arg("COUNT").arg(most);
        }
        let (fields, entries): (Fields, Entries) =
            pipe.query_async(&mut self.queue.manager()).await?;
        let (Some(word), attempts, outcome) = fields else {
            return Ok(None);
        };
        let entries = entries
            .into_iter()
            .map(|(id, fields)| {
                let json = fields.first().map_or("[]", |(_, json)| json.as_str());
                Ok((id, chunks(json)?))
            })
            .collect::<Result<_, QueueError>>()?;
        Ok(Some(TaskOutput {
            state: state("output", &word)?,
            failed_attempts: attempts.unwrap_or_default(),
            entries,
            outcome: outcome.as_deref().map(outcome_of).transpose()?,
        }))
    }
}

/// State, attempts and outcome of a task.
type Fields = (Option<String>, Option<u32>, Option<String>);
/// Entries of a stream: id, then field and value.
type Entries = Vec<(String, Vec<(String, String)>)>;

/// Tells payloads of one task id apart.
fn fingerprint(payload: &str) -> String {
    hex::encode(&Sha256::digest(payload)[..16])
}

fn state(verb: &'static str, word: &str) -> Result<TaskState, QueueError> {
    match word {
        "queued" => Ok(TaskState::Queued),
        "running" => Ok(TaskState::Running),
        "ended" => Ok(TaskState::Ended),
        _ => Err(wrong(verb, format!("unknown state `{word}`"))),
    }
}

/// Chunks of one entry of a task's output.
pub(super) fn chunks(json: &str) -> Result<Vec<Chunk>, QueueError> {
    serde_json::from_str(json).map_err(|error| wrong("output", format!("chunks: {error}")))
}

/// The terminal entry of a task.
pub(super) fn outcome_of(json: &str) -> Result<Outcome, QueueError> {
    serde_json::from_str(json).map_err(|error| wrong("output", format!("outcome: {error}")))
}
