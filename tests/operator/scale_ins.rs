//! Scale-ins under load: a pool is made smaller and larger again and again while its workers are busy. No
//! task may be killed, lost or run twice. A test takes a few hundred workers away, the soak many thousands.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use persona_operator::api::{Persona, WorkerPool};
use persona_operator::queue::NamespaceQueue;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::OutcomeKind;
use serde_json::json;
use testbed::Cluster;
use tokio_util::sync::CancellationToken;

use crate::harness::{Operator, PATIENCE};
use crate::stand_ins::{Seen, StandIns};

/// Workers of the pool when it is large, and when it is small at least and at most.
const LARGE: usize = 24;
const SMALL: [usize; 2] = [2, 8];
const SLOTS: u32 = 2;
/// A task takes so many milliseconds.
const TAKES: [u64; 2] = [50, 800];
/// The task whose worker is killed takes longer than it may take to kill it.
const KILLED_TAKES: u64 = 10_000;
/// Every so many times load returns while workers drain.
const CALLED_BACK_EVERY: u64 = 4;
/// Rounds more for somebody to be called back, where nobody was.
const MORE_ROUNDS: u32 = 10;
const POOL: &str = "mine";
const PERSONA: &str = "helper";

/// What was seen.
#[derive(Debug)]
pub struct Report {
    /// Workers whose pods were taken away.
    pub scale_ins: usize,
    /// Of those that were told to drain: how many ran something.
    pub drained_busy: usize,
    /// Workers that were called back while they drained.
    pub called_back: usize,
    /// Tasks that were submitted.
    pub tasks: usize,
    /// Tasks that ran on a worker when its pod was deleted.
    pub killed: Vec<String>,
    /// Tasks without an outcome, or with another one than an answer.
    pub lost: Vec<String>,
    /// Tasks that were begun or ended more than once.
    pub doubled: Vec<String>,
    /// How long it all took.
    pub took: Duration,
}

impl Report {
    /// # Errors
    /// A task that was killed, lost or doubled.
    pub fn check(&self) -> Result<()> {
        let bad = [&self.killed, &self.lost, &self.doubled];
        ensure!(bad.iter().all(|tasks| tasks.is_empty()), "{self}");
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} scale-ins in {:.0?}, {} tasks: {} killed, {} lost, {} doubled; {} workers were busy when told to \
             drain, {} were called back",
            self.scale_ins,
            self.took,
            self.tasks,
            self.killed.len(),
            self.lost.len(),
            self.doubled.len(),
            self.drained_busy,
            self.called_back,
        )?;
        for (what, tasks) in [
            ("killed", &self.killed),
            ("lost", &self.lost),
            ("doubled", &self.doubled),
        ] {
            for task in tasks.iter().take(10) {
                writeln!(f, "{what}: {task}")?;
            }
        }
        Ok(())
    }
}

/// The operator in a namespace whose pool runs on fake nodes.
pub async fn stage(name: &str) -> Result<Operator> {
    let cluster = Cluster::shared().await?;
    cluster.fake_nodes(4, 0).await?;
    let operator = Operator::start_in(cluster, name, &[]).await?;
    operator
        .pool(
            POOL,
            json!({
                "replicas": LARGE, "maxReplicas": LARGE, "slotsPerWorker": SLOTS,
                // Nobody is to be cut short by time.
                "drainTimeout": "10m",
                "template": {
                    "nodeSelector": {"testbed.persona.dev/node": "fake"},
                    "tolerations": [{"key": "testbed.persona.dev/node", "operator": "Exists"}],
                },
            }),
        )
        .await?;
    let most = LARGE * SLOTS as usize;
    let more = json!({
        "poolRef": {"name": POOL},
        "queue": {"maxConcurrency": most, "maxLength": 4 * most},
    });
    operator
        .persona(PERSONA, "http://127.0.0.1:9/v1", more)
        .await?;
    Ok(operator)
}

