//! From a burst of requests to the pods it takes, on a real API server with fake nodes.
//!
//! `cargo bench --bench burst [-- RUNS]`: 1,000 tasks at once for a pool of 0, sized so that they need 100
//! pods; in the same run, what a bare client needs to create 100 such pods, alone, and while as many tasks
//! arrive for a pool of at most one worker: on few cores the arrivals themselves take time. Pods are there
//! when a watch has shown them; for the bare client also when all requests are answered. The control plane
//! has its default limits. One JSON line a run, then a table of quantiles, in which CPU and requests (events
//! and watches left out) are those of the controller from the first task until all pods are Ready.

#![allow(dead_code)] // The harness of the tests has more than a bench needs.

#[path = "../tests/operator/cost.rs"]
mod cost;
#[path = "../tests/operator/harness/mod.rs"]
mod harness;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use persona_operator::api::{Persona, WorkerPool};
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use serde_json::json;
use testbed::{Cluster, Options};
use tokio::time::{Instant, timeout};

use cost::{cpu, requests};
use harness::{Operator, PATIENCE};

const TASKS: usize = 1000;
const PODS: usize = 100;
const PAYLOAD: &str = r#"{"kind":"chat.completions","request":{"messages":[]}}"#;

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs this too, for nothing but to see that it starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let runs = std::env::args().find_map(|argument| argument.parse().ok());
    let cluster = Cluster::start(Options {
        // Those of an untouched controller manager; the testbed's own are higher.
        controller_manager_args: vec!["--kube-api-qps=20".into(), "--kube-api-burst=30".into()],
        ..Options::default()
    })
    .await?;
    cluster.fake_nodes(10, 0).await?;
    let operator = Operator::start_in(&cluster, "burst", &[("PERSONA_LOG", "warn")]).await?;
    let mut columns: [Vec<f64>; 10] = Default::default();
    for run in 0..runs.unwrap_or(30) {
        // At a random phase of all ticks there are.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..2000))).await;
        let (event, pod) = burst(&operator, run).await?;
        let bare = cluster.client().await?;
        let alone = creations(&bare, &operator.namespace, &pod).await?;
        gone(&operator.all::<Pod>(), "bare=true").await?;
        let beside = beside_arrivals(&operator, run, &bare, &pod).await?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let [first, all, ready] = event.times.map(ms);
        let (answered, alone, beside) = (ms(alone.answered), ms(alone.seen), ms(beside.seen));
        let cpu = event.cpu * 1e3;
        let (ratio, ratio_beside) = (all / alone, all / beside);
        let count = event.requests.values().sum();
        println!(
            "{}",
            json!({
                "run": run, "first_pod_ms": first, "all_pods_ms": all, "all_ready_ms": ready,
                "bare_client_answered_ms": answered, "bare_client_ms": alone, "ratio": ratio,
                "bare_client_beside_arrivals_ms": beside, "ratio_beside_arrivals": ratio_beside,
                "controller_cpu_ms": cpu,
                "requests": event.requests,
            })
        );
        let row = [
            first,
            all,
            ready,
            answered,
            alone,
            ratio,
            beside,
            ratio_beside,
            cpu,
            count,
        ];
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    println!("                                p50      p95      p99");
    let names = [
        "first pod object, ms",
        "100 pod objects, ms",
        "100 pods Ready, ms",
        "bare client, answered, ms",
        "bare client, 100 pods, ms",
        "ratio to the bare client",
        "the same beside arrivals",
        "ratio to that",
        "controller CPU, ms",
        "controller's requests",
    ];
    for (name, column) in names.iter().zip(&mut columns) {
        quantiles(name, column);
    }
    operator.stop().await?;
    cluster.stop().await
}

/// What one burst took.
struct Scaled {
    /// From the first task to the first pod object, to the last, and until all are Ready.
    times: [Duration; 3],
    /// Seconds of the controller.
    cpu: f64,
    /// Requests that only the controller makes, by verb and resource.
    requests: BTreeMap<String, f64>,
}

