//! Verbs of the controller about workers: drain, reap, forget.

use super::reply::Reply;
use super::task::OutcomeKind;
use super::{NamespaceQueue, QueueError};

/// In ms since the epoch: beyond any clock, and exact in Lua.
const EVER: u64 = 1 << 52;

/// What became of a task that reap touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Runnable again, at the head of its queue.
    Requeued,
    /// Its deadline had passed.
    Expired,
    /// A stream that had begun: it ended as failed, `interrupted`.
    Interrupted,
    /// It was lost alone as often as its persona allows.
    Dead,
    /// Its persona was deleted: it ended as failed.
    Removed,
}

/// A task that reap touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Id of the task.
    pub task: String,
    /// Its persona.
    pub persona: String,
    /// What became of it.
    pub fate: Fate,
}

/// Answer to [`NamespaceQueue::reap`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Tasks that it touched.
    pub tasks: Vec<Reaped>,
    /// Tasks that have ended without a worker's word since the last sweep, by whichever verb, and how: each
    /// end is told once.
    pub ended: Vec<(OutcomeKind, u64)>,
}

impl NamespaceQueue {
    /// Stops (or allows) a worker's take, claim and direct calls, by pod uid, until the pod is
    /// gone. Answers how many tasks it holds.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn drain(&self, worker: &str, on: bool) -> Result<u64, QueueError> {
        let mut cmd = self.verb("drain");
        Ok(cmd
            .arg(worker)
            .arg(u8::from(on))
            .query_async(&mut self.queue.manager())
            .await?)
    }

    /// Ends what has expired in the queue, gives back what workers have lost, wakes personas whose
    /// provider may be asked again; at most about `limit` tasks a call. After an outage or a
    /// failover call it only after one full [`super::work::LEASE`] of uninterrupted contact.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn reap(&self, limit: u32) -> Result<Sweep, QueueError> {
        self.reap_as_of(limit, EVER).await
    }

    /// As [`NamespaceQueue::reap`], but of the leases only those that had ended when Redis' clock showed
    /// `seen_ms`: one that jumps between a look at it and this call ends no others.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn reap_as_of(&self, limit: u32, seen_ms: u64) -> Result<Sweep, QueueError> {
        let mut cmd = self.verb("reap");
        let mut reply = self.reply("reap", cmd.arg(limit).arg(seen_ms)).await?;
        Ok(Sweep {
            tasks: reaped(reply.list()?)?,
            ended: ended(reply.list()?)?,
        })
    }

    /// Gives back all tasks of a worker whose container has ended, without waiting for leases.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn reap_worker(&self, worker: &str) -> Result<Vec<Reaped>, QueueError> {
        self.reap_worker_as_of(worker, EVER).await
    }

    /// As [`NamespaceQueue::reap_worker`], but only what it had taken when Redis' clock showed `lost_ms`:
    /// a worker that has begun anew since keeps what it runs now.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn reap_worker_as_of(
        &self,
        worker: &str,
        lost_ms: u64,
    ) -> Result<Vec<Reaped>, QueueError> {
        let mut cmd = self.verb("reap_worker");
        cmd.arg(worker).arg(0).arg(lost_ms);
        reaped(self.reply("reap_worker", &cmd).await?)
    }

    /// The pod is gone: as [`NamespaceQueue::reap_worker`], and nothing of it stays.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn forget_worker(&self, worker: &str) -> Result<Vec<Reaped>, QueueError> {
        let mut cmd = self.verb("reap_worker");
        cmd.arg(worker).arg(1).arg(EVER);
        reaped(self.reply("reap_worker", &cmd).await?)
    }
}

/// Outcome and count in turn.
fn ended(mut reply: Reply) -> Result<Vec<(OutcomeKind, u64)>, QueueError> {
    let mut counts = Vec::new();
    while !reply.is_empty() {
        let word = reply.text()?;
        let kind = OutcomeKind::read(&word).ok_or_else(|| reply.unknown(&word))?;
        counts.push((kind, reply.next()?));
    }
    Ok(counts)
}

fn reaped(reply: Reply) -> Result<Vec<Reaped>, QueueError> {
    reply
        .lists()?
        .into_iter()
        .map(|mut item| {
            let (task, persona, word) = (item.text()?, item.text()?, item.text()?);
            let fate = match word.as_str() {
                "requeued" => Fate::Requeued,
                "expired" => Fate::Expired,
                "interrupted" => Fate::Interrupted,
                "dead" => Fate::Dead,
                "removed" => Fate::Removed,
                _ => return Err(item.unknown(&word)),
            };
            Ok(Reaped {
                task,
                persona,
                fate,
            })
        })
        .collect()
}
