//! Leader election by a Lease: one controller writes, the others stand by.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Options;

/// Why leadership ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Another process may have taken over: nothing may be written any more.
    #[error(
        "the lease could not be renewed for {0:?}: another controller takes over, this one ends"
    )]
    Lost(Duration),
    /// Another process holds the lease.
    #[error("the lease is held by {0} now: this controller ends")]
    Taken(String),
}

/// Takes, keeps and gives back the lease.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    renew_deadline: Duration,
    retry: Duration,
    /// The lease as last seen, and when by our own clock: clocks of others are not trusted.
    seen: Option<(LeaseSpec, Instant)>,
}

/// What one try led to.
enum Try {
    Held,
    By(String),
}

impl Election {
    /// The election of the options' lease.
    pub fn new(client: Client, options: &Options) -> Self {
        Self {
            leases: Api::namespaced(client, &options.pod_namespace),
            name: options.lease_name.clone(),
            // A pod that was restarted is another process: what it wrote before may be unseen.
            identity: format!("{}_{:016x}", options.pod_name, rand::random::<u64>()),
            duration: options.lease_duration.into(),
            renew_deadline: options.lease_renew_deadline.into(),
            retry: options.lease_retry_period.into(),
            seen: None,
        }
    }

    /// Waits until this process leads; false when `stop` came first.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        let mut told = None;
        while !stop.is_cancelled() {
            match self.attempt().await {
                Ok(Try::Held) => {
                    tracing::info!(identity = self.identity, "leading");
                    return true;
                }
                Ok(Try::By(holder)) => {
                    if told.as_ref() != Some(&holder) {
                        tracing::info!(holder, "standing by");
                        told = Some(holder);
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot ask for the lease, trying again"),
            }
            tokio::select! {
                () = sleep(self.pause()) => {}
                () = stop.cancelled() => {}
            }
        }
        false
    }

    /// Renews until `stop`, then gives the lease back.
    ///
    /// # Errors
    /// When leadership is lost; the caller must stop writing at once.
    pub async fn keep(&mut self, stop: &CancellationToken) -> Result<(), LeaderError> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = sleep(self.retry) => {}
                () = stop.cancelled() => return Ok(()),
            }
            let left = self.renew_deadline.saturating_sub(renewed.elapsed());
            // An answer may be late: to the others the lease was renewed at any time since it was asked for.
            let asked = Instant::now();
            match timeout(left, self.attempt()).await {
                Ok(Ok(Try::Held)) => renewed = asked,
                Ok(Ok(Try::By(holder))) => return Err(LeaderError::Taken(holder)),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease, trying again"),
                Err(_) => {}
            }
            if renewed.elapsed() >= self.renew_deadline {
                return Err(LeaderError::Lost(self.renew_deadline));
            }
        }
    }

    /// Gives the lease back, so that the next one need not wait for it to run out.
    pub async fn release(&mut self) {
        let release = async {
            let mut lease = self.leases.get(&self.name).await?;
            if let Some(spec) = &mut lease.spec
                && spec.holder_identity.as_deref() == Some(&self.identity)
            {
                spec.holder_identity = None;
                spec.lease_duration_seconds = Some(1);
                self.leases
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(self.retry, release).await {
            Ok(Ok(())) => tracing::info!("gave the lease back"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot give the lease back, it runs out"),
            Err(_) => tracing::warn!("cannot give the lease back in time, it runs out"),
        }
    }

    async fn attempt(&mut self) -> Result<Try, kube::Error> {
        let params = PostParams::default();
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.claim(None)),
            };
            return match self.leases.create(&params, &lease).await {
                Ok(_) => Ok(Try::Held),
                Err(error) if is_conflict(&error) => Ok(Try::By("another one".into())),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.take().unwrap_or_default();
        if let Some(holder) = self.other_holder(&spec) {
            return Ok(Try::By(holder));
        }
        lease.spec = Some(self.claim(Some(&spec)));
        // The resourceVersion goes with it: of two that try, one fails.
        match self.leases.replace(&self.name, &params, &lease).await {
            Ok(_) => Ok(Try::Held),
            Err(error) if is_conflict(&error) => Ok(Try::By("another one".into())),
            Err(error) => Err(error),
        }
    }

    /// Who holds the lease, unless that is nobody, us, or someone who has not renewed it for as long
    /// as it lasts.
    fn other_holder(&mut self, spec: &LeaseSpec) -> Option<String> {
        let holder = spec.holder_identity.clone().filter(|h| !h.is_empty())?;
        if holder == self.identity {
            return None;
        }
        let lasts = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.duration, Duration::from_secs);
        match &self.seen {
            Some((seen, at)) if seen == spec => (at.elapsed() < lasts).then_some(holder),
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                Some(holder)
            }
        }
    }

    fn claim(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.filter(|b| b.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.map_or(0, |b| b.lease_transitions.unwrap_or_default());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: ours
                .and_then(|lease| lease.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if ours.is_some() || before.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    fn pause(&self) -> Duration {
        self.retry.mul_f64(rand::random_range(0.8..1.2))
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
