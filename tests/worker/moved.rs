//! A persona that gets another configuration, or another pool, between a worker's take and its look at it.

use std::sync::Arc;

use persona_operator::api::Provider;
use persona_operator::api::runtime::{PLAIN_LANE, PersonaConfig};
use persona_operator::queue::submit::TaskState;
use persona_operator::worker::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::faults::config;
use crate::fixture::{Fixture, POOL, eventually};
use crate::upstream::{Upstream, says};

/// How a worker asks for a persona's configuration.
const QUESTION: &[u8] = b"$6\r\nconfig\r\n";

/// A way to Redis on which that question waits while it is shut.
struct Way {
    port: u16,
    shut: Arc<watch::Sender<bool>>,
}

impl Way {
    async fn to(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shut = Arc::new(watch::Sender::new(true));
        let gate = shut.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let server = TcpStream::connect(("127.0.0.1", redis)).await;
                tokio::spawn(pass(client, server.expect("Redis"), gate.subscribe()));
            }
        });
        Self { port, shut }
    }
}

async fn pass(client: TcpStream, server: TcpStream, mut shut: watch::Receiver<bool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
        let asks = bytes[..count]
            .windows(QUESTION.len())
            .any(|part| part == QUESTION);
        if asks && shut.wait_for(|shut| !shut).await.is_err() {
            return;
        }
        if to_server.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_task_of_a_persona_that_has_moved_meanwhile_goes_there_unharmed() {
    let fixture = Fixture::new().await;
    let (old, new) = (
        Upstream::always(says(&["old"])).await,
        Upstream::always(says(&["new"])).await,
    );
    let version = |generation: i64, model: &Upstream| PersonaConfig {
        generation,
        max_attempts: 1,
        ..config(Provider::OpenAICompatible, model.base_url())
    };
    let route = async |pool: &str, config: &PersonaConfig| {
        fixture
            .route_as("helper", "uid-helper", pool, PLAIN_LANE, config)
            .await;
    };
    fixture.queue.open("elsewhere").await.expect("opens");
    route(POOL, &version(1, &old)).await;
    let (before, port) = fixture.url.rsplit_once(':').expect("a port");
    let way = Way::to(port.trim_end_matches('/').parse().expect("a number")).await;
    let worker = fixture
        .worker_with(Options {
            queue_url: format!("{before}:{}", way.port),
            ..fixture.options("a")
        })
        .await;
    let task = fixture.ask("helper", false).await;
    eventually("the take", async || {
        (fixture.state(&task).await == TaskState::Running).then_some(())
    })
    .await;
    route("elsewhere", &version(2, &new)).await;
    way.shut.send_replace(false);
    eventually("handed back", async || {
        (fixture.state(&task).await == TaskState::Queued).then_some(())
    })
    .await;
    let _other = fixture
        .unregistered(Options {
            pool: "elsewhere".to_owned(),
            ..fixture.options("b")
        })
        .await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.content.as_deref(), Some("new"));
    let attempts = fixture.output(&task).await.expect("there").failed_attempts;
    assert_eq!(
        (attempts, old.counts().requests, new.counts().requests),
        (0, 0, 1)
    );
    worker.stopped().await.expect("ends");
}
