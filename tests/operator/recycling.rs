//! Workers that start afresh under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event, watcher};
use persona_operator::api::{Persona, WorkerPool};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::Operator;
use crate::upstream::{Step, Upstream, done, stream_head, token};

const WORKERS: usize = 3;
const SLOTS: u32 = 2;
const RECYCLES: f64 = 12.0;

#[tokio::test]
async fn workers_start_afresh_one_at_a_time_stay_ready_and_lose_no_request() -> Result<()> {
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("there"),
        Step::Pause(Duration::from_millis(150)),
        done(),
    ])
    .await;
    let operator = Operator::start("recycling").await?;
    operator
        .pool(
            "mine",
            json!({
                "minReplicas": WORKERS, "maxReplicas": WORKERS, "slotsPerWorker": SLOTS,
                "recycle": {"afterTasks": 10},
            }),
        )
        .await?;
    let home = json!({"poolRef": {"name": "mine"}, "queue": {"maxConcurrency": 6}});
    operator.persona("helper", &model.base_url(), home).await?;
    operator.ready::<Persona>("helper").await?;
    operator.ready::<WorkerPool>("mine").await?;

    let stop = CancellationToken::new();
    let client = async |_| {
        let mut answered = 0;
        while !stop.is_cancelled() {
            ensure!(operator.answer("helper").await? == "there");
            answered += 1;
        }
        anyhow::Ok(answered)
    };
    let clients = try_join_all((0..8).map(client));
    let watching = async {
        let watched = watched(&operator).await;
        stop.cancel();
        watched
    };
    let (answered, watched) = tokio::join!(clients, watching);
    watched?;
    let answered: usize = answered?.into_iter().sum();
    assert_eq!(model.counts().requests, answered, "none ran twice");
    assert_eq!(model.counts().given_up, 0, "none was cut short");
    for pod in operator.pods("mine").await? {
        let status = pod
            .status
            .as_ref()
            .and_then(|s| s.container_statuses.as_ref());
        let restarts = status.into_iter().flatten().map(|s| s.restart_count);
        assert_eq!(restarts.sum::<i32>(), 0, "{}", pod.name_any());
    }
    operator.stop().await
}

/// Watches until the workers have started afresh often enough: all pods stay Ready, and no two workers
/// stand aside at once.
async fn watched(operator: &Operator) -> Result<()> {
    let config = watcher::Config::default().labels("persona.dev/pool=mine");
    let mut pods = watcher(operator.all::<Pod>(), config).boxed();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let pools = [(operator.queue()?, "mine".to_owned())];
    let queue = persona_operator::queue::Queue::connect(
        persona_operator::queue::QueueOptions::new(operator.redis.url()),
    )?;
    loop {
        tokio::select! {
            event = pods.next() => {
                if let Event::Apply(pod) | Event::InitApply(pod) = event.context("ended")?? {
                    ensure!(is_ready(&pod), "{} is not Ready", pod.name_any());
                }
            }
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                let stats = queue.stats(&pools).await?.remove(0)?;
                let mut afresh = 0.0;
                for worker in &stats.workers {
                    // Not while it is replacing itself; the next look counts it.
                    if let Ok(answer) = http.get(format!("http://{}/metrics", worker.address)).send().await {
                        afresh += recycles(&answer.text().await?);
                    }
                }
                ensure!(stats.workers.len() == WORKERS, "{stats:?}");
                // One that takes nothing more until it has started afresh says how much it still runs.
                let aside = stats.workers.iter().filter(|worker| worker.slots < SLOTS);
                ensure!(aside.count() <= 1, "{stats:?}");
                if afresh >= RECYCLES {
                    return Ok(());
                }
            }
        }
    }
}

fn recycles(metrics: &str) -> f64 {
    let counts = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let value: f64 = value.parse().ok()?;
        series
            .starts_with("persona_worker_recycles_total")
            .then_some(value)
    });
    counts.sum()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}
