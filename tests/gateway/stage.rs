//! A gateway on a Redis, with personas registered and keys to ask them.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use persona_operator::gateway::{self, Gateway, Options};
use persona_operator::queue::access::MasterKey;
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use testbed::Redis;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::publish::{Persona, publish};
use crate::worker::Worker;

/// Namespace and persona of most tests, and the key that reaches this namespace only.
pub const NAMESPACE: &str = "team-a";
pub const PERSONA: &str = "helper";
pub const KEY: &str = "key-of-team-a";

/// The key that the passwords of Redis' users come from.
pub const MASTER: &str = "master key of a test";

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that comes by itself.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    let waited = timeout(PATIENCE, event).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come within {PATIENCE:?}"))
}

/// Waits for a state that nobody announces.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, wait).await;
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

/// A running gateway and what it works on.
pub struct Stage {
    pub queue: Queue,
    pub client: Client,
    pub address: SocketAddr,
    pub keys: TempDir,
    stop: CancellationToken,
    running: JoinHandle<Result<(), gateway::Error>>,
    personas: Mutex<Vec<Persona>>,
}

impl Stage {
    /// A gateway on the Redis that all tests share, one persona, one key.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// As [`Stage::start`], with flags of the gateway.
    pub async fn with(flags: &[&str]) -> Self {
        Self::on(Redis::shared().await.expect("a Redis"), flags).await
    }

    /// As [`Stage::with`], on a Redis of the test's own.
    pub async fn on(redis: &Redis, flags: &[&str]) -> Self {
        let stage = Self::unready(redis, flags).await;
        stage.publish(Persona::new(NAMESPACE, PERSONA)).await;
        stage.ready().await;
        stage
    }

    /// As [`Stage::on`], with the user that the controller makes for gateways.
    pub async fn as_own_user(redis: &Redis) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), format!("{MASTER}\n")).expect("writes");
        let path = file.path().to_str().expect("UTF-8");
        let stage = Self::unready(redis, &["--master-key-file", path]).await;
        stage.set_user().await;
        stage.publish(Persona::new(NAMESPACE, PERSONA)).await;
        stage.ready().await;
        stage
    }

    /// Makes the gateway's user, which does not survive a restart of Redis.
    pub async fn set_user(&self) {
        let master = MasterKey::new(MASTER);
        let set = self.queue.ensure_gateway_user(&master, &[1]).await;
        set.expect("sets the user");
    }

    async fn ready(&self) {
        let ready = async || self.get("/readyz").await.status() == 200;
        eventually("a ready gateway", ready).await;
    }

    /// A gateway that may not have reached its Redis, in which nothing is yet.
    pub async fn unready(redis: &Redis, flags: &[&str]) -> Self {
        testbed::install_crypto();
        let prefix = format!("t{:016x}", rand::random::<u64>());
        let keys = tempfile::tempdir().expect("a folder");
        write_key(keys.path(), "alice", KEY, &[NAMESPACE]);
        let folder = keys.path().to_str().expect("UTF-8");
        let (url, common) = (redis.url(), ["gateway", "--listen", "127.0.0.1:0"]);
        let own = ["--queue-url", &url, "--queue-prefix", &prefix];
        let args = [&common[..], &own, &["--api-keys-dir", folder], flags].concat();
        let gateway = Gateway::bind(Flags::parse_from(args).options).await;
        let gateway = gateway.expect("a free port");
        let (address, stop) = (gateway.address(), CancellationToken::new());
        let options = QueueOptions {
            prefix,
            ..QueueOptions::new(url)
        };
        Self {
            queue: Queue::connect(options).expect("a URL"),
            client: Client::new(),
            address,
            keys,
            running: tokio::spawn(gateway.run(stop.clone())),
            stop,
            personas: Mutex::default(),
        }
    }

    /// Registers a persona; it is remembered for [`Stage::publish_again`].
    pub async fn publish(&self, persona: Persona) {
        let one = std::slice::from_ref(&persona);
        publish(&self.queue, one).await.expect("publishes");
        self.personas().push(persona);
    }

    /// Registers all personas again, once Redis is back.
    pub async fn publish_again(&self) {
        let personas = self.personas().clone();
        eventually("Redis", async || {
            publish(&self.queue, &personas).await.is_ok()
        })
        .await;
    }

    fn personas(&self) -> std::sync::MutexGuard<'_, Vec<Persona>> {
        self.personas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn namespace(&self) -> NamespaceQueue {
        self.queue.namespace(NAMESPACE).expect("a name")
    }

    pub async fn worker(&self) -> Worker {
        Worker::start(&self.namespace()).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Response {
        let answer = self.client.get(self.url(path)).bearer_auth(KEY).send();
        soon("an answer", answer).await.expect("answers")
    }

    pub async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.expect("JSON")
    }

    /// A request with this body and the key of most tests.
    pub fn ask(&self, body: &Value) -> RequestBuilder {
        self.ask_as(KEY, body)
    }

    pub fn ask_as(&self, key: &str, body: &Value) -> RequestBuilder {
        let url = self.url("/v1/chat/completions");
        self.client.post(url).bearer_auth(key).json(body)
    }

    /// Sends it in the background; the worker has to act before there is an answer.
    pub fn send(&self, body: &Value) -> JoinHandle<Response> {
        spawn(self.ask(body))
    }

    /// The count of answered requests of a route and status.
    pub async fn count(&self, route: &str, code: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.expect("text");
        let labels = format!("{{code=\"{code}\",route=\"{route}\"}} ");
        let name = "persona_gateway_requests_total";
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(&labels));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// As SIGTERM does.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the gateway has ended in good order.
    pub async fn stopped(self) {
        let ended = soon("the end of the gateway", self.running).await;
        ended.expect("no panic").expect("no error");
    }
}

pub fn spawn(request: RequestBuilder) -> JoinHandle<Response> {
    tokio::spawn(async { request.send().await.expect("an answer") })
}

pub async fn answer_of(request: JoinHandle<Response>) -> Response {
    soon("an answer", request).await.expect("no panic")
}

/// Asserts an error's status and code, and answers its `error` object.
pub async fn error_of(response: Response, status: u16, code: &str) -> Value {
    let (got, id) = (
        response.status(),
        response.headers().get("x-request-id").cloned(),
    );
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(
        (got.as_u16(), &body["error"]["code"]),
        (status, &json!(code)),
        "{body}"
    );
    assert!(id.is_some(), "an error has an id too");
    assert!(
        body["error"]["message"]
            .as_str()
            .is_some_and(|m| !m.is_empty())
    );
    body["error"].clone()
}

/// A request for a short chat with this model, and more fields.
pub fn chat(model: &str, more: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    body
}

pub fn streamed() -> Value {
    chat(PERSONA, json!({"stream": true}))
}

pub fn whole() -> Value {
    chat(PERSONA, json!({}))
}

/// A key as its file has it.
pub fn hash_of(key: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(key)))
}

/// Puts a key into the folder, as a mounted Secret has it.
pub fn write_key(folder: &Path, principal: &str, key: &str, namespaces: &[&str]) {
    let text = json!({"hash": hash_of(key), "namespaces": namespaces});
    fs::write(folder.join(principal), text.to_string()).expect("writes");
}
