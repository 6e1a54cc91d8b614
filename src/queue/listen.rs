//! Waiting for something to happen. Each listener has a connection of its own, and opens it again
//! when it breaks.

use std::time::Duration;

use futures::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{AsyncConnectionConfig, Msg, Value};
use tokio::time::{sleep, timeout};

use super::keys::{self, check_name, namespace_of};
use super::submit::{chunks, outcome_of};
use super::task::{Chunk, Outcome};
use super::{NamespaceQueue, Queue, QueueError};

/// How often a silent connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Bounds of the pause before a new connection.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// A worker waiting for work.
pub struct Bell {
    queue: Queue,
    bells: Vec<String>,
    connection: Option<MultiplexedConnection>,
}

impl NamespaceQueue {
    /// The bell of a pool, for a worker that serves `lanes`.
    pub fn bell(&self, pool: &str, lanes: &[String]) -> Bell {
        Bell {
            queue: self.queue.clone(),
            bells: lanes
                .iter()
                .map(|lane| self.keys.bell(pool, lane))
                .collect(),
            connection: None,
        }
    }

    /// Listens for what concerns a worker.
    ///
    /// # Errors
    /// When the first connection cannot be made.
    pub async fn control(&self, worker: &str) -> Result<Control, QueueError> {
        check_name(worker)?;
        let channel = Channel::Exact(self.keys.control_channel(worker));
        Ok(Control(Subscription::open(&self.queue, channel).await?))
    }
}

impl Bell {
    /// Waits until there may be something to take (`true`) or the time is over (`false`). May be
    /// dropped at any time. A token can get lost with a worker that dies between bell and take, so
    /// wait for a second at most, and take.
    ///
    /// # Errors
    /// When Redis is away: wait a moment (with jitter) and call again.
    pub async fn wait(&mut self, patience: Duration) -> Result<bool, QueueError> {
        if self.bells.is_empty() {
            sleep(patience).await;
            return Ok(false);
        }
        // Out of its place while it waits: when this future is dropped the connection goes with it,
        // and Redis does not hand a token to nobody.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut cmd = redis::cmd("BLPOP");
        cmd.arg(&self.bells).arg(patience.as_secs_f64().max(0.001));
        let answer = timeout(
            patience + self.queue.timeout(),
            cmd.query_async::<Value>(&mut connection),
        )
        .await
        .map_err(|_| silent())??;
        self.connection = Some(connection);
        Ok(answer != Value::Nil)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, QueueError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.queue.timeout()))
            .set_response_timeout(None);
        Ok(self
            .queue
            .client()
            .get_multiplexed_async_connection_with_config(&config)
            .await?)
    }
}

fn silent() -> QueueError {
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer");
    QueueError::Unreachable(error.into())
}

enum Channel {
    Exact(String),
    Pattern(String),
}

/// A subscription that comes back.
struct Subscription {
    queue: Queue,
    channel: Channel,
    open: Option<(PubSubSink, PubSubStream)>,
    failures: u32,
}

impl Subscription {
    async fn open(queue: &Queue, channel: Channel) -> Result<Self, QueueError> {
        let mut subscription = Self {
            queue: queue.clone(),
            channel,
            open: None,
            failures: 0,
        };
        subscription.open = Some(subscription.connect().await?);
        Ok(subscription)
    }

    async fn connect(&self) -> Result<(PubSubSink, PubSubStream), QueueError> {
        let connecting = async {
            let (mut sink, stream) = self.queue.client().get_async_pubsub().await?.split();
            match &self.channel {
                Channel::Exact(channel) => sink.subscribe(channel).await?,
                Channel::Pattern(pattern) => sink.psubscribe(pattern).await?,
            }
            Ok((sink, stream))
        };
        timeout(self.queue.timeout(), connecting)
            .await
            .map_err(|_| silent())?
    }

    /// The next message, or `None` after the connection was lost and is back.
    async fn next(&mut self) -> Option<Msg> {
        loop {
            let Some((sink, stream)) = &mut self.open else {
                return self.reopen().await;
            };
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => return Some(message),
                    None => self.open = None,
                },
                () = sleep(PING_EVERY) => {
                    let alive = timeout(self.queue.timeout(), sink.ping::<Value>()).await;
                    if !matches!(alive, Ok(Ok(_))) {
                        self.open = None;
                    }
                }
            }
        }
    }

    async fn reopen(&mut self) -> Option<Msg> {
        loop {
            match self.connect().await {
                Ok(open) => {
                    self.open = Some(open);
                    self.failures = 0;
                    return None;
                }
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    tracing::debug!(%error, failures = self.failures, "subscription is not back yet");
                    sleep(pause(BACKOFF, self.failures)).await;
                }
            }
        }
    }
}

/// Pause after that many failures: doubles from the first bound to the second, with jitter.
pub(crate) fn pause((least, most): (Duration, Duration), failures: u32) -> Duration {
    let longest = least.saturating_mul(1 << failures.min(10)).min(most);
    longest.mul_f64(rand::random_range(0.5..1.0))
}