/// Takes so many workers away under load; `tell` hears how many are gone. With `sabotage` the first task's
/// pod is deleted behind the operator's back, which the report must show.
///
/// # Errors
/// What keeps the run from its end; what it saw is in the report.
pub async fn scale_in(
    operator: &Operator,
    times: usize,
    sabotage: bool,
    tell: impl Fn(usize),
) -> Result<Report> {
    let begun = Instant::now();
    let queue = operator.queue()?;
    let workers = StandIns::play(queue.clone(), operator.all(), POOL, SLOTS).await?;
    operator.ready::<Persona>(PERSONA).await?;
    let stop = CancellationToken::new();
    let shaking = async {
        let shaken = shake(operator, &workers.seen, times, sabotage, tell).await;
        stop.cancel();
        shaken
    };
    let loading = load(&queue, &workers.seen, sabotage, &stop);
    let (shaken, tasks) = tokio::join!(shaking, loading);
    shaken?;
    let tasks = tasks?;
    let seen = &workers.seen;
    let mut report = Report {
        scale_ins: seen.removed.load(Ordering::Relaxed),
        drained_busy: seen.drained_busy.load(Ordering::Relaxed),
        called_back: seen.called_back.load(Ordering::Relaxed),
        tasks: tasks.len(),
        killed: seen.killed(),
        lost: Vec::new(),
        doubled: Vec::new(),
        took: begun.elapsed(),
    };
    for task in tasks {
        let (begun, finished) = seen.of(&task);
        if begun > 1 || finished > 1 {
            report.doubled.push(task);
        } else if finished == 0 {
            report.lost.push(task);
        }
    }
    Ok(report)
}

/// Makes the pool small and large until so many workers were taken away.
async fn shake(
    operator: &Operator,
    seen: &Seen,
    times: usize,
    sabotage: bool,
    tell: impl Fn(usize),
) -> Result<()> {
    if sabotage {
        let first = task(0);
        let runs = tokio::time::timeout(PATIENCE, seen.until(|seen| seen.pod_of(&first))).await;
        let pod = runs.context("the first task does not run")?;
        let pods = operator.all::<Pod>();
        pods.delete(&pod, &DeleteParams::default()).await?;
    }
    operator.until(POOL, "large", sized(LARGE)).await?;
    let mut more = 0;
    for round in 1_u64.. {
        let gone = seen.removed.load(Ordering::Relaxed);
        tell(gone);
        if gone >= times {
            let called_back = seen.called_back.load(Ordering::Relaxed) > 0;
            if sabotage || called_back || more == MORE_ROUNDS {
                break;
            }
            more += 1;
        }
        let small = rand::random_range(SMALL[0]..=SMALL[1]);
        let told = seen.drained_busy.load(Ordering::Relaxed);
        scale(operator, small).await?;
        if round.is_multiple_of(CALLED_BACK_EVERY) {
            // Some are still draining when load returns, and are called back.
            let draining =
                seen.until(|seen| (seen.drained_busy.load(Ordering::Relaxed) > told).then_some(()));
            let draining = tokio::time::timeout(PATIENCE, draining).await;
            draining.context("nobody was told to drain")?;
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..TAKES[1] / 4))).await;
        } else {
            operator.until(POOL, "small", sized(small)).await?;
        }
        scale(operator, LARGE).await?;
        operator.until(POOL, "large", sized(LARGE)).await?;
    }
    Ok(())
}

/// As `kubectl scale` does it.
async fn scale(operator: &Operator, replicas: usize) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let pools = operator.all::<WorkerPool>();
    let params = PatchParams::default();
    pools.patch_scale(POOL, &params, &patch).await?;
    Ok(())
}

fn sized(wanted: usize) -> impl Fn(Option<&WorkerPool>) -> bool {
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    move |pool| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status
            .is_some_and(|s| s.ready_replicas == wanted && s.replicas == wanted && s.draining == 0)
    }
}

fn task(number: usize) -> String {
    format!("task-{number:06}")
}

/// Keeps a few more tasks under way than there are slots until `stop`, and waits for all to end. The first
/// one may be to be killed.
async fn load(
    queue: &NamespaceQueue,
    seen: &Seen,
    kills_first: bool,
    stop: &CancellationToken,
) -> Result<BTreeSet<String>> {
    let most = LARGE * SLOTS as usize * 3 / 2;
    let mut sent = BTreeSet::new();
    while !stop.is_cancelled() {
        while sent.len() < seen.finished() + most {
            let task = task(sent.len());
            let time = match kills_first && sent.is_empty() {
                true => KILLED_TAKES,
                false => rand::random_range(TAKES[0]..=TAKES[1]),
            };
            let payload = json!({"kind": "chat.completions", "request": {"milliseconds": time}});
            let payload = payload.to_string();
            let answer = queue
                .enqueue(&Enqueue::new(PERSONA, &task, &payload))
                .await?;
            ensure!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
            sent.insert(task);
        }
        tokio::select! {
            () = seen.news.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    let ending = async {
        while seen.finished() < sent.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // What is not there by then is lost, and the report says so.
    tokio::time::timeout(PATIENCE, ending).await.ok();
    for task in sent.iter().rev().take(100) {
        let output = queue.output(task, None).await?;
        let outcome = output.and_then(|output| output.outcome);
        let completed = outcome.is_some_and(|o| o.outcome == OutcomeKind::Completed);
        ensure!(
            completed || seen.of(task).1 == 0,
            "{task} ended without an answer"
        );
    }
    Ok(sent)
}
