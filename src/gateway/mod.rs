//! HTTP: an OpenAI-compatible API in front of the queue. Stateless apart from requests in flight.
//!
//! - [`server`] connections and their limits; [`body`] request bodies and theirs
//! - [`auth`] API keys; [`address`] which persona is meant; [`request`] what is asked
//! - [`exchange`] one task from enqueue to outcome; [`hub`] results to those who wait; [`entry`] the
//!   order of results; [`cancel`]
//! - [`answer`], [`error`], [`refusal`] what the client gets
//! - [`chat`], [`models`], [`health`] the routes

mod address;
mod answer;
mod auth;
mod body;
mod cancel;
mod chat;
mod directory;
mod entry;
mod error;
mod exchange;
mod health;
mod hub;
mod keys;
mod metrics;
mod models;
mod options;
mod refusal;
mod request;
mod routes;
mod server;

pub use options::Options;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::queue::access::{MasterKey, gateway_user};
use crate::queue::{Queue, QueueError, QueueOptions};
use crate::telemetry::{self, Health};

/// What keeps the gateway from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Metrics or health cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// The queue's URL or prefix cannot be one.
    #[error("PERSONA_QUEUE_URL or PERSONA_QUEUE_PREFIX is not usable: {0}")]
    Queue(#[from] QueueError),
    /// The master key cannot be read.
    #[error(
        "cannot read the master key {file} ({source}); mount the Secret, or correct PERSONA_MASTER_KEY_FILE"
    )]
    MasterKey {
        /// Where it should be.
        file: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen} ({source}); choose another address with PERSONA_LISTEN")]
    Listen {
        /// What was asked for.
        listen: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Settings that requests need.
#[derive(Clone, Debug)]
struct Settings {
    queue_wait: Duration,
    hold: Duration,
    bodies: body::BodyLimits,
}

/// Time to send a request's body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Time for the head of a request and between two; longer than load balancers keep connections.
const IDLE: Duration = Duration::from_secs(75);
/// Version of the gateway's queue password.
const PASSWORD_VERSION: u32 = 1;

/// What all requests share.
struct Context {
    queue: Queue,
    gateway: String,
    hub: hub::Hub,
    keys: watch::Receiver<auth::Keys>,
    directory: directory::Directory,
    lookout: health::Lookout,
    canceller: cancel::Canceller,
    settings: Settings,
}

impl Context {
    fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<auth::Principal>, error::ApiError> {
        let authorization = headers.get(header::AUTHORIZATION);
        self.keys
            .borrow()
            .authenticate(authorization.and_then(|value| value.to_str().ok()))
    }
}

/// A gateway that listens.
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    queue: Queue,
    options: Options,
}

impl Gateway {
    /// Takes the port. Redis need not be there yet.
    ///
    /// # Errors
    /// A setting that cannot be right, or a port that is taken.
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let failed = |source| Error::Listen {
            listen: options.listen,
            source,
        };
        let queue = Queue::connect(queue_options(&options)?)?;
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            queue,
            options,
        })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then finishes what is in flight.
    ///
    /// # Errors
    /// Metrics cannot be set up.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let options = &self.options;
        let registry = telemetry::registry()?;
        let metrics = metrics::Metrics::register(&registry).map_err(telemetry::Error::from)?;
        let health = Health::default();
        let hub = hub::Hub::default();
        let gateway = match &options.gateway_id {
            Some(id) => id.clone(),
            None => format!("{:032x}", rand::random::<u128>()),
        };
        let (canceller, cancelling) = cancel::Canceller::start();
        let (keys, watching) = keys::watch(options.api_keys_dir.clone()).await;
        let listening = tokio::spawn(listen(
            self.queue.clone(),
            gateway.clone(),
            hub.clone(),
            health.clone(),
        ));
        must_run(&health, "canceller", &cancelling);
        must_run(&health, "keys", &watching);
        must_run(&health, "results", &listening);
        let stopping = stop.clone();
        health.ready("server", move || {
            if stopping.is_cancelled() {
                Err("stopping".to_owned())
            } else {
                Ok(())
            }
        });
        let context = Context {
            queue: self.queue,
            gateway,
            hub,
            keys,
            directory: directory::Directory::default(),
            lookout: health::Lookout::default(),
            canceller,
            settings: Settings {
                queue_wait: options.queue_wait.into(),
                hold: options.hold.into(),
                bodies: body::BodyLimits::new(
                    options.max_body_bytes,
                    options.body_memory_bytes,
                    BODY_TIME,
                ),
            },
        };
        let mut router = routes::routes(Arc::new(context), metrics);
        let _metrics_server = match options.metrics_listen {
            Some(listen) => Some(telemetry::serve(listen, registry, health).await?),
            None => {
                router = router.merge(telemetry::routes(registry, health));
                None
            }
        };
        let limits = server::ConnectionLimits {
            connections: options.max_connections,
            idle: IDLE,
            stall: options.stall_timeout.into(),
            drain: options.drain_timeout.into(),
        };
        tracing::info!(address = %self.address, "serving");
        server::serve(self.listener, router, limits, stop).await;
        // The last request is gone and with it the last sender: the canceller ends by itself.
        if let Err(error) = cancelling.await {
            tracing::error!(%error, "the canceller failed");
        }
        watching.abort();
        listening.abort();
        Ok(())
    }
}

/// Runs a gateway until `stop`.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    Gateway::bind(options).await?.run(stop).await
}

fn queue_options(options: &Options) -> Result<QueueOptions, Error> {
    let mut queue = QueueOptions {
        prefix: options.queue_prefix.clone(),
        ..QueueOptions::new(options.queue_url.as_str())
    };
    if let Some(file) = &options.master_key_file {
        let key = fs::read(file).map_err(|source| Error::MasterKey {
            file: file.clone(),
            source,
        })?;
        queue.username = Some(gateway_user(&options.queue_prefix));
        queue.password = Some(MasterKey::new(key).gateway_password(PASSWORD_VERSION));
    }
    Ok(queue)
}

/// A loop that ended, which only a panic does, gets the process restarted.
fn must_run(health: &Health, name: &'static str, task: &JoinHandle<()>) {
    let task = task.abort_handle();
    health.live(name, move || {
        if task.is_finished() {
            Err("its loop has ended".to_owned())
        } else {
            Ok(())
        }
    });
}

/// Hands results to those who wait. Ready once it listened for the first time; an outage after that is
/// sat out, because a request that is held is better than one refused.
async fn listen(queue: Queue, gateway: String, hub: hub::Hub, health: Health) {
    let connected = Arc::new(AtomicBool::new(false));
    let seen = connected.clone();
    health.ready("queue", move || {
        if seen.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("not reached yet".to_owned())
        }
    });
    let mut tries = 0;
    let mut results = loop {
        match queue.results(&gateway).await {
            Ok(results) => break results,
            Err(error) => {
                if tries == 0 {
                    tracing::warn!(%error, "cannot listen for results, trying again");
                }
                tries += 1;
                let longest = (100 << tries.min(5)).min(2000);
                let pause = rand::random_range(longest / 2..=longest);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    };
    connected.store(true, Ordering::Relaxed);
    tracing::info!(gateway, "listening for results");
    loop {
        hub.deliver(results.next().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gateway_whose_loop_is_dead_is_not_live() {
        let health = Health::default();
        let task = tokio::spawn(std::future::pending());
        must_run(&health, "results", &task);
        assert_eq!(health.liveness(), Ok(()));
        task.abort();
        assert!(task.await.is_err());
        let dead = Err(vec!["results: its loop has ended".to_owned()]);
        assert_eq!(health.liveness(), dead);
    }
}
