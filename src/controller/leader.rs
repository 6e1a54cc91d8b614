//! Leader election by a Lease: one controller writes, the others stand by.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, sleep_until, timeout};
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

/// How often a try begins anew because the lease was changed between reading and writing it.
const CHANGES: usize = 3;

/// What one try led to.
enum Try {
    /// We hold it, since this was asked for: an answer may be late, and to the others the lease was
    /// renewed at any time since then.
    Held(Instant),
    By(String),
}

/// Why a try led to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("no answer of the API server for {0:?}")]
    Silence(Duration),
    #[error("the lease is changed all the time: see who else writes it")]
    Changed,
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

    /// Waits until this process leads, and returns when it asked for that; none when `stop` came first.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> Option<Instant> {
        let mut told = None;
        loop {
            let tried = tokio::select! {
                tried = self.attempt(self.patience()) => tried,
                () = stop.cancelled() => return None,
            };
            match tried {
                // The process may have been stopped meanwhile: it would have to end at once.
                Ok(Try::Held(asked)) if asked.elapsed() >= self.renew_deadline => continue,
                Ok(Try::Held(asked)) => {
                    tracing::info!(identity = self.identity, "leading");
                    return Some(asked);
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
                () = stop.cancelled() => return None,
            }
        }
    }

    /// Renews what is held since `renewed` until `stop`. Returns until when this process may write, though
    /// it renews no more.
    ///
    /// # Errors
    /// When leadership is lost; the caller must stop writing at once.
    pub async fn keep(
        &mut self,
        mut renewed: Instant,
        stop: &CancellationToken,
    ) -> Result<Instant, LeaderError> {
        let mut asked = renewed;
        loop {
            // After a try that took all its time the next one begins at once.
            tokio::select! {
                () = sleep_until(asked + self.retry) => {}
                () = stop.cancelled() => return Ok(renewed + self.renew_deadline),
            }
            asked = Instant::now();
            let left = self.renew_deadline.saturating_sub(renewed.elapsed());
            let tried = tokio::select! {
                tried = self.attempt(left.min(self.patience())) => tried,
                () = stop.cancelled() => return Ok(renewed + self.renew_deadline),
            };
            match tried {
                Ok(Try::Held(since)) => renewed = since,
                Ok(Try::By(holder)) => return Err(LeaderError::Taken(holder)),
                Err(error) => tracing::warn!(%error, "cannot renew the lease, trying again"),
            }
            if renewed.elapsed() >= self.renew_deadline {
                return Err(LeaderError::Lost(self.renew_deadline));
            }
        }
    }

    /// Gives the lease back if it is ours, so that the next one need not wait for it to run out.
    pub async fn release(&mut self) {
        let release = async {
            // A renewal that nobody waits for any more may come in between.
            for _ in 0..CHANGES {
                let mut lease = self.leases.get(&self.name).await?;
                let Some(spec) = &mut lease.spec else { break };
                if spec.holder_identity.as_deref() != Some(&self.identity) {
                    break;
                }
                spec.holder_identity = None;
                spec.lease_duration_seconds = Some(1);
                let params = PostParams::default();
                let replaced = self.leases.replace(&self.name, &params, &lease).await;
                if unless_changed(replaced)?.is_some() {
                    return Ok(true);
                }
            }
            Ok::<_, kube::Error>(false)
        };
        match timeout(self.retry, release).await {
            Ok(Ok(true)) => tracing::info!("gave the lease back"),
            Ok(Ok(false)) => tracing::info!("the lease is another's: nothing to give back"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot give the lease back, it runs out"),
            Err(_) => tracing::warn!("cannot give the lease back in time, it runs out"),
        }
    }

    /// How long one try may take: a request that hangs leaves time for one over another connection.
    fn patience(&self) -> Duration {
        self.renew_deadline / 2
    }

    async fn attempt(&mut self, limit: Duration) -> Result<Try, Failure> {
        let tries = async {
            for _ in 0..CHANGES {
                if let Some(done) = self.attempt_once().await? {
                    return Ok(done);
                }
            }
            Err(Failure::Changed)
        };
        let tried = timeout(limit, tries).await;
        tried.unwrap_or(Err(Failure::Silence(limit)))
    }

    /// None when the lease was changed between reading and writing it. That may have been anybody, and
    /// this process too, when the API server was asked twice: reading it again says who holds it.
    async fn attempt_once(&mut self) -> Result<Option<Try>, kube::Error> {
        let asked = Instant::now();
        let params = PostParams::default();
        let written = match self.leases.get_opt(&self.name).await? {
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(self.claim(None)),
                };
                self.leases.create(&params, &lease).await
            }
            Some(mut lease) => {
                let spec = lease.spec.take().unwrap_or_default();
                if let Some(holder) = self.other_holder(&spec) {
                    return Ok(Some(Try::By(holder)));
                }
                lease.spec = Some(self.claim(Some(&spec)));
                // The resourceVersion goes with it: of two that try, one fails.
                self.leases.replace(&self.name, &params, &lease).await
            }
        };
        Ok(unless_changed(written)?.map(|_| Try::Held(asked)))
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

/// None when somebody else wrote the object before.
fn unless_changed<T>(written: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match written {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        other => other.map(Some),
    }
}
