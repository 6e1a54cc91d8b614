//! What has been heard of and the queue is to be told, as soon as it can be reached.

use std::collections::BTreeSet;

use crate::api::Phase;
use crate::controller::metrics::NO_PHASE;
use crate::controller::pods::Loss;
use crate::controller::{Context, Error, persona};
use crate::queue::fleet::{Reaped, Sweep};
use crate::queue::routing::CloseAnswer;
use crate::queue::task::OutcomeKind;

/// A persona that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removal {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub persona: String,
    /// Its uid: another persona of that name is not meant.
    pub uid: String,
}

/// Something to tell. In this order, because a pool can be closed when nobody is left there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chore {
    /// A worker was lost: its tasks are given back, if its container has ended only what it had taken
    /// when the queue's clock showed this much; none = nobody has looked at that clock yet.
    Lost(Loss, Option<u64>),
    /// A persona was deleted: its tasks end.
    Removed(Removal),
    /// A pool was deleted: it is closed. Whoever deleted it may not have, or somebody who had not heard
    /// of it has opened it again since.
    PoolGone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pool: String,
    },
}

impl Chore {
    /// Whom it concerns.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Lost(Loss::Ended { namespace, .. } | Loss::Gone { namespace, .. }, _)
            | Self::PoolGone { namespace, .. } => namespace,
            Self::Removed(removal) => &removal.namespace,
        }
    }

    /// Tells the queue; whether that is all: who is still routed to a pool or runs there keeps it open.
    ///
    /// # Errors
    /// When the queue refuses, or gives no answer.
    pub async fn run(&self, cx: &Context) -> Result<bool, Error> {
        match self {
            Self::Lost(loss, at_ms) => give_back(cx, loss, *at_ms).await?,
            Self::Removed(removal) => persona::removed(cx, removal).await?,
            Self::PoolGone { namespace, pool } => return close_pool(cx, namespace, pool).await,
        }
        Ok(true)
    }
}

async fn give_back(cx: &Context, loss: &Loss, at_ms: Option<u64>) -> Result<(), Error> {
    let (namespace, uid, reaped) = match loss {
        // It has begun anew, and gives back what was lost when it registers. What it holds since is not to
        // be touched, whatever the queue's clock has done meanwhile.
        Loss::Ended { namespace, uid } if cx.pods.runs(namespace, uid) => return Ok(()),
        Loss::Ended { namespace, uid } => {
            let queue = cx.queue.namespace(namespace)?;
            let reaped = match at_ms {
                Some(at_ms) => queue.reap_worker_as_of(uid, at_ms).await?,
                None => queue.reap_worker(uid).await?,
            };
            (namespace, uid, reaped)
        }
        Loss::Gone { namespace, uid } => {
            let queue = cx.queue.namespace(namespace)?;
            (namespace, uid, queue.forget_worker(uid).await?)
        }
    };
    look_at(cx, namespace, &reaped).await;
    if !reaped.is_empty() {
        tracing::info!(
            namespace,
            worker = uid,
            tasks = reaped.len(),
            "gave back what a worker lost"
        );
    }
    Ok(())
}

/// Closes a pool in the queue unless it exists; false while somebody is in it.
///
/// # Errors
/// When the queue refuses, or gives no answer.
pub async fn close_pool(cx: &Context, namespace: &str, pool: &str) -> Result<bool, Error> {
    if cx.stores.pool(namespace, pool).is_some() {
        return Ok(true);
    }
    match cx.queue.namespace(namespace)?.close(pool, 0).await? {
        CloseAnswer::Closed => {
            tracing::info!(namespace, pool, "closed a pool that is gone");
            Ok(true)
        }
        CloseAnswer::Busy { .. } => Ok(false),
    }
}

/// Gives back what had expired in a namespace when the queue's clock showed `seen_ms`.
///
/// # Errors
/// When the queue refuses, or gives no answer.
pub async fn reap(cx: &Context, namespace: &str, limit: u32, seen_ms: u64) -> Result<(), Error> {
    let queue = cx.queue.namespace(namespace)?;
    let Sweep { tasks, ended } = queue.reap_as_of(limit, seen_ms).await?;
    count(cx, namespace, &ended);
    look_at(cx, namespace, &tasks).await;
    if !tasks.is_empty() {
        tracing::info!(namespace, tasks = tasks.len(), "gave back what had expired");
    }
    Ok(())
}

/// Counts tasks that ended without a worker's word; workers count the others.
fn count(cx: &Context, namespace: &str, ended: &[(OutcomeKind, u64)]) {
    let topology = cx.stores.topology(namespace);
    let phase = topology.and_then(|t| t.status.as_ref()?.phase);
    let phase = phase.map_or(NO_PHASE, Phase::as_str);
    for (outcome, count) in ended {
        cx.metrics
            .tasks
            .with_label_values(&[namespace, phase, outcome.as_str()])
            .inc_by(*count);
    }
}

/// Personas that have lost workers may be in quarantine now, and say so.
async fn look_at(cx: &Context, namespace: &str, reaped: &[Reaped]) {
    let personas: BTreeSet<&str> = reaped.iter().map(|r| r.persona.as_str()).collect();
    for persona in personas {
        cx.bells.persona(namespace, persona).await;
    }
}
