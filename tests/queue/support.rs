//! Fixtures: a namespace of its own for each test, personas, workers, and patience.

use std::time::Duration;

use persona_operator::api::runtime::PersonaConfig;
use persona_operator::api::{Generation, Provider, QueueLimits};
use persona_operator::queue::fleet::Reaped;
use persona_operator::queue::routing::{Route, RouteAnswer, Target};
use persona_operator::queue::stats::PoolStats;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer, TaskState};
use persona_operator::queue::task::{Outcome, OutcomeKind};
use persona_operator::queue::work::{LEASE, Taken};
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use redis::{Cmd, FromRedisValue};
use testbed::Redis;

use crate::worker::Worker;

pub const PAYLOAD: &str = r#"{"kind":"chat.completions","request":{"messages":[]}}"#;
pub const CLUSTER: &str = "cluster-1";

/// A namespace that no other test uses, with the functions loaded.
pub struct Fixture {
    pub url: String,
    pub queue: Queue,
    pub ns: NamespaceQueue,
    admin: redis::aio::MultiplexedConnection,
}

/// On the Redis that all tests share.
pub async fn fixture() -> Fixture {
    on(Redis::shared().await.expect("a Redis")).await
}

/// On a Redis of the test's own.
pub async fn on(redis: &Redis) -> Fixture {
    let queue = connect(&redis.url(), &format!("t{:016x}", rand::random::<u64>()));
    queue.install(CLUSTER).await.expect("installed");
    let admin = redis.connection().await.expect("a connection");
    Fixture {
        url: redis.url(),
        ns: queue.namespace("team").expect("a name"),
        queue,
        admin,
    }
}

pub fn connect(url: &str, prefix: &str) -> Queue {
    let mut options = QueueOptions::new(url);
    options.prefix = prefix.to_owned();
    options.timeout = Duration::from_secs(20);
    Queue::connect(options).expect("options")
}

impl Fixture {
    /// Asks Redis itself.
    pub async fn redis<T: FromRedisValue>(&self, cmd: &Cmd) -> T {
        cmd.query_async(&mut self.admin.clone())
            .await
            .expect("an answer")
    }

    /// Asks Redis several things at once.
    pub async fn pipe<T: FromRedisValue>(&self, pipe: &redis::Pipeline) -> T {
        pipe.query_async(&mut self.admin.clone())
            .await
            .expect("answers")
    }

    pub async fn open(&self, pools: &[&str]) {
        for pool in pools {
            self.ns.open(pool).await.expect("opened");
        }
    }

    pub async fn try_route(&self, persona: &PersonaSpec) -> RouteAnswer {
        self.ns.route(&persona.route()).await.expect("an answer")
    }

    /// Routes, and insists that it worked.
    pub async fn route(&self, persona: &PersonaSpec) {
        let answer = self.try_route(persona).await;
        assert!(matches!(answer, RouteAnswer::Routed { .. }), "{answer:?}");
    }

    /// Puts a plain task in, and insists that it is accepted.
    pub async fn enqueue(&self, persona: &str, task: &str) {
        self.submit(&Enqueue::new(persona, task, PAYLOAD)).await;
    }

    pub async fn enqueue_all(&self, persona: &str, tasks: impl IntoIterator<Item = String>) {
        for task in tasks {
            self.enqueue(persona, &task).await;
        }
    }

    pub async fn submit(&self, task: &Enqueue<'_>) {
        let answer = self.try_submit(task).await;
        assert!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
    }

    /// The task `t`, to be streamed, of persona `p` in pool `pool`.
    pub async fn submit_stream(&self) {
        self.open(&["pool"]).await;
        self.route(&persona("p")).await;
        self.submit(&Enqueue {
            stream: true,
            ..Enqueue::new("p", "t", PAYLOAD)
        })
        .await;
    }

    pub async fn try_submit(&self, task: &Enqueue<'_>) -> EnqueueAnswer {
        self.ns.enqueue(task).await.expect("an answer")
    }

    /// A registered worker of a pool, for the plain lane.
    pub async fn worker(&self, uid: &str, pool: &str, slots: u32) -> Worker {
        let worker = self.unregistered(uid, pool, slots);
        worker.register().await;
        worker
    }

    pub fn unregistered(&self, uid: &str, pool: &str, slots: u32) -> Worker {
        Worker {
            ns: self.ns.clone(),
            uid: uid.into(),
            instance: format!("{uid}-1"),
            pool: pool.into(),
            slots,
            lanes: vec!["-".into()],
            steal_from: Vec::new(),
            lease: LEASE,
            loaded: Vec::new(),
            load_failures: Vec::new(),
            recycle: None,
        }
    }

    pub async fn reap(&self) -> Vec<Reaped> {
        self.ns.reap(1000).await.expect("reaped").tasks
    }

    pub async fn stats(&self, pool: &str) -> PoolStats {
        let pools = [(self.ns.clone(), pool.to_owned())];
        let mut stats = self.queue.stats(&pools).await.expect("stats");
        stats.remove(0).expect("sound data")
    }

