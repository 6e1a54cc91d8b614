//! How long requests wait when most of them are for one type: the same load on the same six workers, shared
//! as each phase shares them. Real Redis, workers in this process, a model that thinks for 200 ms.
//!
//! `cargo bench --bench stealing [-- SECONDS]`

mod personas;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use persona_operator::api::Phase;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::Duties;
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use persona_operator::worker::{Options, Recycles, Worker};
use serde_json::json;
use testbed::upstream::{Step, Upstream, done, stream_head, token};
use testbed::{Redis, RedisOptions};
use tokio_util::sync::CancellationToken;

/// Personas, their types, and requests a second: two thirds are for one persona of one type.
const LOAD: [(&str, &str, u32); 6] = [
    ("coder-1", "coder", 40),
    ("coder-2", "coder", 20),
    ("critic-1", "critic", 5),
    ("critic-2", "critic", 5),
    ("writer-1", "writer", 5),
    ("writer-2", "writer", 5),
];
const SLOTS: u32 = 4;
const THINKS: Duration = Duration::from_millis(200);

/// When each request was submitted, and how long it waited for its model.
#[derive(Default)]
struct Waits {
    sent: HashMap<String, Instant>,
    waited: Vec<(&'static str, Duration)>,
}

type Shared = Arc<Mutex<Waits>>;

#[tokio::main]
async fn main() -> Result<()> {
    testbed::install_crypto();
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(15));
    println!(
        "| phase | pools | all p50 | all p99 | busy type p50 | busy type p99 | other types p50 | other types p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for phase in Phase::ALL {
        println!("{}", measure(phase, time).await?);
    }
    Ok(())
}

/// The pool of a persona.
fn pool_of(phase: Phase, persona: &str, type_: &str) -> String {
    match phase {
        Phase::PerPersona => persona.to_owned(),
        Phase::Generic => "generic".to_owned(),
        Phase::Hybrid | Phase::Specialized => type_.to_owned(),
    }
}

async fn measure(phase: Phase, time: Duration) -> Result<String> {
    let waits = Shared::default();
    let book = waits.clone();
    let model = Upstream::start(move |asked| {
        let last = asked.body["messages"].as_array().and_then(|all| all.last());
        let content = last.and_then(|message| message["content"].as_str());
        arrived(&book, content.unwrap_or_default());
        vec![
            stream_head("text/event-stream"),
            token("yes"),
            Step::Pause(THINKS),
            done(),
        ]
    })
    .await;
    let redis = Redis::start(RedisOptions::default()).await?;
    let queue = Queue::connect(QueueOptions::new(redis.url()))?;
    queue.install("bench").await?;
    let ns = queue.namespace("bench")?;
    let mut pools: Vec<String> = LOAD.map(|(p, t, _)| pool_of(phase, p, t)).into();
    pools.dedup();
    for pool in &pools {
        ns.open(pool).await?;
        let others = pools.iter().filter(|other| *other != pool);
        let steal_from = match phase {
            Phase::Hybrid => others.cloned().collect(),
            _ => Vec::new(),
        };
        let phase = phase.as_str().to_owned();
        ensure!(ns.assign(pool, &Duties { phase, steal_from }).await?);
    }
    for (persona, type_, _) in LOAD {
        let pool = pool_of(phase, persona, type_);
        personas::route(&ns, persona, &pool, Some(model.base_url()), "").await?;
    }
    let stop = CancellationToken::new();
    let start = |number: usize| {
        let pool = &pools[number % pools.len()];
        Worker::start(options(&redis, pool, number), stop.clone())
    };
    let workers = try_join_all((0..LOAD.len()).map(start)).await?;
    // Their second heartbeat tells them whom to help.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let load = LOAD.map(|(persona, _, rate)| submit(&ns, persona, rate, time, &waits));
    try_join_all(load).await?;
    let sent = waits
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .sent
        .len();
    model
        .until("all are answered", |c| c.requests >= sent && c.open == 0)
        .await;
    stop.cancel();
    for worker in workers {
        worker.ended().await?;
    }
    let waits = waits.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |which: &dyn Fn(&str) -> bool| {
        let some = waits.waited.iter().filter(|(type_, _)| which(type_));
        percentiles(some.map(|(_, wait)| *wait).collect())
    };
    let (all, busy, others) = (of(&|_| true), of(&|t| t == "coder"), of(&|t| t != "coder"));
    Ok(format!(
        "| {} | {} | {all} | {busy} | {others} |",
        phase.as_str(),
        pools.len()
    ))
}

async fn submit(
    ns: &NamespaceQueue,
    persona: &str,
    rate: u32,
    time: Duration,
    waits: &Shared,
) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < time {
        tick.tick().await;
        let task = format!("{persona}.{number}");
        number += 1;
        let request = json!({"model": persona, "messages": [{"role": "user", "content": task}]});
        let payload = json!({"kind": "chat.completions", "request": request}).to_string();
        sent(waits, &task);
        let answer = ns.enqueue(&Enqueue::new(persona, &task, &payload)).await?;
        ensure!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
    }
    Ok(())
}

fn sent(waits: &Shared, task: &str) {
    let mut waits = waits.lock().unwrap_or_else(PoisonError::into_inner);
    waits.sent.insert(task.to_owned(), Instant::now());
}

fn arrived(waits: &Shared, task: &str) {
    let mut waits = waits.lock().unwrap_or_else(PoisonError::into_inner);
    let persona = task.split('.').next().unwrap_or_default();
    let type_ = LOAD.iter().find(|(name, ..)| *name == persona);
    if let (Some((_, type_, _)), Some(sent)) = (type_, waits.sent.get(task).copied()) {
        waits.waited.push((type_, sent.elapsed()));
    }
}

fn options(redis: &Redis, pool: &str, number: usize) -> Options {
    Options {
        model_endpoint: None,
        model_server: None,
        max_adapters: 8,
        models: Vec::new(),
        listen: ([127, 0, 0, 1], 0).into(),
        queue_url: redis.url(),
        queue_prefix: QueueOptions::new(redis.url()).prefix,
        queue_access_dir: PathBuf::from("/nowhere"),
        credentials_dir: PathBuf::from("/nowhere"),
        namespace: "bench".to_owned(),
        pool: pool.to_owned(),
        pod_uid: format!("worker-{number}"),
        pod_ip: [127, 0, 0, 1].into(),
        slots: SLOTS,
        device: "cpu".to_owned(),
        drain_timeout: persona_operator::api::Span::secs(30),
        recycle_after_tasks: 0,
        recycle_after_age: persona_operator::api::Span::secs(0),
        recycle_at_memory: "64Gi".parse().expect("a size"),
        recycles: Recycles::default(),
    }
}

/// p50 and p99 in ms.
fn percentiles(mut waits: Vec<Duration>) -> String {
    waits.sort_unstable();
    let at = |p: usize| {
        let place = (waits.len() * p).div_ceil(100).saturating_sub(1);
        waits.get(place).map_or(0, Duration::as_millis)
    };
    format!("{} | {}", at(50), at(99))
}
