//! A namespace with personas and workers, as the benches need it.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use persona_operator::api::runtime::PersonaConfig;
use persona_operator::api::{Generation, Provider, QueueLimits};
use persona_operator::queue::heartbeat::Heartbeat;
use persona_operator::queue::routing::{Route, RouteAnswer, Target};
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::Outcome;
use persona_operator::queue::work::{Fenced, LEASE, Take, TakeAnswer};
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use testbed::{Redis, RedisOptions};
use tokio::sync::mpsc;

const POOL: &str = "pool";

pub struct Bench {
    pub redis: Redis,
    pub queue: Queue,
    ns: Mutex<NamespaceQueue>,
    config: PersonaConfig,
    payload: String,
    lanes: Vec<String>,
}

impl Bench {
    pub async fn start() -> Self {
        let redis = Redis::start(RedisOptions::default())
            .await
            .expect("a Redis");
        let queue = Queue::connect(QueueOptions::new(redis.url())).expect("options");
        queue.install("bench").await.expect("installed");
        let config = PersonaConfig {
            generation: 1,
            provider: Provider::OpenAICompatible,
            model: "m".into(),
            endpoint: None,
            api_key: None,
            adapter: None,
            instructions: "You review code.".repeat(20),
            generation_settings: Generation::default(),
            timeout_ms: 60_000,
            max_attempts: 3,
        };
        Self {
            ns: Mutex::new(queue.namespace("bench").expect("a name")),
            redis,
            queue,
            config,
            payload: "x".repeat(200),
            lanes: vec!["-".into()],
        }
    }

    fn ns(&self) -> NamespaceQueue {
        self.ns.lock().expect("a namespace").clone()
    }

    /// An empty Redis with that many personas in one pool.
    pub async fn fresh(&self, namespace: &str, personas: usize) {
        let mut connection = self.redis.connection().await.expect("a connection");
        let flushed: Result<(), _> = redis::cmd("FLUSHALL").query_async(&mut connection).await;
        flushed.expect("flushed");
        let ns = self.queue.namespace(namespace).expect("a name");
        for pool in [POOL, "other"] {
            ns.open(pool).await.expect("opened");
        }
        *self.ns.lock().expect("a namespace") = ns;
        for id in 0..personas {
            self.route(id, POOL, 1_000_000).await;
        }
    }

    pub async fn route(&self, id: usize, pool: &str, max_length: u32) {
        let persona = format!("p{id}");
        let limits = QueueLimits {
            max_length,
            max_concurrency: 64,
            priority: 0,
            weight: 1,
        };
        let route = Route {
            persona: &persona,
            uid: &persona,
            target: Target::Pool(pool),
            lane: "-",
            epoch: 1,
            config: &self.config,
            limits: &limits,
            suspended: false,
            needs: "",
        };
        let answer = self.ns().route(&route).await.expect("an answer");
        assert!(matches!(answer, RouteAnswer::Routed { .. }), "{answer:?}");
    }

    pub async fn enqueue(&self, persona: usize, number: usize) {
        let (persona, task) = (format!("p{persona}"), format!("task-{number}"));
        let request = Enqueue {
            gateway: Some("gateway"),
            ..Enqueue::new(&persona, &task, &self.payload)
        };
        let answer = self.ns().enqueue(&request).await.expect("an answer");
        assert!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
    }

    async fn register(&self, uid: &str, slots: u32) {
        let heartbeat = Heartbeat {
            worker: uid,
            instance: uid,
            pool: POOL,
            slots,
            leases: &[],
            running: 0,
            memory_bytes: 0,
            lanes: &self.lanes,
            address: "",
            lease: LEASE,
            loaded: &[],
            load_failures: &[],
            recycle: None,
        };
        self.ns().register(&heartbeat).await.expect("registered");
    }

    async fn take(&self, uid: &str, slots_free: u32) -> TakeAnswer {
        let take = Take {
            pool: POOL,
            lanes: &self.lanes,
            worker: uid,
            instance: uid,
            slots_free,
            steal_from: &[],
            lease: LEASE,
            loaded: &[],
        };
        self.ns().take(&take).await.expect("an answer")
    }