    /// The outcome of a task; panics while there is none.
    pub async fn outcome(&self, task: &str) -> Outcome {
        let output = self.ns.output(task, None).await.expect("an answer");
        output
            .expect("a known task")
            .outcome
            .unwrap_or_else(|| panic!("{task} has no outcome"))
    }

    pub async fn outcome_kind(&self, task: &str) -> OutcomeKind {
        self.outcome(task).await.outcome
    }

    /// The error code of a task that ended without an answer.
    pub async fn code(&self, task: &str) -> String {
        self.outcome(task).await.error.expect("an error").code
    }

    pub async fn state(&self, task: &str) -> TaskState {
        let output = self.ns.output(task, None).await.expect("an answer");
        output.expect("a known task").state
    }

    /// Waits until Redis' clock has moved by so much. Deadlines, leases and pauses are nothing but
    /// that clock: there is no event to wait for.
    pub async fn pass(&self, time: Duration) {
        let end = self.now_ms().await + u64::try_from(time.as_millis()).expect("short");
        while self.now_ms().await < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The pause of a persona is over: for a test, Redis' clock does not go so fast.
    pub async fn let_go(&self, pool: &str, persona: &str) {
        let key = |name: &str| format!("{}{name}:{pool}", self.ns.keys().prefix());
        let now = self.now_ms().await;
        let later = redis::Cmd::zadd(key("later"), persona, now);
        let _: i64 = self.redis(&later).await;
        let next = redis::Cmd::hset(key("pool"), "next", now);
        let _: i64 = self.redis(&next).await;
    }

    pub async fn now_ms(&self) -> u64 {
        let (seconds, micros): (u64, u64) = self.redis(&redis::cmd("TIME")).await;
        seconds * 1000 + micros / 1000
    }
}

/// What a test says of a persona; the rest is usual.
#[derive(Clone)]
pub struct PersonaSpec {
    pub name: String,
    pub uid: String,
    pub pool: Option<String>,
    pub lane: String,
    pub epoch: u64,
    pub suspended: bool,
    pub needs: String,
    pub limits: QueueLimits,
    pub config: PersonaConfig,
}

pub fn persona(name: &str) -> PersonaSpec {
    PersonaSpec {
        name: name.into(),
        uid: format!("{name}-uid"),
        pool: Some("pool".into()),
        lane: "-".into(),
        epoch: 1,
        suspended: false,
        needs: String::new(),
        limits: QueueLimits::default(),
        config: config(),
    }
}

pub fn config() -> PersonaConfig {
    PersonaConfig {
        generation: 1,
        provider: Provider::OpenAICompatible,
        model: "m".into(),
        endpoint: None,
        api_key: None,
        adapter: None,
        instructions: "You review code.".into(),
        generation_settings: Generation::default(),
        timeout_ms: 60_000,
        max_attempts: 3,
    }
}

impl PersonaSpec {
    pub fn pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.into());
        self
    }

    pub fn nowhere(mut self) -> Self {
        self.pool = None;
        self
    }

    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = uid.into();
        self
    }

    pub fn lane(mut self, lane: &str) -> Self {
        self.lane = lane.into();
        self
    }

    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    pub fn needs(mut self, item: &str) -> Self {
        self.needs = item.into();
        self
    }

    pub fn generation(mut self, generation: i64) -> Self {
        self.config.generation = generation;
        self
    }

    pub fn attempts(mut self, most: u32) -> Self {
        self.config.max_attempts = most;
        self
    }

    pub fn endpoint(mut self, url: &str) -> Self {
        self.config.endpoint = Some(url.into());
        self
    }

    pub fn concurrency(mut self, most: u32) -> Self {
        self.limits.max_concurrency = most;
        self
    }

    pub fn length(mut self, most: u32) -> Self {
        self.limits.max_length = most;
        self
    }

    pub fn priority(mut self, priority: i32) -> Self {
        self.limits.priority = priority;
        self
    }

    pub fn weight(mut self, weight: u32) -> Self {
        self.limits.weight = weight;
        self
    }

    pub fn suspended(mut self) -> Self {
        self.suspended = true;
        self
    }

    pub fn route(&self) -> Route<'_> {
        Route {
            persona: &self.name,
            uid: &self.uid,
            target: self.pool.as_deref().map_or(Target::Nowhere, Target::Pool),
            lane: &self.lane,
            epoch: self.epoch,
            config: &self.config,
            limits: &self.limits,
            suspended: self.suspended,
            needs: &self.needs,
        }
    }
}

pub fn completed() -> Outcome {
    Outcome::completed(Some("done".into()), "stop", None)
}

pub fn ids(tasks: &[Taken]) -> Vec<&str> {
    tasks.iter().map(|task| task.task.as_str()).collect()
}

pub fn personas(tasks: &[Taken]) -> Vec<&str> {
    tasks.iter().map(|task| task.persona.as_str()).collect()
}

pub fn numbered(stem: &str, count: u32) -> Vec<String> {
    (0..count).map(|number| format!("{stem}{number}")).collect()
}

/// Bounds a wait that must end by itself.
pub async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), what)
        .await
        .expect("it happens soon")
}

/// Asks until it is so: for what Redis has no event for.
pub async fn until(mut so: impl AsyncFnMut() -> bool) {
    soon(async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
