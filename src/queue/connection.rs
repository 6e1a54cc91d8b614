//! The connection that all calls share.
//!
//! The client library's manager reconnects after an I/O error, but stays broken for ever when a new
//! connection is refused for its password. That is what happens after a restart of Redis, before the
//! controller has set its users again, and during a rotation; so a refused manager is replaced.

use crate::lock::lock;
use std::sync::{Arc, Mutex, MutexGuard};

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, Pipeline, RedisFuture, RedisResult, Value};

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

/// The manager, and how many there were before it.
#[derive(Clone)]
struct Numbered(u64, ConnectionManager);

impl Connection {
    /// Opened at the first call.
    pub(super) fn new(client: Client, config: ConnectionManagerConfig) -> RedisResult<Self> {
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?;
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                config,
                current: Mutex::new(Numbered(0, manager)),
            }),
        })
    }

    fn current(&self) -> MutexGuard<'_, Numbered> {
        lock(&self.shared.current)
    }

    /// Passes the result on; of several calls that a manager refused, the first replaces it.
    fn judge<T>(&self, number: u64, result: RedisResult<T>) -> RedisResult<T> {
        if let Err(error) = &result
            && error.kind() == ErrorKind::AuthenticationFailed
        {
            let (client, config) = (self.shared.client.clone(), self.shared.config.clone());
            let manager = ConnectionManager::new_lazy_with_config(client, config)?;
            let mut current = self.current();
            if current.0 == number {
                *current = Numbered(number + 1, manager);
            }
        }
        result
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let Numbered(number, mut manager) = self.current().clone();
        Box::pin(async move {
            let result = manager.req_packed_command(cmd).await;
            self.judge(number, result)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let Numbered(number, mut manager) = self.current().clone();
        Box::pin(async move {
            let result = manager.req_packed_commands(cmd, offset, count).await;
            self.judge(number, result)
        })
    }

    fn get_db(&self) -> i64 {
        self.current().1.get_db()
    }
}