    async fn finish(&self, task: &str, fence: &str, outcome: &Outcome) {
        let finished = self.ns().finish(task, fence, outcome).await;
        assert_eq!(finished.expect("an answer"), Fenced::Accepted);
    }

    /// Takes as many as it has slots, finishes them all at once, until there is nothing.
    pub async fn work(&self, number: usize, slots: u32) -> usize {
        let uid = format!("worker-{number}");
        self.register(&uid, slots).await;
        let outcome = Outcome::completed(None, "stop", None);
        let mut done = 0;
        loop {
            let tasks = self.take(&uid, slots).await.tasks;
            if tasks.is_empty() {
                return done;
            }
            done += tasks.len();
            let finishes = tasks
                .iter()
                .map(|task| self.finish(&task.task, &task.fence, &outcome));
            futures::future::join_all(finishes).await;
        }
    }
}

/// A worker that waits at the bell, and says when it has a task.
pub struct Pickup {
    number: usize,
    ready: mpsc::Receiver<()>,
    picked: mpsc::Receiver<Instant>,
    again: mpsc::Sender<()>,
}

impl Pickup {
    pub async fn start(bench: &Bench) -> Self {
        let (ready_tx, ready) = mpsc::channel(1);
        let (picked_tx, picked) = mpsc::channel(1);
        let (again, mut again_rx) = mpsc::channel::<()>(1);
        bench.register("waiting", 1).await;
        let (ns, lanes) = (bench.ns(), bench.lanes.clone());
        let mut bell = ns.bell(POOL, &lanes);
        tokio::spawn(async move {
            let outcome = Outcome::completed(None, "stop", None);
            while again_rx.recv().await.is_some() {
                ready_tx.send(()).await.expect("the bench listens");
                bell.wait(Duration::from_secs(10)).await.expect("a wait");
                let take = Take {
                    pool: POOL,
                    lanes: &lanes,
                    worker: "waiting",
                    instance: "waiting",
                    slots_free: 1,
                    steal_from: &[],
                    lease: LEASE,
                    loaded: &[],
                };
                let answer = ns.take(&take).await.expect("an answer");
                let at = Instant::now();
                let task = answer.tasks.first().expect("rung for a task");
                let finished = ns.finish(&task.task, &task.fence, &outcome).await;
                assert_eq!(finished.expect("an answer"), Fenced::Accepted);
                picked_tx.send(at).await.expect("the bench listens");
            }
        });
        Self {
            number: 0,
            ready,
            picked,
            again,
        }
    }

    pub async fn once(&mut self, bench: &Bench) -> Duration {
        self.again.send(()).await.expect("it lives");
        self.ready.recv().await.expect("it lives");
        // It is on its way to the bell: give it the time to be there.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.number += 1;
        let begin = Instant::now();
        bench.enqueue(0, self.number).await;
        self.picked.recv().await.expect("it lives") - begin
    }
}

/// What the script of BullMQ measured.
#[derive(Debug, serde::Deserialize)]
pub struct BullMq {
    #[allow(dead_code, reason = "shown by Debug")]
    add: f64,
    #[allow(dead_code, reason = "shown by Debug")]
    process: f64,
    pub cycles: f64,
    #[allow(dead_code, reason = "shown by Debug")]
    pickup_us_p50: f64,
}

/// BullMQ does as many jobs on the same Redis.
pub fn bullmq(redis: &Redis, jobs: usize) -> BullMq {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bullmq");
    let output = Command::new("node")
        .arg("bench.mjs")
        .current_dir(folder)
        .env("REDIS_PORT", redis.port().to_string())
        .env("REDIS_PASSWORD", redis.password())
        .env("JOBS", jobs.to_string())
        .output()
        .expect("node runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{errors}\n(first: npm ci --prefix benches/bullmq)"
    );
    serde_json::from_slice(&output.stdout).expect("figures as JSON")
}

/// Sorts, and answers the middle one.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
