//! Verbs of the worker about itself: it registers, keeps its leases, starts afresh, goes.

use std::time::Duration;

use redis::Cmd;

use super::keys::check_name;
use super::reply::wrong;
use super::task::Duties;
use super::work::millis;
use super::{NamespaceQueue, QueueError};

/// How often a worker renews its leases.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);

/// Most loaded items that a worker tells of; what is beyond counts as not loaded.
pub const MOST_LOADED: usize = 256;
/// Most failed loads that a worker tells of.
pub const MOST_LOAD_FAILURES: usize = 16;
/// Most bytes of the words of a failed load; what is beyond is cut.
pub const MOST_FAILURE_BYTES: usize = 512;

/// Why a worker is to be followed by a fresh one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecycleReason {
    /// It has run many tasks.
    Tasks,
    /// It is old.
    Age,
    /// It has grown.
    Memory,
}

impl RecycleReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Tasks, Self::Age, Self::Memory];

    /// The word in the queue's books and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Age => "age",
            Self::Memory => "memory",
        }
    }

    /// What a worker has said; none for no word and for one of another version.
    pub(super) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// A worker's sign of life, and the leases it keeps.
#[derive(Clone, Debug)]
pub struct Heartbeat<'a> {
    /// Pod uid.
    pub worker: &'a str,
    /// Unguessable id of this process.
    pub instance: &'a str,
    /// The worker's pool.
    pub pool: &'a str,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Task and fence of each task it runs from the queue.
    pub leases: &'a [(String, String)],
    /// Everything it runs, direct calls included.
    pub running: u32,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Lanes it serves.
    pub lanes: &'a [String],
    /// `host:port` for direct calls.
    pub address: &'a str,
    /// How long the leases last from now ([`super::work::LEASE`]).
    pub lease: Duration,
    /// What the worker's model server holds now: `adapter/<name>` or `model/<name>`, the first
    /// [`MOST_LOADED`] of them.
    pub loaded: &'a [String],
    /// Items that it could not load, and why in the server's words: the first
    /// [`MOST_LOAD_FAILURES`] of them, [`MOST_FAILURE_BYTES`] of words each.
    pub load_failures: &'a [(String, String)],
    /// It asks to be replaced by a fresh worker, and serves on until it is drained.
    pub recycle: Option<RecycleReason>,
}

/// Answer to [`NamespaceQueue::renew`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Fences of attempts that are not this worker's any more: stop them, their output is refused.
    /// Another attempt of the same task may be.
    pub lost: Vec<String>,
    /// The worker is to take nothing new.
    pub draining: bool,
    /// What the pool's workers have to know, once the controller has said it.
    pub duties: Option<Duties>,
}

impl NamespaceQueue {
    /// Registers a worker process at its start: leases of an earlier instance of the same pod are
    /// reaped, so that their tasks run again at once; from then on the earlier instance is refused.
    /// Answers how many tasks that freed. Draining outlives it.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn register(&self, worker: &Heartbeat<'_>) -> Result<u64, QueueError> {
        check_name(worker.pool)?;
        let mut cmd = self.verb("register");
        describe(&mut cmd, worker);
        let mut reply = self.reply("register", &cmd).await?;
        reply.text()?;
        reply.next()
    }

    /// Renews the leases of what the worker runs, and its registration.
    ///
    /// # Errors
    /// [`QueueError::Superseded`] for an earlier instance of the pod.
    pub async fn renew(&self, heartbeat: &Heartbeat<'_>) -> Result<Renewed, QueueError> {
        check_name(heartbeat.pool)?;
        let mut cmd = self.verb("renew");
        describe(&mut cmd, heartbeat);
        cmd.arg(millis(heartbeat.lease));
        for (task, fence) in heartbeat.leases {
            cmd.arg(task).arg(fence);
        }
        let mut reply = self.reply("renew", &cmd).await?;
        if reply.text()? == "superseded" {
            return Err(QueueError::Superseded);
        }
        let draining = reply.flag()?;
        let tasks: Vec<String> = reply.list()?.rest()?;
        let duties = duties("renew", &reply.text()?)?;
        // The functions of before tell the tasks only.
        let lost = if reply.is_empty() {
            let of_lost = heartbeat.leases.iter().filter(|(id, _)| tasks.contains(id));
            of_lost.map(|(_, fence)| fence.clone()).collect()
        } else {
            reply.list()?.rest()?
        };
        Ok(Renewed {
            lost,
            draining,
            duties,
        })
    }

    /// Whether the worker may start afresh now: one of a pool at a time, so that the others serve
    /// meanwhile. Its turn ends when it registers again, or after `patience`.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn may_recycle(
        &self,
        pool: &str,
        worker: &str,
        patience: Duration,
    ) -> Result<bool, QueueError> {
        let mut cmd = self.verb("recycle");
        cmd.arg(&[worker, pool]).arg(millis(patience).max(1));
        let answer: i64 = cmd.query_async(&mut self.queue.manager()).await?;
        Ok(answer == 1)
    }

    /// The worker goes: it is no capacity any more. What it still holds is handed back by reap.
    /// Draining stays until [`NamespaceQueue::forget_worker`].
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn deregister(&self, pool: &str, worker: &str) -> Result<(), QueueError> {
        let mut cmd = self.verb("deregister");
        self.call(cmd.arg(&[pool, worker])).await?;
        Ok(())
    }
}

fn describe(cmd: &mut Cmd, worker: &Heartbeat<'_>) {
    cmd.arg(&[worker.worker, worker.instance, worker.pool])
        .arg(worker.slots)
        .arg(worker.running)
        .arg(worker.memory_bytes)
        .arg(worker.lanes.join("\n"))
        .arg(worker.address)
        .arg(loaded(worker.loaded).collect::<Vec<_>>().join("\n"))
        .arg(load_failures(worker.load_failures))
        .arg(worker.recycle.map_or("", RecycleReason::as_str));
}

/// Items as they are sent: those that a line can hold.
pub(super) fn loaded(items: &[String]) -> impl Iterator<Item = &str> {
    let items = items.iter().map(String::as_str);
    items
        .filter(|item| !item.is_empty() && !item.contains('\n'))
        .take(MOST_LOADED)
}

/// JSON of the failed loads; empty for none.
fn load_failures(failures: &[(String, String)]) -> String {
    if failures.is_empty() {
        return String::new();
    }
    let cut = |(item, words): &(String, String)| {
        let words = &words[..words.floor_char_boundary(MOST_FAILURE_BYTES)];
        serde_json::json!([item, words])
    };
    serde_json::Value::Array(failures.iter().take(MOST_LOAD_FAILURES).map(cut).collect())
        .to_string()
}

/// What the controller has said to a pool's workers; nothing yet where the text is empty.
pub(super) fn duties(verb: &'static str, json: &str) -> Result<Option<Duties>, QueueError> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(json)
        .map(Some)
        .map_err(|error| wrong(verb, format!("duties: {error}")))
}
