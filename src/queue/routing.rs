//! Verbs of the controller that say which persona runs in which pool.

use super::{NamespaceQueue, QueueError};
use crate::api::QueueLimits;
use crate::api::runtime::PersonaConfig;

/// Registers a persona, or changes its route, limits or configuration.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    /// Name of the persona.
    pub persona: &'a str,
    /// `metadata.uid` of the persona.
    pub uid: &'a str,
    /// Where its tasks run.
    pub target: Target<'a>,
    /// What a worker must hold to serve it ([`crate::api::runtime::lane`]).
    pub lane: &'a str,
    /// Epoch of the topology that decided; an older one than the last is refused.
    pub epoch: u64,
    /// What the workers need to know.
    pub config: &'a PersonaConfig,
    /// Limits of its queue.
    pub limits: &'a QueueLimits,
    /// A suspended persona accepts no tasks and runs none.
    pub suspended: bool,
}

/// Where a persona's tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Where they ran before; nowhere for a new persona, which accepts tasks all the same.
    Unchanged,
    /// Nowhere: it accepts tasks and runs none.
    Nowhere,
    /// In this pool, which must be open.
    Pool(&'a str),
}

/// Answer to [`NamespaceQueue::route`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// The persona is registered and routed.
    Routed {
        /// Pool it was in before, if that is another one.
        from: Option<String>,
        /// Waiting tasks that came along.
        queued: u64,
    },
    /// A newer epoch has spoken.
    StaleEpoch {
        /// The epoch of the present route.
        current: u64,
    },
    /// A persona of the same name and another uid is registered: `remove` that one first.
    OtherUid {
        /// Uid that is registered.
        current: String,
    },
    /// This uid was removed a moment ago and does not come back.
    Removed,
    /// The pool is not open.
    ClosedPool,
}

/// Answer to [`NamespaceQueue::remove`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoveAnswer {
    /// Gone; that many waiting tasks ended as failed. Running ones finish.
    Removed {
        /// Waiting tasks that ended.
        failed: u64,
    },
    /// Nothing by that name is registered.
    Unknown,
    /// A persona of the same name and another uid is registered.
    OtherUid {
        /// Uid that is registered.
        current: String,
    },
}

/// Answer to [`NamespaceQueue::close`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseAnswer {
    /// No route can enter it any more.
    Closed,
    /// Something is still there; nothing was changed.
    Busy {
        /// Personas routed there.
        members: u64,
        /// Their waiting tasks.
        queued: u64,
        /// Tasks that run on its workers.
        running: u64,
    },
}

impl NamespaceQueue {
    /// Sets the route by compare-and-set on uid and epoch. Waiting tasks come along without being
    /// copied, running ones finish where they are, the virtual time moves over relative to the two
    /// pools' clocks. The same route with other limits or configuration is an update.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn route(&self, route: &Route<'_>) -> Result<RouteAnswer, QueueError> {
        let _ = route;
        Err(QueueError::not_implemented("route"))
    }

    /// Takes a deleted persona out: waiting tasks end as failed with `reason`, running ones finish.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn remove(
        &self,
        persona: &str,
        uid: &str,
        reason: &str,
    ) -> Result<RemoveAnswer, QueueError> {
        let _ = (persona, uid, reason);
        Err(QueueError::not_implemented("remove"))
    }

    /// Opens a pool for routes. Idempotent.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn open(&self, pool: &str) -> Result<(), QueueError> {
        let _ = pool;
        Err(QueueError::not_implemented("open"))
    }

    /// Closes a pool that is empty: no members, nothing waiting, nothing running. Idempotent.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn close(&self, pool: &str) -> Result<CloseAnswer, QueueError> {
        let _ = pool;
        Err(QueueError::not_implemented("close"))
    }

    /// Says that all routes are published; `None` takes the word back. Readers compare the value.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn set_epoch(&self, epoch: Option<&str>) -> Result<(), QueueError> {
        let _ = epoch;
        Err(QueueError::not_implemented("set_epoch"))
    }

    /// Names of the registered personas.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn personas(&self) -> Result<Vec<String>, QueueError> {
        Err(QueueError::not_implemented("personas"))
    }

    /// Uid, pool and epoch of a registered persona.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn registration(&self, persona: &str) -> Result<Option<Registration>, QueueError> {
        let _ = persona;
        Err(QueueError::not_implemented("registration"))
    }
}

/// What is registered of a persona.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// `metadata.uid`.
    pub uid: String,
    /// Its pool, if it is routed.
    pub pool: Option<String>,
    /// Epoch of its route.
    pub epoch: u64,
    /// Generation of its configuration.
    pub generation: i64,
}
