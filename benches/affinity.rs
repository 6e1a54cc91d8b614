//! How many adapters are loaded, and how long requests wait, when workers prefer what they have loaded and
//! when they do not: the same arrivals for 100 personas with an adapter each, Zipf-distributed, on the
//! same four workers. Real Redis; stand-ins of model servers that hold 8 adapters and take a while to load one.
//!
//! `cargo bench --bench affinity [-- SECONDS]`

mod personas;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use persona_operator::queue::heartbeat::Heartbeat;
use persona_operator::queue::listen::Bell;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::Outcome;
use persona_operator::queue::work::{Fenced, LEASE, Take, Taken};
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testbed::{Redis, RedisOptions};
use tokio::sync::{Notify, OnceCell};
use tokio::task::JoinSet;

/// Personas, each with an adapter of its own.
const ADAPTERS: usize = 100;
const WORKERS: usize = 4;
/// Tasks that a worker runs at once.
const SLOTS: u32 = 4;
/// Adapters that a server holds at once.
const ROOM: usize = 8;
const LOADS: Duration = Duration::from_millis(80);
const THINKS: Duration = Duration::from_millis(40);
/// Requests a second.
const RATES: [u32; 4] = [60, 120, 160, 200];
const POOL: &str = "pool";
const SEED: u64 = 20_261_125;

#[tokio::main]
async fn main() -> Result<()> {
    testbed::install_crypto();
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(15));
    println!(
        "| requests/s | take | loads a task | wait p50 | wait p99 | p99 of the 50 rarest | done after the last arrival |"
    );
    println!("|---|---|---|---|---|---|---|");
    for rate in RATES {
        for aware in [false, true] {
            println!("{}", measure(rate, time, aware).await?);
        }
    }
    Ok(())
}

/// When each task comes, and for which persona: rank `n` comes as often as 1 in `n`.
fn arrivals(rate: u32, time: Duration) -> Vec<(Duration, usize)> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let weights: Vec<f64> = (1..=ADAPTERS).map(|rank| 1.0 / rank as f64).collect();
    let all: f64 = weights.iter().sum();
    let (mut at, mut list) = (0.0, Vec::new());
    loop {
        at -= (1.0 - rng.random::<f64>()).ln() / f64::from(rate);
        if at >= time.as_secs_f64() {
            return list;
        }
        let mut left = rng.random::<f64>() * all;
        let rank = weights.iter().position(|weight| {
            left -= weight;
            left <= 0.0
        });
        list.push((Duration::from_secs_f64(at), rank.unwrap_or(ADAPTERS - 1)));
    }
}

/// One run's books.
struct Run {
    ns: NamespaceQueue,
    sent: Mutex<HashMap<String, (usize, Instant)>>,
    waited: Mutex<Vec<(usize, Duration)>>,
    loads: AtomicUsize,
    done: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn measure(rate: u32, time: Duration, aware: bool) -> Result<String> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let queue = Queue::connect(QueueOptions::new(redis.url()))?;
    queue.install("bench").await?;
    let ns = queue.namespace("bench")?;
    ns.open(POOL).await?;
    for persona in 0..ADAPTERS {
        let name = format!("p{persona}");
        personas::route(&ns, &name, POOL, None, &item(&name)).await?;
    }
    let run = Arc::new(Run {
        ns,
        sent: Mutex::default(),
        waited: Mutex::default(),
        loads: AtomicUsize::new(0),
        done: Notify::new(),
    });
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(work(run.clone(), number, aware));
    }
    let arrivals = arrivals(rate, time);
    let count = arrivals.len();
    let start = tokio::time::Instant::now();
    let submits = arrivals.into_iter().enumerate().map(|(number, arrival)| {
        let run = run.clone();
        async move { submit(&run, start, number, arrival).await }
    });
    try_join_all(submits).await?;
    let last = Instant::now();
    while lock(&run.waited).len() < count {
        tokio::select! {
            () = run.done.notified() => {}
            Some(ended) = workers.join_next() => ended??,
        }
    }
    let rest = last.elapsed();
    let waited = std::mem::take(&mut *lock(&run.waited));
    let rare = waited.iter().filter(|(rank, _)| *rank >= ADAPTERS / 2);
    let rare = rare.map(|(_, wait)| *wait).collect();
    let all: Vec<_> = waited.iter().map(|(_, wait)| *wait).collect();
    Ok(format!(
        "| {rate} | {} | {:.2} | {} ms | {} ms | {} ms | {:.1} s |",
        if aware { "aware" } else { "blind" },
        run.loads.load(Ordering::Relaxed) as f64 / count as f64,
        percentile(all.clone(), 0.50).as_millis(),
        percentile(all, 0.99).as_millis(),
        percentile(rare, 0.99).as_millis(),
        rest.as_secs_f64()
    ))
}

fn percentile(mut waits: Vec<Duration>, part: f64) -> Duration {
    waits.sort();
    let place = (waits.len() as f64 * part) as usize;
    let place = place.min(waits.len().saturating_sub(1));
    waits.get(place).copied().unwrap_or_default()
}

