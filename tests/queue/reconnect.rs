//! The address of Redis leads elsewhere: the shared connection follows.

use std::sync::Arc;
use std::time::Duration;

use persona_operator::queue::{Queue, QueueError, QueueOptions};
use testbed::{Redis, RedisOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{CLUSTER, until};

/// Until it answers: a machine under load may need longer than the little time the queue gives an answer.
async fn answers(queue: &Queue) {
    until(async || queue.ping().await.is_ok()).await;
}

/// An address before Redis, as a Service is one.
struct Address {
    port: u16,
    to: Arc<watch::Sender<u16>>,
    frozen: watch::Sender<u32>,
    server: JoinHandle<()>,
}

impl Address {
    async fn of(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let to = Arc::new(watch::Sender::new(redis.port()));
        let (frozen, is_frozen) = watch::channel(0);
        let target = to.clone();
        let server = tokio::spawn(async move {
            // They end with the server.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let redis = *target.borrow();
                let mut is_frozen = is_frozen.clone();
                is_frozen.mark_unchanged();
                connections.spawn(pass(client, redis, is_frozen));
            }
        });
        Self {
            port,
            to,
            frozen,
            server,
        }
    }

    /// Connections that are open pass nothing on any more, and do not end.
    fn freeze(&self) {
        self.frozen.send_modify(|number| *number += 1);
    }

    /// New connections go to this one.
    fn lead_to(&self, redis: &Redis) {
        self.to.send_replace(redis.port());
    }

    fn queue(&self, redis: &Redis) -> Queue {
        let url = format!("redis://:{}@127.0.0.1:{}/", redis.password(), self.port);
        let mut options = QueueOptions::new(url);
        options.timeout = Duration::from_secs(1);
        Queue::connect(options).expect("options")
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass(mut client: TcpStream, redis: u16, mut is_frozen: watch::Receiver<u32>) {
    let mut redis = TcpStream::connect(("127.0.0.1", redis))
        .await
        .expect("Redis is there");
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut redis) => drop(copied),
        _ = is_frozen.changed() => std::future::pending().await,
    }
}

async fn redis() -> Redis {
    Redis::start(RedisOptions::default())
        .await
        .expect("a Redis")
}

#[tokio::test]
async fn a_connection_that_nobody_answers_is_replaced() {
    let redis = redis().await;
    let address = Address::of(&redis).await;
    let queue = address.queue(&redis);
    answers(&queue).await;
    address.freeze();
    let error = queue.ping().await.expect_err("silence");
    assert!(matches!(error, QueueError::Unreachable(_)), "{error}");
    // On a new connection: the old one stays silent.
    answers(&queue).await;
}

#[tokio::test]
async fn a_master_that_became_a_replica_is_left_for_the_one_its_address_leads_to() {
    let (old, new) = (redis().await, redis().await);
    let address = Address::of(&old).await;
    let queue = address.queue(&old);
    let controller = address.queue(&old);
    until(async || controller.install(CLUSTER).await.is_ok()).await;
    answers(&queue).await;
    let set = async |redis: &Redis, words: &[&str]| {
        let mut connection = redis.connection().await.expect("a connection");
        redis::cmd(words[0])
            .arg(&words[1..])
            .exec_async(&mut connection)
            .await
            .expect("an answer");
    };
    let password = old.password();
    set(&new, &["CONFIG", "SET", "requirepass", password]).await;
    let direct = Queue::connect(QueueOptions::new(format!(
        "redis://:{password}@127.0.0.1:{}/",
        new.port()
    )))
    .expect("options");
    direct.install(CLUSTER).await.expect("installed");
    set(&old, &["CONFIG", "SET", "masterauth", password]).await;
    let port = new.port().to_string();
    set(&old, &["REPLICAOF", "127.0.0.1", &port]).await;
    let ns = queue.namespace("team").expect("a name");
    let error = ns.open("pool").await.expect_err("a replica");
    assert!(matches!(error, QueueError::Unreachable(_)), "{error}");
    // It may also be too slow, or busy with its new master's data.
    let refused = async || match controller.install(CLUSTER).await {
        Ok(installed) => installed.findings.iter().any(|finding| finding.fatal),
        Err(QueueError::Unreachable(_)) => true,
        Err(error) => panic!("{error}"),
    };
    assert!(refused().await, "it is a replica");
    address.lead_to(&new);
    until(async || !refused().await).await;
    until(async || ns.open("pool").await.is_ok()).await;
    let there = direct.namespace("team").expect("a name");
    assert_eq!(there.pools().await.expect("an answer"), ["pool"]);
}