/// Control messages of a worker.
pub struct Control(Subscription);

/// What a worker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// Stop this task: it is not this worker's any more.
    Cancel {
        /// Id of the task.
        task: String,
    },
    /// Draining was switched on or off, or the pool has other duties: renew tells.
    Drain,
    /// The connection was lost and is back: messages may be missing (renew tells what is lost).
    Gap,
}

impl Control {
    /// The next message; reconnects by itself, with jittered back-off. May be dropped at any time.
    pub async fn next(&mut self) -> ControlMessage {
        loop {
            let Some(message) = self.0.next().await else {
                return ControlMessage::Gap;
            };
            match message.get_payload::<String>() {
                Ok(task) if task.is_empty() => return ControlMessage::Drain,
                Ok(task) => return ControlMessage::Cancel { task },
                Err(error) => tracing::warn!(%error, "a control message is not understood"),
            }
        }
    }
}

/// Results of a gateway's tasks, in all namespaces.
pub struct Results(Subscription);

/// Something about one task.
#[derive(Clone, Debug, PartialEq)]
pub enum ResultMessage {
    /// Chunks of a streamed answer.
    Chunks {
        /// Namespace of the task.
        namespace: String,
        /// Id of the task.
        task: String,
        /// Id of the entry in the task's output, to resume from.
        id: String,
        /// The chunks, in order.
        chunks: Vec<Chunk>,
    },
    /// Its attempt ended without an outcome; it waits again.
    Restarted {
        /// Namespace of the task.
        namespace: String,
        /// Id of the task.
        task: String,
    },
    /// The task ended.
    Ended {
        /// Namespace of the task.
        namespace: String,
        /// Id of the task.
        task: String,
        /// How.
        outcome: Outcome,
    },
    /// The connection was lost and is back: catch up with [`NamespaceQueue::output`].
    Gap,
}

impl Queue {
    /// Listens for results of tasks enqueued with this gateway id. Some of another gateway may come
    /// along: gateways share a few channels.
    ///
    /// # Errors
    /// When the first connection cannot be made.
    pub async fn results(&self, gateway: &str) -> Result<Results, QueueError> {
        check_name(gateway)?;
        let channel = Channel::Pattern(keys::gateway_pattern(self.prefix(), gateway));
        Ok(Results(Subscription::open(self, channel).await?))
    }

    /// Listens for pools that need a look.
    ///
    /// # Errors
    /// When the first connection cannot be made.
    pub async fn doorbell(&self) -> Result<Doorbell, QueueError> {
        let channel = Channel::Pattern(keys::doorbell_pattern(self.prefix()));
        Ok(Doorbell(Subscription::open(self, channel).await?))
    }
}

impl Results {
    /// The next message; reconnects by itself, with jittered back-off. May be dropped at any time.
    pub async fn next(&mut self) -> ResultMessage {
        loop {
            let Some(message) = self.0.next().await else {
                return ResultMessage::Gap;
            };
            match result_message(&self.0.queue, &message) {
                Ok(message) => return message,
                Err(error) => tracing::warn!(%error, "a result message is not understood"),
            }
        }
    }
}

/// `<kind> <task> <entry id>`, newline, JSON.
fn result_message(queue: &Queue, message: &Msg) -> Result<ResultMessage, QueueError> {
    let garbled = || super::reply::wrong("results", "a message without its head");
    let text: String = message.get_payload()?;
    let (head, json) = text.split_once('\n').ok_or_else(garbled)?;
    let mut words = head.split(' ');
    let (Some(kind), Some(task), Some(id)) = (words.next(), words.next(), words.next()) else {
        return Err(garbled());
    };
    let namespace = namespace_of(queue.prefix(), message.get_channel_name())
        .ok_or_else(garbled)?
        .to_owned();
    let task = task.to_owned();
    match kind {
        "c" => Ok(ResultMessage::Chunks {
            namespace,
            task,
            id: id.to_owned(),
            chunks: chunks(json)?,
        }),
        "r" => Ok(ResultMessage::Restarted { namespace, task }),
        "e" => Ok(ResultMessage::Ended {
            namespace,
            task,
            outcome: outcome_of(json)?,
        }),
        _ => Err(garbled()),
    }
}

/// Wake-ups of the controller.
pub struct Doorbell(Subscription);

/// A pool that went from nothing to something, or has no idle live slot for what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Look at this pool.
    Pool {
        /// Namespace of the pool.
        namespace: String,
        /// Name of the pool.
        pool: String,
    },
    /// The connection was lost and is back: look at all of them.
    Gap,
}

impl Doorbell {
    /// The next ring; reconnects by itself, with jittered back-off. May be dropped at any time.
    pub async fn next(&mut self) -> Ring {
        loop {
            let Some(message) = self.0.next().await else {
                return Ring::Gap;
            };
            let namespace = namespace_of(self.0.queue.prefix(), message.get_channel_name());
            if let (Some(namespace), Ok(pool)) = (namespace, message.get_payload()) {
                return Ring::Pool {
                    namespace: namespace.to_owned(),
                    pool,
                };
            }
        }
    }
}
