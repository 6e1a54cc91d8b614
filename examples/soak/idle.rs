//! What pools cost while nothing happens to them, and while each has a little to do all the time: CPU of
//! the controller, and writes to the API server.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use persona_operator::api::{Persona, WorkerPool};
use persona_operator::queue::NamespaceQueue;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use serde_json::json;
use testbed::{Cluster, Options};
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::cost::{cpu, requests};
use crate::harness::Operator;
use crate::stand_ins::StandIns;

/// How long is measured.
const SPAN: Duration = Duration::from_secs(60);
/// Until all has settled: status of live numbers, annotations and windows take up to 30 s.
const SETTLE: Duration = Duration::from_secs(45);
/// Pools under load.
const LOADED: usize = 100;
/// Each of those gets a task so often, which takes so long.
const EVERY: Duration = Duration::from_secs(1);
const TAKES: u64 = 400;

/// Measures so many idle pools, then some under load.
pub async fn run(idle: usize) -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    cluster.fake_nodes(2, 0).await?;
    let settings = [("PERSONA_LOG", "warn")];
    let operator = Operator::start_in(&cluster, "idle", &settings).await?;
    pools(&operator, "idle", idle, 0).await?;
    sleep(SETTLE).await;
    let cost = Cost::of(&operator, SPAN).await?;
    println!("{idle} idle pools: {}", cost.text(idle));
    operator.stop().await?;

    let operator = Operator::start_in(&cluster, "steady", &settings).await?;
    pools(&operator, "steady", LOADED, 1).await?;
    let queue = operator.queue()?;
    let mut workers = Vec::new();
    for number in 0..LOADED {
        let name = format!("steady-{number}");
        workers.push(StandIns::play(queue.clone(), operator.all(), &name, 2).await?);
    }
    let stop = CancellationToken::new();
    for number in 0..LOADED {
        let name = format!("steady-{number}");
        operator.ready::<Persona>(&name).await?;
        tokio::spawn(load(queue.clone(), name, stop.clone()));
    }
    sleep(SETTLE).await;
    let before: usize = workers.iter().map(|w| w.seen.finished()).sum();
    let cost = Cost::of(&operator, SPAN).await?;
    let after: usize = workers.iter().map(|w| w.seen.finished()).sum();
    println!(
        "{LOADED} pools under steady load, {} tasks: {}",
        after - before,
        cost.text(LOADED)
    );
    ensure!(after - before > LOADED, "there was no load");
    stop.cancel();
    operator.stop().await?;
    cluster.stop().await
}

/// Pools, each with a persona where it has workers: an empty one keeps a worker for somebody who enters.
async fn pools(operator: &Operator, stem: &str, count: usize, least: u32) -> Result<()> {
    let make = |number: usize| async move {
        let name = format!("{stem}-{number}");
        operator
            .pool(
                &name,
                json!({"minReplicas": least, "maxReplicas": 4, "slotsPerWorker": 2, "template": {
                    "tolerations": [{"key": "testbed.persona.dev/node", "operator": "Exists"}],
                }}),
            )
            .await?;
        if least > 0 {
            let home = json!({"poolRef": {"name": name}});
            operator
                .persona(&name, "http://127.0.0.1:9/v1", home)
                .await?;
        }
        anyhow::Ok(())
    };
    let making = stream::iter((0..count).map(make)).buffer_unordered(16);
    making.try_collect::<Vec<()>>().await?;
    for number in 0..count {
        operator
            .ready::<WorkerPool>(&format!("{stem}-{number}"))
            .await?;
    }
    Ok(())
}

/// A task every second, at a phase of its own.
async fn load(queue: NamespaceQueue, persona: String, stop: CancellationToken) -> Result<()> {
    sleep(EVERY.mul_f64(rand::random())).await;
    let mut tick = interval(EVERY);
    let request = json!({"milliseconds": TAKES});
    let payload = json!({"kind": "chat.completions", "request": request}).to_string();
    for number in 0.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        let task = format!("{persona}.{number}");
        let answer = queue
            .enqueue(&Enqueue::new(&persona, &task, &payload))
            .await?;
        ensure!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
    }
    Ok(())
}

/// What a span of time cost.
struct Cost {
    span: Duration,
    /// Seconds of CPU.
    cpu: f64,
    /// Writes of resources that the operator writes, its lease left out.
    writes: BTreeMap<String, f64>,
}

impl Cost {
    async fn of(operator: &Operator, span: Duration) -> Result<Self> {
        let pid = operator.controller.pid().context("no controller")?;
        let begun = Instant::now();
        let (before, cpu_before) = (requests(&operator.client).await?, cpu(pid)?);
        sleep(span).await;
        let (cpu, mut writes) = (cpu(pid)?, requests(&operator.client).await?);
        writes.retain(|what, count| {
            *count -= before.get(what).copied().unwrap_or_default();
            let reads = ["GET", "LIST", "WATCH"].iter();
            *count > 0.0 && !reads.into_iter().any(|verb| what.starts_with(verb))
        });
        Ok(Self {
            span: begun.elapsed(),
            cpu: cpu - cpu_before,
            writes,
        })
    }

    #[allow(clippy::cast_precision_loss)] // Counts of pools.
    fn text(&self, pools: usize) -> String {
        let seconds = self.span.as_secs_f64();
        // A sum of nothing is -0.
        let writes = self.writes.values().sum::<f64>() + 0.0;
        format!(
            "CPU {:.2} % of a core, {writes} writes in {seconds:.0} s ({:.3} a second and pool) {:?}",
            100.0 * self.cpu / seconds,
            writes / seconds / pools as f64,
            self.writes,
        )
    }
}