fn item(persona: &str) -> String {
    format!("adapter/{persona}")
}

async fn submit(
    run: &Run,
    start: tokio::time::Instant,
    number: usize,
    (at, rank): (Duration, usize),
) -> Result<()> {
    tokio::time::sleep_until(start + at).await;
    let (persona, task) = (format!("p{rank}"), format!("t{number}"));
    lock(&run.sent).insert(task.clone(), (rank, Instant::now()));
    let answer = run.ns.enqueue(&Enqueue::new(&persona, &task, "{}")).await?;
    ensure!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
    Ok(())
}

/// Takes as many as it has free slots, for ever.
async fn work(run: Arc<Run>, number: usize, aware: bool) -> Result<()> {
    let uid = format!("worker-{number}");
    let lanes = ["-".to_owned()];
    let heartbeat = Heartbeat {
        worker: &uid,
        instance: &uid,
        pool: POOL,
        slots: SLOTS,
        leases: &[],
        running: 0,
        memory_bytes: 0,
        lanes: &lanes,
        address: "",
        lease: LEASE,
        loaded: &[],
        load_failures: &[],
        recycle: None,
    };
    run.ns.register(&heartbeat).await?;
    let server = Arc::new(Server::default());
    let mut running = JoinSet::new();
    let mut ringing = None;
    loop {
        while let Some(ended) = running.try_join_next() {
            ended??;
        }
        let free = SLOTS - u32::try_from(running.len())?;
        let mut tasks = Vec::new();
        if free > 0 {
            let loaded = if aware { server.loaded() } else { Vec::new() };
            let take = Take {
                pool: POOL,
                lanes: &lanes,
                worker: &uid,
                instance: &uid,
                slots_free: free,
                steal_from: &[],
                lease: Duration::from_secs(600),
                loaded: &loaded,
            };
            tasks = run.ns.take(&take).await?.tasks;
        }
        let full = tasks.len() == free as usize;
        for taken in tasks {
            running.spawn(answer(run.clone(), server.clone(), taken));
        }
        if full {
            // A token that comes now is another worker's.
            ringing = None;
        }
        let at_bell = || Box::pin(ring(run.ns.bell(POOL, &lanes)));
        tokio::select! {
            rung = ringing.get_or_insert_with(at_bell), if !full => {
                ringing = Some(Box::pin(ring(rung?)));
            }
            Some(ended) = running.join_next() => ended??,
        }
    }
}

/// Waits at the bell. Given up, its connection goes with it.
async fn ring(mut bell: Bell) -> Result<Bell> {
    bell.wait(Duration::from_secs(1)).await?;
    Ok(bell)
}

async fn answer(run: Arc<Run>, server: Arc<Server>, taken: Taken) -> Result<()> {
    let item = item(&taken.persona);
    server.hold(&item, &run.loads).await;
    let sent = lock(&run.sent).remove(&taken.task);
    if let Some((rank, at)) = sent {
        lock(&run.waited).push((rank, at.elapsed()));
    }
    tokio::time::sleep(THINKS).await;
    server.release(&item);
    let outcome = Outcome::completed(None, "stop", None);
    let finished = run.ns.finish(&taken.task, &taken.fence, &outcome).await?;
    ensure!(finished == Fenced::Accepted, "{} is lost", taken.task);
    run.done.notify_one();
    Ok(())
}

/// A model server that holds some adapters; the one that was not used for the longest time goes.
#[derive(Default)]
struct Server {
    held: Mutex<Vec<Held>>,
}

struct Held {
    item: String,
    users: usize,
    used: Instant,
    loaded: Arc<OnceCell<()>>,
}

impl Server {
    /// What is loaded, or is just being loaded.
    fn loaded(&self) -> Vec<String> {
        lock(&self.held).iter().map(|h| h.item.clone()).collect()
    }

    async fn hold(&self, item: &str, loads: &AtomicUsize) {
        let loaded = self.place(item);
        let load = || async {
            loads.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(LOADS).await;
        };
        loaded.get_or_init(load).await;
    }

    /// There is room: fewer tasks run than adapters fit.
    fn place(&self, item: &str) -> Arc<OnceCell<()>> {
        let mut held = lock(&self.held);
        let now = Instant::now();
        if let Some(known) = held.iter_mut().find(|h| h.item == item) {
            (known.users, known.used) = (known.users + 1, now);
            return known.loaded.clone();
        }
        if held.len() == ROOM {
            let unused = held.iter().enumerate().filter(|(_, h)| h.users == 0);
            let oldest = unused.min_by_key(|(_, h)| h.used).map(|(at, _)| at);
            held.swap_remove(oldest.expect("an adapter that nobody uses"));
        }
        let loaded = Arc::default();
        held.push(Held {
            item: item.to_owned(),
            users: 1,
            used: now,
            loaded: Arc::clone(&loaded),
        });
        loaded
    }

    fn release(&self, item: &str) {
        if let Some(known) = lock(&self.held).iter_mut().find(|h| h.item == item) {
            known.users -= 1;
        }
    }
}
