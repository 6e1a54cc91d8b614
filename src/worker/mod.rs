//! The process in a pool's pods: takes tasks, asks their personas' models, hands in the answers.
//!
//! - [`intake`] fills free slots; [`stealing`] when to help other pools (pure); [`roster`] who runs
//! - [`adapters`] LoRA adapters on the model server beside it
//! - [`attempt`] one task; [`answer`] its pieces, [`verdict`] what a failure means (both pure)
//! - [`emitter`] streams; [`configs`] personas; [`lanes`] which credentials are here
//! - [`heartbeat`] leases, draining, cancelled tasks; [`link`] the connection to the queue
//! - [`lifecycle`] start, stop in order, [`recycle`] starting afresh
//! - [`metrics`] what is counted

mod adapters;
mod answer;
mod attempt;
mod configs;
mod emitter;
mod heartbeat;
mod intake;
mod lanes;
mod lifecycle;
mod link;
mod metrics;
mod options;
mod recycle;
mod roster;
mod stealing;
mod verdict;

pub use options::Options;
pub use recycle::{MemorySize, Reason, Recycles};

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::provider::{Credentials, ProviderError, Providers};
use crate::queue::QueueError;
use crate::queue::task::Duties;
use crate::telemetry;

/// What ends a worker before its time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Metrics or health cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// No HTTP client for providers.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The queue's URL, prefix or names cannot be one.
    #[error("PERSONA_QUEUE_URL, PERSONA_QUEUE_PREFIX or PERSONA_NAMESPACE is not usable: {0}")]
    Queue(#[source] QueueError),
    /// Another process has registered for the same pod.
    #[error("{0}; run one worker a POD_UID")]
    Superseded(#[source] QueueError),
    /// A loop has ended that must not; a defect.
    #[error("the worker's {0} has failed; the log says why, please report it")]
    Crashed(&'static str),
    /// `execve` was refused.
    #[error("cannot start afresh ({0}); the container's restart does it instead")]
    Exec(#[source] std::io::Error),
}

/// Bounds of the pause between tries while Redis is away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What all parts share.
struct Context {
    pool: String,
    /// Uid of the pod.
    worker: String,
    /// Unguessable id of this process.
    instance: String,
    slots: u32,
    /// `host:port` for direct calls.
    address: String,
    /// Phase and pools to steal from, as the controller says.
    duties: watch::Sender<Duties>,
    link: link::Link,
    credentials: Credentials,
    lanes: lanes::Lanes,
    configs: configs::Configs,
    providers: Providers,
    adapters: Arc<adapters::Adapters>,
    roster: Arc<roster::Roster>,
    emitter: Arc<emitter::Emitter>,
    metrics: metrics::Metrics,
    /// Since when the controller wants nothing new taken.
    draining: watch::Sender<Option<Instant>>,
    /// Why it asks to be replaced, once it does.
    recycle: OnceLock<Reason>,
    /// Asks for a heartbeat now.
    beat: Notify,
    /// Nothing new is taken any more.
    closing: CancellationToken,
}

impl Context {
    /// From now on nothing new is taken, and the queue knows.
    fn close(&self) {
        self.closing.cancel();
        self.beat.notify_one();
    }

    /// From now on the queue knows that the worker is to be followed by another one.
    fn ask_to_be_replaced(&self, why: Reason) {
        // The first reason will do.
        self.recycle.get_or_init(|| why);
        self.beat.notify_one();
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// It is to start afresh.
    Recycle(Reason),
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    address: SocketAddr,
    instance: String,
    life: JoinHandle<Result<Ended, Error>>,
}

impl Worker {
    /// Starts a worker. Redis need not be there yet.
    ///
    /// # Errors
    /// A setting that cannot be right, or a port that is taken.
    pub async fn start(options: Options, stop: CancellationToken) -> Result<Self, Error> {
        let prepared = lifecycle::prepare(&options).await?;
        Ok(Self {
            address: prepared.address(),
            instance: prepared.instance().to_owned(),
            life: tokio::spawn(prepared.run(options, stop)),
        })
    }

    /// Where metrics and health are served, with the port that the system chose for port 0.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Id of this process in the queue.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What ended it before its time.
    pub async fn ended(mut self) -> Result<Ended, Error> {
        (&mut self.life)
            .await
            .unwrap_or(Err(Error::Crashed("life")))
    }
}

impl Drop for Worker {
    /// As if it were killed: what it runs comes back when its leases end.
    fn drop(&mut self) {
        self.life.abort();
    }
}

/// Runs a worker until `stop`. To start afresh it replaces this process.
///
/// # Errors
/// What keeps it from starting, or ended it.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let recycles = options.recycles;
    match Worker::start(options, stop).await?.ended().await? {
        Ended::Stopped => Ok(()),
        Ended::Recycle(reason) => Err(Error::Exec(recycle::start_afresh(recycles.and(reason)))),
    }
}
