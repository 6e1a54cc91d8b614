//! Verbs of the worker about tasks: take them, hand in what comes out.

use std::time::Duration;

use redis::Cmd;
use serde::Serialize;

use super::heartbeat::loaded;
use super::reply::{Reply, wrong};
use super::task::{Chunk, Outcome, OutcomeKind, TaskPayload};
use super::{NamespaceQueue, Queue, QueueError};
use crate::api::runtime::PersonaConfig;

/// How long a worker holds a task without renewing it.
pub const LEASE: Duration = Duration::from_secs(15);
/// Longest duration that is passed on, about 31 years: sums with Redis' clock stay exact.
const MAX_MILLIS: u64 = 1_000_000_000_000;

/// Asks for tasks.
#[derive(Clone, Debug)]
pub struct Take<'a> {
    /// The worker's pool.
    pub pool: &'a str,
    /// Lanes it serves.
    pub lanes: &'a [String],
    /// Pod uid.
    pub worker: &'a str,
    /// Unguessable id of this process (or of this start of it).
    pub instance: &'a str,
    /// Tasks it can begin now.
    pub slots_free: u32,
    /// Other pools to serve when its own has no work, the one that has waited longest first; one slot stays
    /// free. What may take a worker along is left to theirs.
    pub steal_from: &'a [String],
    /// How long the lease lasts ([`LEASE`]).
    pub lease: Duration,
    /// What its model server holds now, as in [`Heartbeat::loaded`](super::heartbeat::Heartbeat::loaded): personas that need it are
    /// preferred, as far as nobody starves. Nothing = no preference.
    pub loaded: &'a [String],
}

/// A task that this worker now holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Id of the task.
    pub task: String,
    /// Persona that answers.
    pub persona: String,
    /// Proof of holding it, for emit, finish, release and renew.
    pub fence: String,
    /// JSON of a [`TaskPayload`].
    pub payload: String,
    /// Generation of the persona's configuration.
    pub generation: i64,
    /// When a persona of that uid was registered, in ms of Redis' clock: with the generation it names
    /// one configuration, also after the persona was deleted and made again.
    pub since_ms: u64,
    /// Attempts that count, this one included: 1 at first.
    pub attempt: u32,
    /// Time to the task's deadline, for what it is worth while running.
    pub deadline_in: Duration,
    /// How long it waited in the queue.
    pub waited: Duration,
    /// The answer is streamed: chunks go out by emit.
    pub stream: bool,
    /// It runs alone on its worker, because a worker was lost with it.
    pub solo: bool,
    /// Pool whose task it is; another one than the worker's when stolen.
    pub pool: String,
}

impl Taken {
    /// The payload, parsed.
    ///
    /// # Errors
    /// [`QueueError::Protocol`] when it is not a [`TaskPayload`]; such a task is to be failed.
    pub fn parse(&self) -> Result<TaskPayload, QueueError> {
        serde_json::from_str(&self.payload).map_err(|error| QueueError::Protocol {
            verb: "take",
            what: format!("payload of task {}: {error}", self.task),
        })
    }
}

/// Answer to [`NamespaceQueue::take`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TakeAnswer {
    /// Tasks the worker now holds.
    pub tasks: Vec<Taken>,
    /// The worker is draining: no tasks until it is not.
    pub draining: bool,
    /// Redis is short of memory: no tasks until it is not.
    pub out_of_memory: bool,
    /// A persona of the pool waits for its provider until then: take again after that time.
    pub look_again_in: Option<Duration>,
}

/// Answer to verbs that need the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// Done.
    Accepted,
    /// The task is not this worker's any more; nothing was changed.
    Lost,
}

/// Why a worker hands a task back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReason {
    /// The worker stops or drains. Not an attempt.
    Shutdown,
    /// The provider said 429: its personas wait until `not_before`. Not an attempt.
    RateLimited,
    /// The attempt failed and may be repeated. Counts as an attempt; ends as dead when none is left.
    Failed,
}

/// Chunks of one task, for [`NamespaceQueue::emit_all`].
#[derive(Clone, Debug)]
pub struct Emission<'a> {
    /// Id of the task.
    pub task: &'a str,
    /// Its fence.
    pub fence: &'a str,
    /// Chunks in order.
    pub chunks: &'a [Chunk],
}

impl NamespaceQueue {
    /// Takes as many runnable tasks as there are free slots: own pool first, in each personas by
    /// priority, then by virtual time.
    ///
    /// # Errors
    /// [`QueueError::Superseded`] for an earlier instance of the pod. When Redis gives no answer,
    /// tasks may have been taken: they come back when their lease, which nobody renews, ends.
    pub async fn take(&self, take: &Take<'_>) -> Result<TakeAnswer, QueueError> {
        let mut cmd = self.verb("take");
        cmd.arg(&[take.pool, take.worker, take.instance])
            .arg(Queue::next_call())
            .arg(take.slots_free)
            .arg(millis(take.lease))
            .arg(take.lanes.len())
            .arg(take.lanes);
        let loaded: Vec<_> = loaded(take.loaded).collect();
        cmd.arg(loaded.len()).arg(loaded).arg(take.steal_from);
        let mut reply = match self.reply("take", &cmd).await {
            Err(QueueError::OutOfMemory(_)) => return Ok(TakeAnswer::out_of_memory()),
            other => other?,
        };
        let word = reply.text()?;
        match word.as_str() {
            "ok" => {}
            "draining" => {
                return Ok(TakeAnswer {
                    draining: true,
                    ..TakeAnswer::default()
                });
            }
            "out_of_memory" => return Ok(TakeAnswer::out_of_memory()),
            "superseded" => return Err(QueueError::Superseded),
            _ => return Err(reply.unknown(&word)),
        }
        let look_again = reply.millis()?;
        Ok(TakeAnswer {
            look_again_in: Some(look_again).filter(|wait| !wait.is_zero()),
            tasks: reply
                .list()?
                .lists()?
                .into_iter()
                .map(taken)
                .collect::<Result<_, _>>()?,
            ..TakeAnswer::default()
        })
    }