fn quantiles(name: &str, values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        // An index below the length.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        #[allow(clippy::cast_precision_loss)]
        let place = (share * (values.len() - 1) as f64).round() as usize;
        values[place]
    };
    println!(
        "{name:<26} {:>8.1} {:>8.1} {:>8.1}",
        at(0.5),
        at(0.95),
        at(0.99)
    );
}

/// What the burst took, and one of its pods, as it was asked for.
async fn burst(operator: &Operator, run: usize) -> Result<(Scaled, Pod)> {
    let name = format!("burst-{run}");
    operator
        .pool(&name, json!({"minReplicas": 0, "maxReplicas": PODS, "slotsPerWorker": 5, "idleTimeout": "10m"}))
        .await?;
    let home =
        json!({"poolRef": {"name": name}, "queue": {"maxConcurrency": TASKS, "maxLength": TASKS}});
    operator
        .persona(&name, "http://127.0.0.1:9/v1", home)
        .await?;
    operator.ready::<Persona>(&name).await?;
    let labels = format!("persona.dev/pool={name}");
    let config = watcher::Config::default().labels(&labels);
    let mut events = std::pin::pin!(watcher(operator.all::<Pod>(), config));
    // The watch stands before anything happens.
    while !matches!(events.try_next().await?, Some(Event::InitDone)) {}

    let pid = operator.controller.pid().context("no controller")?;
    let (before, cpu_before) = (requests(&operator.client).await?, cpu(pid)?);
    let begun = Instant::now();
    let sending = send(operator, &name, run);
    let watching = async {
        let (mut made, mut ready) = (Vec::new(), HashSet::new());
        let (mut first, mut all) = (None, None);
        loop {
            let event = events.try_next().await?.context("the watch ended")?;
            let Event::Apply(pod) = event else { continue };
            let uid = pod.uid().unwrap_or_default();
            first.get_or_insert_with(|| begun.elapsed());
            if is_ready(&pod) {
                ready.insert(uid.clone());
            }
            if !made.iter().any(|(known, _)| *known == uid) {
                made.push((uid, pod));
            }
            if made.len() == PODS {
                all.get_or_insert_with(|| begun.elapsed());
            }
            if ready.len() == PODS {
                let (_, pod) = made.swap_remove(0);
                let times = [
                    first.context("no first pod")?,
                    all.context("not all pods")?,
                    begun.elapsed(),
                ];
                return anyhow::Ok((times, pod));
            }
        }
    };
    let (sent, watched) = tokio::join!(sending, timeout(PATIENCE, watching));
    sent?;
    let (times, pod) = match watched {
        Ok(watched) => watched?,
        Err(_) => bail!("not all pods came: {}", standing(operator, &name).await?),
    };
    let cpu = cpu(pid)? - cpu_before;
    let mut since = requests(&operator.client).await?;
    since.retain(|what, count| {
        *count -= before.get(what).copied().unwrap_or_default();
        *count > 0.0 && is_ours(what)
    });
    let event = Scaled {
        times,
        cpu,
        requests: since,
    };
    let params = DeleteParams::default();
    operator.all::<Persona>().delete(&name, &params).await?;
    operator.all::<WorkerPool>().delete(&name, &params).await?;
    gone(&operator.all::<Pod>(), &labels).await?;
    Ok((event, pod))
}

/// How long a bare client takes while a burst of tasks arrives for a pool that needs only one.
async fn beside_arrivals(
    operator: &Operator,
    run: usize,
    client: &Client,
    like: &Pod,
) -> Result<Bare> {
    let name = format!("narrow-{run}");
    operator
        .pool(&name, json!({"minReplicas": 0, "maxReplicas": 1}))
        .await?;
    let home = json!({"poolRef": {"name": name}, "queue": {"maxLength": TASKS}});
    operator
        .persona(&name, "http://127.0.0.1:9/v1", home)
        .await?;
    operator.ready::<Persona>(&name).await?;
    let (sent, time) = tokio::join!(
        send(operator, &name, run),
        creations(client, &operator.namespace, like)
    );
    sent?;
    let params = DeleteParams::default();
    operator.all::<Persona>().delete(&name, &params).await?;
    operator.all::<WorkerPool>().delete(&name, &params).await?;
    gone(&operator.all::<Pod>(), "bare=true").await?;
    time
}

