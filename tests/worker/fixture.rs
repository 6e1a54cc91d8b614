//! A namespace of a real Redis with personas, and workers that serve it.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use persona_operator::api::runtime::{PLAIN_LANE, PersonaConfig};
use persona_operator::api::{Provider, QueueLimits};
use persona_operator::queue::routing::{Route, RouteAnswer, Target};
use persona_operator::queue::stats::{PoolStats, WorkerStats};
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer, TaskOutput, TaskState};
use persona_operator::queue::task::Outcome;
use persona_operator::queue::{NamespaceQueue, Queue, QueueError, QueueOptions};
use persona_operator::worker::{Ended, Error, Options, Recycles, Worker};
use serde_json::{Value, json};
use testbed::Redis;
use tokio_util::sync::CancellationToken;

use crate::faults::config;
use crate::upstream::PATIENCE;

pub const POOL: &str = "pool";
pub const NAMESPACE: &str = "team-a";

/// A namespace with one open pool. Each has a key prefix of its own.
pub struct Fixture {
    pub queue: NamespaceQueue,
    pub url: String,
    pub prefix: String,
}

impl Fixture {
    /// In the Redis that all tests share.
    pub async fn new() -> Self {
        Self::on(Redis::shared().await.expect("a Redis")).await
    }

    pub async fn on(redis: &Redis) -> Self {
        testbed::install_crypto();
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("w{}-{number}", std::process::id());
        let queue = Queue::connect(QueueOptions {
            prefix: prefix.clone(),
            ..QueueOptions::new(redis.url())
        });
        let queue = queue.and_then(|queue| queue.namespace(NAMESPACE));
        let fixture = Self {
            queue: queue.expect("names"),
            url: redis.url(),
            prefix,
        };
        fixture.install().await;
        fixture
    }

    /// Does what no verb does.
    pub async fn redis(&self, command: &redis::Cmd) {
        let connection = testbed::redis::connection(self.url.as_str()).await;
        let mut connection = connection.expect("connects");
        command.exec_async(&mut connection).await.expect("accepted");
    }

    /// Loads the functions and opens the pool.
    pub async fn install(&self) {
        let installed = self.queue.queue().install("cluster").await;
        assert!(
            installed
                .expect("installs")
                .findings
                .iter()
                .all(|finding| !finding.fatal)
        );
        self.queue.open(POOL).await.expect("opens");
    }

    /// A persona in the pool, with one try and a model behind `endpoint`.
    pub async fn persona(&self, name: &str, endpoint: String) {
        self.persona_as(
            name,
            PersonaConfig {
                max_attempts: 1,
                ..config(Provider::OpenAICompatible, endpoint)
            },
        )
        .await;
    }

    pub async fn persona_as(&self, name: &str, config: PersonaConfig) {
        self.route(name, POOL, &config).await;
    }

    pub async fn route(&self, name: &str, pool: &str, config: &PersonaConfig) {
        let key = config.api_key.as_ref();
        let lane = key.map_or(PLAIN_LANE.to_owned(), |key| {
            format!("{}/{}", key.name, key.key)
        });
        self.route_as(name, &format!("uid-{name}"), pool, &lane, config)
            .await;
    }

    pub async fn route_as(
        &self,
        name: &str,
        uid: &str,
        pool: &str,
        lane: &str,
        config: &PersonaConfig,
    ) {
        self.publish(name, uid, pool, lane, "", config).await;
    }

    /// A persona in the pool that a worker serves best when its model server holds this.
    pub async fn route_needs(&self, name: &str, needs: &str, config: &PersonaConfig) {
        let uid = format!("uid-{name}");
        self.publish(name, &uid, POOL, PLAIN_LANE, needs, config)
            .await;
    }

    async fn publish(
        &self,
        persona: &str,
        uid: &str,
        pool: &str,
        lane: &str,
        needs: &str,
        config: &PersonaConfig,
    ) {
        let limits = QueueLimits {
            max_concurrency: 8,
            ..QueueLimits::default()
        };
        let route = Route {
            persona,
            uid,
            target: Target::Pool(pool),
            lane,
            needs,
            epoch: 1,
            config,
            limits: &limits,
            suspended: false,
        };
        let answer = self.queue.route(&route).await.expect("routes");
        assert!(matches!(answer, RouteAnswer::Routed { .. }), "{answer:?}");
    }

    /// Puts a plain request in; answers the task's id.
    pub async fn ask(&self, persona: &str, stream: bool) -> String {
        self.ask_as(persona, &request(), |task| task.stream = stream)
            .await
    }

