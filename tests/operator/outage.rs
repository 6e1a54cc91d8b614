//! What a pool's size follows goes away for a while: nothing may shrink while its numbers are missing or
//! not to be trusted, and the size follows them again once they are back.

use std::cell::Cell;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event, watcher};
use persona_operator::api::{Persona, WorkerPool};
use serde_json::json;
use testbed::certs::Identity;
use testbed::upstream::{Step, Upstream, answer, done, stream_head, token};
use testbed::{Prometheus, PrometheusOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{Operator, PATIENCE, condition};

/// Workers when it begins.
const WORKERS: i32 = 4;
const POOL: &str = "mine";

/// What goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Redis keeps its connections open and answers nothing.
    RedisHangs,
    /// Redis ends and comes back with its append-only file.
    RedisRestarts,
    /// Redis comes back without its data.
    RedisFlushed,
    /// The counters of the pool begin again, and nothing else is lost.
    CountersReset,
    /// Prometheus ends and comes back.
    PrometheusRestarts,
}

/// What was seen.
#[derive(Debug)]
pub struct Report {
    outage: Outage,
    /// How long it lasted; none = a moment.
    length: Option<Duration>,
    /// From the end of the outage until the size follows fresh numbers again, by the pool's status.
    pub resumed: Duration,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let outage = self.outage;
        match self.length {
            Some(length) => write!(f, "{outage:?} for {length:.0?}")?,
            None => write!(f, "{outage:?}")?,
        }
        let resumed = self.resumed;
        write!(f, ": 0 shrinks while blind, resumed after {resumed:.2?}")
    }
}

/// Lets a pool of four idle workers, which would shrink within five seconds, go through an outage.
///
/// # Errors
/// It shrank while it was blind, or does not follow its numbers again.
pub async fn endure(outage: Outage, length: Duration) -> Result<Report> {
    let name = format!("{outage:?}").to_lowercase();
    let operator = Operator::start(&name).await?;
    let report = match outage {
        Outage::PrometheusRestarts => prometheus(&operator, outage, length).await,
        _ => redis(&operator, outage, length).await,
    }?;
    operator.stop().await?;
    Ok(report)
}

async fn redis(operator: &Operator, outage: Outage, length: Duration) -> Result<Report> {
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("slow"),
        Step::Pause(Duration::from_millis(500)),
        done(),
    ])
    .await;
    operator
        .pool(
            POOL,
            json!({
                "minReplicas": 1, "maxReplicas": WORKERS, "slotsPerWorker": 1, "idleTimeout": "5s",
            }),
        )
        .await?;
    let home = json!({"poolRef": {"name": POOL}, "queue": {"maxConcurrency": WORKERS}});
    operator.persona("helper", &model.base_url(), home).await?;
    operator.ready::<Persona>("helper").await?;
    // Until all workers are seen: from then on they are idle, and there is little time until they go.
    let watching = Cell::new(true);
    let client = async |_| {
        while watching.get() {
            operator.answer("helper").await?;
        }
        anyhow::Ok(())
    };
    let load = try_join_all((0..2 * WORKERS).map(client));
    let begin = async {
        operator.until(POOL, "large", large).await?;
        let watched = Watched::begin(operator).await;
        watching.set(false);
        watched
    };
    let (_, mut watched) = tokio::try_join!(load, begin)?;
    let lasts = matches!(outage, Outage::RedisHangs | Outage::RedisRestarts);
    match outage {
        Outage::RedisHangs => operator.redis.pause()?,
        Outage::RedisRestarts => operator.redis.stop().await?,
        Outage::RedisFlushed => operator.flush().await?,
        _ => reset_counters(operator).await?,
    }
    if lasts {
        tokio::time::sleep(length).await;
    }
    watched.until("blind", |seen| !seen.follows).await?;
    let at_end = watched.now();
    match outage {
        Outage::RedisHangs => operator.redis.resume()?,
        Outage::RedisRestarts => operator.redis.restart().await?,
        _ => {}
    }
    at_end.keeps_all()?;
    let resumed = watched.resumed().await?;
    watched
        .until("one worker", |seen| seen.desired == 1 && seen.pods == 1)
        .await?;
    Ok(Report {
        outage,
        length: lasts.then_some(length),
        resumed,
    })
}

/// As if what was counted last had not been written down.
async fn reset_counters(operator: &Operator) -> Result<()> {
    let mut connection = operator.redis.connection().await?;
    let key = format!("persona:{{{}}}:pool:{POOL}", operator.namespace);
    let arrived: Option<u64> = redis::cmd("HGET")
        .arg(&key)
        .arg("arrived")
        .query_async(&mut connection)
        .await?;
    ensure!(arrived > Some(0), "{key} counts nothing: {arrived:?}");
    redis::cmd("HSET")
        .arg(&key)
        .arg(&["arrived", "0", "completed", "0", "service_sum", "0"])
        .exec_async(&mut connection)
        .await?;
    Ok(())
}

/// A Prometheus that scrapes `jobs`, a number that the test sets, as long as both servers live.
pub async fn counting_jobs(count: u32) -> Result<(Arc<AtomicU32>, Upstream, Prometheus)> {
    counting_jobs_over(count, None).await
}

/// As [`counting_jobs`], by HTTPS where the Prometheus has a certificate.
pub async fn counting_jobs_over(
    count: u32,
    tls: Option<Identity>,
) -> Result<(Arc<AtomicU32>, Upstream, Prometheus)> {
    let jobs = Arc::new(AtomicU32::new(count));
    let counted = jobs.clone();
    let exporter = Upstream::start(move |_| {
        let text = format!("jobs {}\n", counted.load(Ordering::Relaxed));
        answer(200, "content-type: text/plain; version=0.0.4\r\n", &text)
    })
    .await;
    let target = exporter.root_url();
    let target = target.trim_start_matches("http://").parse()?;
    let prometheus = Prometheus::start(PrometheusOptions {
        jobs: [("jobs".to_owned(), vec![target])].into(),
        tls,
        ..PrometheusOptions::default()
    })
    .await?;
    Ok((jobs, exporter, prometheus))
}