    /// Hands in chunks of a streamed task.
    ///
    /// # Errors
    /// When Redis gives no answer: the chunks may be out; sending them again could double them.
    pub async fn emit(
        &self,
        task: &str,
        fence: &str,
        chunks: &[Chunk],
    ) -> Result<Fenced, QueueError> {
        let cmd = self.emission(&Emission {
            task,
            fence,
            chunks,
        })?;
        self.fenced(&cmd).await
    }

    /// Hands in chunks of several tasks in one round trip; answers in the same order.
    ///
    /// # Errors
    /// As [`NamespaceQueue::emit`].
    pub async fn emit_all(&self, emissions: &[Emission<'_>]) -> Result<Vec<Fenced>, QueueError> {
        let cmds = emissions.iter().map(|emission| self.emission(emission));
        self.emit_cmds(cmds.collect::<Result<_, _>>()?).await
    }

    /// As [`NamespaceQueue::emit_all`], each with its number in its attempt, counted from 1: the
    /// same again does nothing, so that it may be sent until it was answered.
    ///
    /// # Errors
    /// When Redis gives no answer; the same call again is safe.
    pub async fn emit_numbered(
        &self,
        emissions: &[(Emission<'_>, u64)],
    ) -> Result<Vec<Fenced>, QueueError> {
        let cmds = emissions.iter().map(|(emission, number)| {
            let mut cmd = self.emission(emission)?;
            cmd.arg(number);
            Ok(cmd)
        });
        self.emit_cmds(cmds.collect::<Result<_, QueueError>>()?)
            .await
    }

    async fn emit_cmds(&self, cmds: Vec<Cmd>) -> Result<Vec<Fenced>, QueueError> {
        if cmds.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for cmd in cmds {
            pipe.add_command(cmd);
        }
        let answers: Vec<i64> = pipe.query_async(&mut self.queue.manager()).await?;
        Ok(answers.into_iter().map(Fenced::from).collect())
    }

    /// Ends a task.
    ///
    /// # Errors
    /// When Redis gives no answer; the same call again is safe (`Lost` when the first one worked).
    pub async fn finish(
        &self,
        task: &str,
        fence: &str,
        outcome: &Outcome,
    ) -> Result<Fenced, QueueError> {
        let mut cmd = self.verb("finish");
        cmd.arg(&[task, fence])
            .arg(json("finish", outcome)?)
            .arg(u8::from(outcome.outcome == OutcomeKind::Completed));
        self.fenced(&cmd).await
    }

    /// Hands a task back to the head of its queue. A stream that has begun ends as interrupted
    /// instead. `not_before` is from now.
    ///
    /// # Errors
    /// When Redis gives no answer; the same call again is safe.
    pub async fn release(
        &self,
        task: &str,
        fence: &str,
        reason: ReleaseReason,
        not_before: Duration,
    ) -> Result<Fenced, QueueError> {
        let word = match reason {
            ReleaseReason::Shutdown => "shutdown",
            ReleaseReason::RateLimited => "rate_limited",
            ReleaseReason::Failed => "failed",
        };
        let mut cmd = self.verb("release");
        cmd.arg(&[task, fence, word]).arg(millis(not_before));
        self.fenced(&cmd).await
    }

    /// The persona's present configuration; its `generation` may be newer than the task's.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn config(&self, persona: &str) -> Result<Option<PersonaConfig>, QueueError> {
        let json: Option<String> = Cmd::hget(self.keys.persona(persona), "config")
            .query_async(&mut self.queue.manager())
            .await?;
        json.map(|json| {
            serde_json::from_str(&json)
                .map_err(|error| wrong("config", format!("persona {persona}: {error}")))
        })
        .transpose()
    }

    fn emission(&self, emission: &Emission<'_>) -> Result<Cmd, QueueError> {
        let mut cmd = self.verb("emit");
        cmd.arg(&[emission.task, emission.fence])
            .arg(json("emit", emission.chunks)?);
        Ok(cmd)
    }

    async fn fenced(&self, cmd: &Cmd) -> Result<Fenced, QueueError> {
        let answer: i64 = cmd.query_async(&mut self.queue.manager()).await?;
        Ok(Fenced::from(answer))
    }
}

impl From<i64> for Fenced {
    fn from(answer: i64) -> Self {
        if answer == 1 {
            Self::Accepted
        } else {
            Self::Lost
        }
    }
}

impl TakeAnswer {
    fn out_of_memory() -> Self {
        Self {
            out_of_memory: true,
            ..Self::default()
        }
    }
}

fn json<T: Serialize + ?Sized>(verb: &'static str, value: &T) -> Result<String, QueueError> {
    serde_json::to_string(value).map_err(|error| wrong(verb, error.to_string()))
}

/// Whole ms, as the functions take durations.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .min(MAX_MILLIS)
}

/// A task as `take` and `claim` describe it.
pub(super) fn taken(mut reply: Reply) -> Result<Taken, QueueError> {
    Ok(Taken {
        task: reply.text()?,
        persona: reply.text()?,
        fence: reply.text()?,
        payload: reply.text()?,
        generation: reply.next()?,
        attempt: reply.next()?,
        deadline_in: reply.millis()?,
        waited: reply.millis()?,
        stream: reply.flag()?,
        solo: reply.flag()?,
        pool: reply.text()?,
        since_ms: reply.next()?,
    })
}