    pub async fn ask_as(
        &self,
        persona: &str,
        payload: &Value,
        with: impl FnOnce(&mut Enqueue<'_>),
    ) -> String {
        let task = format!("t-{:032x}", rand::random::<u128>());
        let payload = payload.to_string();
        let mut enqueue = Enqueue::new(persona, &task, &payload);
        with(&mut enqueue);
        let answer = answered(async || self.queue.enqueue(&enqueue).await).await;
        assert!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
        task
    }

    /// Puts a plain request in once more, as a gateway does after a loss of data.
    pub async fn ask_again(&self, task: &str, persona: &str, stream: bool) {
        let payload = request().to_string();
        let enqueue = Enqueue {
            stream,
            resubmit: true,
            ..Enqueue::new(persona, task, &payload)
        };
        let answer = self.queue.enqueue(&enqueue).await.expect("enqueues");
        assert!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
    }

    pub async fn output(&self, task: &str) -> Option<TaskOutput> {
        answered(async || self.queue.output(task, None).await).await
    }

    /// Waits for the end of a task.
    pub async fn outcome(&self, task: &str) -> Outcome {
        eventually("an outcome", async || self.output(task).await?.outcome).await
    }

    pub async fn state(&self, task: &str) -> TaskState {
        self.output(task).await.expect("a task").state
    }

    /// The streamed text so far.
    pub async fn text(&self, task: &str) -> String {
        let entries = self.output(task).await.expect("a task").entries;
        entries
            .into_iter()
            .flat_map(|(_, chunks)| chunks)
            .map(|chunk| chunk.content)
            .collect()
    }

    pub async fn stats(&self) -> PoolStats {
        let pools = [(self.queue.clone(), POOL.to_owned())];
        answered(async || self.queue.queue().stats(&pools).await)
            .await
            .remove(0)
            .expect("sound data")
    }

    pub async fn worker_stats(&self, uid: &str) -> Option<WorkerStats> {
        self.stats()
            .await
            .workers
            .into_iter()
            .find(|worker| worker.uid == uid)
    }

    /// Waits until the worker's statistics are as asked.
    pub async fn until_worker(
        &self,
        uid: &str,
        what: &str,
        good: impl Fn(&WorkerStats) -> bool,
    ) -> WorkerStats {
        eventually(what, async || self.worker_stats(uid).await.filter(&good)).await
    }

    pub fn options(&self, uid: &str) -> Options {
        let nowhere = Path::new("/nowhere").to_owned();
        Options {
            listen: ([127, 0, 0, 1], 0).into(),
            queue_url: self.url.clone(),
            queue_prefix: self.prefix.clone(),
            queue_access_dir: nowhere.clone(),
            credentials_dir: nowhere,
            namespace: NAMESPACE.to_owned(),
            pool: POOL.to_owned(),
            model_endpoint: None,
            model_server: None,
            max_adapters: 8,
            models: Vec::new(),
            pod_uid: uid.to_owned(),
            pod_ip: [127, 0, 0, 1].into(),
            slots: 2,
            device: "cpu".to_owned(),
            drain_timeout: "30s".parse().expect("a span"),
            recycle_after_tasks: 0,
            recycle_after_age: "0s".parse().expect("a span"),
            recycle_at_memory: "64Gi".parse().expect("a size"),
            recycles: Recycles::default(),
        }
    }

    /// A registered worker.
    pub async fn worker(&self, uid: &str) -> Running {
        self.worker_with(self.options(uid)).await
    }

    /// A worker that may not be registered yet.
    pub async fn unregistered(&self, options: Options) -> Running {
        let stop = CancellationToken::new();
        let worker = Worker::start(options, stop.clone()).await.expect("starts");
        Running { worker, stop }
    }

    pub async fn worker_with(&self, options: Options) -> Running {
        let uid = options.pod_uid.clone();
        let running = self.unregistered(options).await;
        self.until_worker(&uid, "registration", |_| true).await;
        running
    }
}

/// A worker in this process.
#[must_use]
pub struct Running {
    pub worker: Worker,
    pub stop: CancellationToken,
}

impl Running {
    /// Stops it in order.
    pub async fn stopped(self) -> Result<Ended, Error> {
        self.stop.cancel();
        self.ended().await
    }

    pub async fn ended(self) -> Result<Ended, Error> {
        let ended = tokio::time::timeout(PATIENCE, self.worker.ended()).await;
        ended.expect("it ends")
    }

    /// Status and text of one of its pages.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&format!("http://{}{path}", self.worker.address())).await
    }

    /// The sum of the lines of a metric whose labels hold all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let lines = text.lines().filter(|line| {
            let of_name = line
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']));
            of_name && labels.iter().all(|label| line.contains(label))
        });
        lines
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .expect("a value")
                    .parse::<f64>()
                    .expect("a number")
            })
            .sum()
    }
}

pub async fn get(url: &str) -> (u16, String) {
    let response = reqwest::get(url).await.expect("answers");
    (
        response.status().as_u16(),
        response.text().await.expect("text"),
    )
}

pub fn request() -> Value {
    payload(json!({"messages": [{"role": "user", "content": "hi"}]}))
}

pub fn payload(request: Value) -> Value {
    json!({"kind": "chat.completions", "request": request})
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("not seen: {what}"))
}

/// The answer of a Redis that may have been away a moment ago.
pub async fn answered<T>(mut call: impl AsyncFnMut() -> Result<T, QueueError>) -> T {
    eventually("an answer of Redis", async || match call().await {
        Err(QueueError::Unreachable(_)) => None,
        other => Some(other.expect("accepted")),
    })
    .await
}
