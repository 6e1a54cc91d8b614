//! Verbs of the controller that say which persona runs in which pool.

use redis::{Cmd, Value};
use sha2::{Digest, Sha256};

use super::keys::{self, check_name};
use super::reply::{Reply, wrong};
use super::task::Duties;
use super::{NamespaceQueue, QueueError};
use crate::api::runtime::PersonaConfig;
use crate::api::{Provider, QueueLimits};

/// Waiting tasks that one call of `remove` ends: keeps the call short for Redis.
const REMOVE_BATCH: u32 = 500;

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
    /// What a model server has to hold to serve it: `adapter/<name>` or `model/<name>`, as in
    /// [`super::work::Heartbeat::loaded`]. Empty: every worker of its lane will do.
    pub needs: &'a str,
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
        /// Pool it is in now: with [`Target::Unchanged`] perhaps not where the caller thought.
        pool: Option<String>,
        /// Waiting tasks that came along.
        queued: u64,
    },
    /// A newer epoch has spoken.
    StaleEpoch {
        /// The epoch of the present route, or of the topology that closed a pool last.
        current: u64,
    },
    /// A newer generation of the persona's configuration is registered.
    StaleGeneration {
        /// The generation that is registered.
        current: i64,
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
        let (target, pool) = match route.target {
            Target::Unchanged => ("unchanged", ""),
            Target::Nowhere => ("nowhere", ""),
            Target::Pool(pool) => ("pool", pool),
        };
        check_name(route.persona)?;
        check_name(route.lane)?;
        if !pool.is_empty() {
            check_name(pool)?;
        }
        let config = serde_json::to_string(route.config)
            .map_err(|error| wrong("route", format!("configuration: {error}")))?;
        let limits = route.limits;
        let mut cmd = self.verb("route");
        cmd.arg(&[route.persona, route.uid, target, pool, route.lane])
            .arg(route.epoch)
            .arg(route.config.generation)
            .arg(config)
            .arg(limits.max_concurrency.max(1))
            .arg(limits.max_length.max(1))
            .arg(limits.priority.clamp(-100, 100))
            .arg(limits.weight.max(1))
            .arg(u8::from(route.suspended))
            .arg(route.config.max_attempts.max(1))
            .arg(provider_key(route))
            .arg(route.needs);
        // The set of namespaces is outside the namespace's slot, so it is not the function's to write.
        let (value, _): (Value, i64) = redis::pipe()
            .add_command(cmd)
            .cmd("SADD")
            .arg(keys::namespaces(self.queue.prefix()))
            .arg(self.namespace())
            .query_async(&mut self.queue.manager())
            .await?;
        let mut reply = Reply::new("route", value)?;
        let word = reply.text()?;
        Ok(match word.as_str() {
            "routed" => RouteAnswer::Routed {
                from: Some(reply.text()?).filter(|pool| !pool.is_empty()),
                pool: Some(reply.text()?).filter(|pool| !pool.is_empty()),
                queued: reply.next()?,
            },
            "stale_epoch" => RouteAnswer::StaleEpoch {
                current: reply.next()?,
            },
            "stale_generation" => RouteAnswer::StaleGeneration {
                current: reply.next()?,
            },
            "other_uid" => RouteAnswer::OtherUid {
                current: reply.text()?,
            },
            "removed" => RouteAnswer::Removed,
            "closed_pool" => RouteAnswer::ClosedPool,
            _ => return Err(reply.unknown(&word)),
        })
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
        let mut failed = 0;
        loop {
            let mut cmd = self.verb("remove");
            cmd.arg(&[persona, uid, reason]).arg(REMOVE_BATCH);
            let mut reply = self.reply("remove", &cmd).await?;
            let word = reply.text()?;
            match word.as_str() {
                "removed" => {}
                "unknown" => return Ok(RemoveAnswer::Unknown),
                "other_uid" => {
                    return Ok(RemoveAnswer::OtherUid {
                        current: reply.text()?,
                    });
                }
                _ => return Err(reply.unknown(&word)),
            }
            failed += reply.next::<u64>()?;
            let (left, personas): (u64, u64) = (reply.next()?, reply.next()?);
            if left == 0 {
                if personas == 0 {
                    self.leave_namespace().await?;
                }
                return Ok(RemoveAnswer::Removed { failed });
            }
        }
    }

    async fn leave_namespace(&self) -> Result<(), QueueError> {
        let mut cmd = redis::cmd("SREM");
        cmd.arg(keys::namespaces(self.queue.prefix()))
            .arg(self.namespace());
        self.call(&cmd).await?;
        Ok(())
    }

    /// Opens a pool for routes. Idempotent.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn open(&self, pool: &str) -> Result<(), QueueError> {
        check_name(pool)?;
        let mut cmd = self.verb("open");
        self.call(cmd.arg(pool)).await?;
        Ok(())
    }

    /// How many pools were closed so far, for [`NamespaceQueue::open_again`].
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn closings(&self) -> Result<u64, QueueError> {
        let count: Option<u64> = Cmd::get(self.keys.closings())
            .query_async(&mut self.queue.manager())
            .await?;
        Ok(count.unwrap_or(0))
    }

    /// As [`NamespaceQueue::open`], unless a pool was closed since the closings were so many; whether it
    /// is open now.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn open_again(&self, pool: &str, closings: u64) -> Result<bool, QueueError> {
        check_name(pool)?;
        let mut cmd = self.verb("open");
        let answer: String = cmd
            .arg(pool)
            .arg(closings)
            .query_async(&mut self.queue.manager())
            .await?;
        Ok(answer == "OK")
    }

    /// Says what an open pool's workers have to know; false when the pool is not open.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn assign(&self, pool: &str, duties: &Duties) -> Result<bool, QueueError> {
        let duties = serde_json::to_string(duties)
            .map_err(|error| wrong("assign", format!("duties: {error}")))?;
        let mut cmd = self.verb("assign");
        Ok(cmd
            .arg(&[pool, &duties])
            .query_async(&mut self.queue.manager())
            .await?)
    }

    /// Closes a pool that is empty: no members, nothing waiting, nothing running. Idempotent. From then
    /// on no route of an epoch before this one enters any pool; 0 where no topology has decided.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn close(&self, pool: &str, epoch: u64) -> Result<CloseAnswer, QueueError> {
        check_name(pool)?;
        let mut cmd = self.verb("close");
        let mut reply = self.reply("close", cmd.arg(pool).arg(epoch)).await?;
        let word = reply.text()?;
        Ok(match word.as_str() {
            "closed" => CloseAnswer::Closed,
            "busy" => CloseAnswer::Busy {
                members: reply.next()?,
                queued: reply.next()?,
                running: reply.next()?,
            },
            _ => return Err(reply.unknown(&word)),
        })
    }

    /// Says that all routes are published; `None` takes the word back. Readers compare the value.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn set_epoch(&self, epoch: Option<&str>) -> Result<(), QueueError> {
        let cmd = match epoch {
            Some(epoch) => Cmd::set(self.keys.epoch(), epoch),
            None => Cmd::del(self.keys.epoch()),
        };
        self.call(&cmd).await?;
        Ok(())
    }

    /// The namespace's epoch, if one is set.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn epoch(&self) -> Result<Option<String>, QueueError> {
        Ok(Cmd::get(self.keys.epoch())
            .query_async(&mut self.queue.manager())
            .await?)
    }

    /// Names of the registered personas.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn personas(&self) -> Result<Vec<String>, QueueError> {
        Ok(Cmd::smembers(self.keys.personas())
            .query_async(&mut self.queue.manager())
            .await?)
    }

    /// Names of the open pools.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn pools(&self) -> Result<Vec<String>, QueueError> {
        Ok(Cmd::smembers(self.keys.pools())
            .query_async(&mut self.queue.manager())
            .await?)
    }

    /// Uid, pool and epoch of a registered persona.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn registration(&self, persona: &str) -> Result<Option<Registration>, QueueError> {
        let mut cmd = self.verb("registration");
        let value = self.call(cmd.arg(persona)).await?;
        if value == Value::Nil {
            return Ok(None);
        }
        let mut reply = Reply::new("registration", value)?;
        Ok(Some(Registration {
            uid: reply.text()?,
            pool: Some(reply.text()?).filter(|pool| !pool.is_empty()),
            epoch: reply.next()?,
            generation: reply.next()?,
            needs: Some(reply.text()?).filter(|needs| !needs.is_empty()),
        }))
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
    /// What a model server has to hold to serve it, if anything.
    pub needs: Option<String>,
}

/// Personas with the same key share a provider's limits: same API, same endpoint, same credential.
fn provider_key(route: &Route<'_>) -> String {
    let config = route.config;
    // A server in the pool's own pods is shared by nobody with another model.
    let local = matches!(
        config.provider,
        Provider::Ollama | Provider::OpenAICompatible
    );
    let own = if local { config.model.as_str() } else { "" };
    let endpoint = config.endpoint.as_deref().unwrap_or(own);
    let digest = Sha256::digest(format!("{:?}\0{endpoint}\0{}", config.provider, route.lane));
    hex::encode(&digest[..8])
}
