//! The connection that all calls share.
//!
//! The client library's manager reconnects when a connection breaks, and only then. It is replaced here
//! where it would go on with a connection that is of no use:
//!
//! - The password was refused. That is what happens after a restart of Redis, before the controller has
//!   set its users again, and during a rotation.
//! - No answer came in time. A node that lost its power, or was cut off, closes nothing.
//! - The server is a replica. After a switchover the old master may live on as one, while the address
//!   leads to the new master already.

use crate::lock::lock;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{
    Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value,
};

/// A manager that a replica answered is at least this old when it is replaced: as long as the address
/// leads to a replica, not every call opens a connection.
const REPLICA_REST: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    config: ConnectionManagerConfig,
    current: Mutex<Numbered>,
}

/// The manager, how many there were before it, and since when it is used.
#[derive(Clone)]
struct Numbered(u64, ConnectionManager, Instant);

/// Why a manager is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Useless {
    Refused,
    Silent,
    Replica,
}

impl Connection {
    /// Opened at the first call.
    pub(super) fn new(client: Client, config: ConnectionManagerConfig) -> RedisResult<Self> {
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?;
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                config,
                current: Mutex::new(Numbered(0, manager, Instant::now())),
            }),
        })
    }

    fn current(&self) -> MutexGuard<'_, Numbered> {
        lock(&self.shared.current)
    }

    /// The server has said that it is a replica, in an answer that is no error.
    pub(super) fn found_a_replica(&self) {
        let number = self.current().0;
        self.judge(number, Some(Useless::Replica));
    }

    /// Of several calls that found a manager useless, the first replaces it.
    fn judge(&self, number: u64, found: Option<Useless>) {
        let Some(why) = found else {
            return;
        };
        let (client, config) = (self.shared.client.clone(), self.shared.config.clone());
        let manager = match ConnectionManager::new_lazy_with_config(client, config) {
            Ok(manager) => manager,
            Err(error) => {
                tracing::warn!(%error, "the connection to the queue cannot be replaced");
                return;
            }
        };
        let now = Instant::now();
        let mut current = self.current();
        let rests = why == Useless::Replica && now.duration_since(current.2) < REPLICA_REST;
        if current.0 == number && !rests {
            tracing::debug!(?why, "a new connection to the queue");
            *current = Numbered(number + 1, manager, now);
        }
    }
}

fn of_error(error: &RedisError) -> Option<Useless> {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Some(Useless::Refused),
        ErrorKind::Server(ServerErrorKind::ReadOnly) => Some(Useless::Replica),
        _ => error.is_timeout().then_some(Useless::Silent),
    }
}

/// The answer to one command of a pipeline.
fn of_answer(answer: &Value) -> Option<Useless> {
    match answer {
        Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly) => {
            Some(Useless::Replica)
        }
        _ => None,
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let Numbered(number, mut manager, _) = self.current().clone();
        Box::pin(async move {
            let result = manager.req_packed_command(cmd).await;
            let found = match &result {
                Ok(answer) => of_answer(answer),
                Err(error) => of_error(error),
            };
            self.judge(number, found);
            result
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let Numbered(number, mut manager, _) = self.current().clone();
        Box::pin(async move {
            let result = manager.req_packed_commands(cmd, offset, count).await;
            let found = match &result {
                Ok(answers) => answers.iter().find_map(of_answer),
                Err(error) => of_error(error),
            };
            self.judge(number, found);
            result
        })
    }

    fn get_db(&self) -> i64 {
        self.current().1.get_db()
    }
}