async fn prometheus(operator: &Operator, outage: Outage, length: Duration) -> Result<Report> {
    let (jobs, _exporter, prometheus) = counting_jobs(4 * u32::try_from(WORKERS)?).await?;
    operator
        .pool(POOL, json!({
                "minReplicas": 1, "maxReplicas": WORKERS, "idleTimeout": "5s",
                "scaling": {"metrics": [{"type": "Prometheus", "prometheus": {
                    "serverAddress": prometheus.url(), "query": "sum(jobs) or vector(0)", "target": 4,
                }}]},
                "template": {"containers": {"worker": {
                    "image": "sleeper.test/sleep:1", "args": ["1000000"],
                }}},
            }))
        .await?;
    operator.until(POOL, "large", large).await?;
    let mut watched = Watched::begin(operator).await?;
    prometheus.component().kill().await?;
    jobs.store(0, Ordering::Relaxed);
    tokio::time::sleep(length).await;
    watched.now().keeps_all()?;
    prometheus.component().restart().await?;
    let resumed = watched.resumed().await?;
    watched
        .until("one worker", |seen| seen.desired == 1 && seen.pods == 1)
        .await?;
    Ok(Report {
        outage,
        length: Some(length),
        resumed,
    })
}

fn large(pool: Option<&WorkerPool>) -> bool {
    let status = pool.and_then(|pool| pool.status.as_ref());
    status.is_some_and(|s| s.ready_replicas == WORKERS && s.replicas == WORKERS)
}

/// What a watch saw last, and what must not have happened before.
#[derive(Clone, Debug)]
struct Seen {
    desired: i32,
    /// Condition ScalingActive: the size follows fresh numbers.
    follows: bool,
    /// Pods that stay.
    pods: i32,
    /// How it shrank while it was blind.
    wrong: Option<String>,
}

impl Seen {
    fn keeps_all(&self) -> Result<()> {
        ensure!(
            self.desired == WORKERS && self.pods == WORKERS && self.wrong.is_none(),
            "it shrank while it was blind: {self:?}"
        );
        Ok(())
    }
}

/// Watches a pool and its pods from the API server's side.
struct Watched {
    seen: watch::Receiver<Seen>,
    watching: JoinHandle<Result<()>>,
}

impl Watched {
    async fn begin(operator: &Operator) -> Result<Self> {
        let (sender, seen) = watch::channel(Seen {
            desired: 0,
            follows: false,
            pods: 0,
            wrong: None,
        });
        let pools = watcher(operator.all::<WorkerPool>(), watcher::Config::default());
        let labels = watcher::Config::default().labels(&format!("persona.dev/pool={POOL}"));
        let pods = watcher(operator.all::<Pod>(), labels);
        let watching = tokio::spawn(async move {
            let (mut pools, mut pods) = (pools.boxed(), pods.boxed());
            let mut staying = std::collections::BTreeSet::new();
            loop {
                tokio::select! {
                    event = pools.next() => {
                        let event = event.context("the watch of pools ended")??;
                        if let Event::Apply(pool) | Event::InitApply(pool) = event {
                            sender.send_modify(|seen| note(seen, &pool));
                        }
                    }
                    event = pods.next() => {
                        match event.context("the watch of pods ended")?? {
                            Event::Apply(pod) | Event::InitApply(pod)
                                if pod.metadata.deletion_timestamp.is_none() =>
                            {
                                staying.insert(pod.uid());
                            }
                            Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod) => {
                                staying.remove(&pod.uid());
                            }
                            Event::Init | Event::InitDone => {}
                        }
                        let count = i32::try_from(staying.len()).unwrap_or(i32::MAX);
                        sender.send_modify(|seen| {
                            if count < seen.pods && !seen.follows {
                                seen.wrong = Some(format!("{} -> {count} pods", seen.pods));
                            }
                            seen.pods = count;
                        });
                    }
                }
            }
        });
        let mut watched = Self { seen, watching };
        watched
            .until("all workers", |seen| {
                seen.follows && seen.desired == WORKERS && seen.pods == WORKERS
            })
            .await?;
        Ok(watched)
    }

    fn now(&self) -> Seen {
        self.seen.borrow().clone()
    }

    async fn until(&mut self, what: &str, good: impl Fn(&Seen) -> bool) -> Result<()> {
        let waiting = self
            .seen
            .wait_for(|seen| good(seen) || seen.wrong.is_some());
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        let seen = waited.map(|seen| seen.map(|seen| seen.wrong.clone()));
        match seen {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(wrong))) => anyhow::bail!("it shrank while it was blind: {wrong}"),
            Ok(Err(_)) => anyhow::bail!("the watch ended before: {what}"),
            Err(_) => anyhow::bail!("not seen: {what}; {:?}", self.now()),
        }
    }

    /// Waits until the size follows its numbers again; how long that took.
    async fn resumed(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.until("fresh numbers", |seen| seen.follows).await?;
        Ok(begun.elapsed())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn note(seen: &mut Seen, pool: &WorkerPool) {
    let Some(status) = &pool.status else { return };
    let follows = condition(pool, "ScalingActive").as_deref() == Some("True");
    if status.desired_replicas < seen.desired && !follows {
        let change = format!("{} -> {}", seen.desired, status.desired_replicas);
        seen.wrong = Some(format!("{change}, {:?}", status.history.first()));
    }
    seen.desired = status.desired_replicas;
    seen.follows = follows;
}