/// A burst of tasks.
async fn send(operator: &Operator, persona: &str, run: usize) -> Result<()> {
    let queue = operator.queue()?;
    let tasks = (0..TASKS).map(|number| {
        let queue = &queue;
        async move {
            let id = format!("{persona}.{run}.{number}");
            let answer = queue.enqueue(&Enqueue::new(persona, &id, PAYLOAD)).await?;
            ensure!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
            Ok(())
        }
    });
    let sent: Result<Vec<()>> = stream::iter(tasks).buffer_unordered(64).try_collect().await;
    sent.map(drop)
}

/// How far a pool has come, in its own words.
async fn standing(operator: &Operator, pool: &str) -> Result<String> {
    let labels = ListParams::default().labels(&format!("persona.dev/pool={pool}"));
    let pods = operator.all::<Pod>().list(&labels).await?.items;
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let pool = operator.all::<WorkerPool>().get(pool).await?;
    let status = serde_json::to_string(&pool.status)?;
    Ok(format!("{} pods, {ready} ready, {status}", pods.len()))
}

/// Whether nobody but the controller makes such requests: the scheduler binds pods, KWOK writes their
/// status, the controller manager that of budgets, and many tell events.
fn is_ours(what: &str) -> bool {
    let others = [" pods/", " poddisruptionbudgets/", " events", "WATCH "];
    !others.iter().any(|part| what.contains(part))
}

/// What a bare client takes to create as many pods.
struct Bare {
    /// Until all requests are answered.
    answered: Duration,
    /// Until a watch has shown all pods.
    seen: Duration,
}

/// How long a bare client takes, with 64 requests under way at once as ours.
async fn creations(client: &Client, namespace: &str, like: &Pod) -> Result<Bare> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut spec = like.spec.clone().context("no spec")?;
    spec.node_name = None;
    let config = watcher::Config::default().labels("bare=true");
    let mut events = std::pin::pin!(watcher(pods.clone(), config));
    while !matches!(events.try_next().await?, Some(Event::InitDone)) {}
    let begun = Instant::now();
    let making = (0..PODS).map(|number| {
        let (pods, mut pod) = (&pods, Pod::default());
        pod.metadata.name = Some(format!("bare-{number}"));
        pod.metadata.labels = Some([("bare".to_owned(), "true".to_owned())].into());
        pod.spec = Some(spec.clone());
        async move { pods.create(&PostParams::default(), &pod).await }
    });
    let making = async {
        let made: Result<Vec<Pod>, kube::Error> = stream::iter(making)
            .buffer_unordered(64)
            .try_collect()
            .await;
        made?;
        anyhow::Ok(begun.elapsed())
    };
    let watching = async {
        let mut seen = HashSet::new();
        while seen.len() < PODS {
            if let Event::Apply(pod) = events.try_next().await?.context("the watch ended")? {
                seen.insert(pod.uid());
            }
        }
        anyhow::Ok(begun.elapsed())
    };
    let (answered, seen) = tokio::try_join!(making, watching)?;
    pods.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("bare=true"),
    )
    .await?;
    Ok(Bare { answered, seen })
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Waits until the pods of before are gone, so that a run does not pay for the one before it.
async fn gone(pods: &Api<Pod>, labels: &str) -> Result<()> {
    let params = ListParams::default().labels(labels);
    let waiting = async {
        while !pods.list(&params).await?.items.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, waiting)
        .await
        .context("pods of before are still there")?
}
