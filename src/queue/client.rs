use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::ConnectionManagerConfig;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, Cmd, IntoConnectionInfo, Value};

use super::QueueError;
use super::connection::Connection;
use super::keys::{self, Keys};
use super::library::LIBRARY;
use super::reply::Reply;

/// Where the queue is and as whom to reach it.
#[derive(Clone)]
pub struct QueueOptions {
    /// `redis://host:port[/db]` or `rediss://…`.
    pub url: String,
    /// Prefix of the installation's keys.
    pub prefix: String,
    /// ACL user; none = what the URL says, or Redis' default user.
    pub username: Option<String>,
    /// Password of the user.
    pub password: Option<String>,
    /// Longest wait for an answer, and for a connection.
    pub timeout: Duration,
}

impl std::fmt::Debug for QueueOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueOptions")
            .field("prefix", &self.prefix)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl QueueOptions {
    /// Options with the default prefix, the URL's user and 5 s of patience.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: keys::DEFAULT_PREFIX.to_owned(),
            username: None,
            password: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// The queue of an installation. Cheap to clone; all clones share one connection, which reconnects
/// by itself. Waiting (bells, channels) opens connections of its own.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    connection: Connection,
    prefix: String,
    timeout: Duration,
}

impl Queue {
    /// Prepares the connection; it is opened at the first call, so that a process starts while Redis
    /// is away.
    ///
    /// # Errors
    /// [`QueueError::Refused`] for a URL that cannot be one, [`QueueError::BadName`] for the prefix.
    pub fn connect(options: QueueOptions) -> Result<Self, QueueError> {
        keys::check_name(&options.prefix)?;
        let info = options.url.as_str().into_connection_info()?;
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &options.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &options.password {
            settings = settings.set_password(password);
        }
        let info = info.set_redis_settings(settings);
        let client = Client::open(info.set_tcp_settings(tcp_settings(options.timeout)))?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(2)
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(500))
            .set_connection_timeout(Some(options.timeout))
            .set_response_timeout(Some(options.timeout))
            .set_pipeline_buffer_size(1024);
        let connection = Connection::new(client.clone(), config)?;
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                connection,
                prefix: options.prefix,
                timeout: options.timeout,
            }),
        })
    }

    /// The handle of one namespace.
    ///
    /// # Errors
    /// [`QueueError::BadName`] for what no namespace is called.
    pub fn namespace(&self, namespace: &str) -> Result<NamespaceQueue, QueueError> {
        Ok(NamespaceQueue {
            keys: Keys::new(&self.inner.prefix, namespace)?,
            namespace: namespace.to_owned(),
            queue: self.clone(),
        })
    }

    /// Prefix of the installation.
    pub fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// Asks Redis for a sign of life.
    ///
    /// # Errors
    /// Whatever is wrong with the connection or the user.
    pub async fn ping(&self) -> Result<(), QueueError> {
        redis::cmd("PING").exec_async(&mut self.manager()).await?;
        Ok(())
    }

    /// Redis' clock, in ms since the epoch.
    ///
    /// # Errors
    /// Whatever is wrong with the connection or the user.
    pub async fn now_ms(&self) -> Result<u64, QueueError> {
        let cmd = redis::cmd("TIME");
        let (seconds, micros): (u64, u64) = cmd.query_async(&mut self.manager()).await?;
        Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
    }

    pub(super) fn manager(&self) -> Connection {
        self.inner.connection.clone()
    }

    pub(super) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(super) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    /// A number that no other call of this process gets: the unique part of a fence.
    pub(super) fn next_call() -> u64 {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        CALLS.fetch_add(1, Ordering::Relaxed)
    }
}

/// A connection whose other end is gone without a word breaks after about twice the patience, also while
/// nobody asks anything.
fn tcp_settings(patience: Duration) -> TcpSettings {
    // The system counts whole seconds, and refuses none.
    let patience = patience.max(Duration::from_secs(2));
    let keepalive = TcpKeepalive::new()
        .with_time(patience)
        .with_interval(patience / 2)
        .with_retries(2);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(patience * 2)
}

/// The queue of one namespace. Cheap to clone.
#[derive(Clone)]
pub struct NamespaceQueue {
    pub(super) queue: Queue,
    pub(super) keys: Keys,
    namespace: String,
}

impl NamespaceQueue {
    /// Name of the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Names of its keys and channels.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The queue it belongs to.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The call of a verb; its arguments are to be added.
    pub(super) fn verb(&self, verb: &'static str) -> Cmd {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(format!("{LIBRARY}_{verb}"))
            .arg(1)
            .arg(self.keys.prefix());
        cmd
    }

    pub(super) async fn call(&self, cmd: &Cmd) -> Result<Value, QueueError> {
        Ok(cmd.query_async(&mut self.queue.manager()).await?)
    }

    pub(super) async fn reply(&self, verb: &'static str, cmd: &Cmd) -> Result<Reply, QueueError> {
        Reply::new(verb, self.call(cmd).await?)
    }
}
