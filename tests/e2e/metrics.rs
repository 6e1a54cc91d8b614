//! Prometheus scrapes controller, gateway and workers, and what it reads is right.

use anyhow::{Context, Result};
use futures::future::try_join_all;
use serde_json::json;
use testbed::{Prometheus, PrometheusOptions, Sample};

use crate::harness::{PATIENCE, Stage};
use testbed::upstream::{Upstream, says};

const REQUESTS: usize = 20;

/// The series of metrics.md that a load without faults makes.
const SERIES: &[&str] = &[
    "persona_pool_queued_tasks",
    "persona_pool_running_tasks",
    "persona_pool_oldest_wait_seconds",
    "persona_pool_workers",
    "persona_pool_slots",
    "persona_pool_desired_replicas",
    "persona_pool_utilization_ratio",
    "persona_pool_arrival_rate",
    "persona_pool_service_seconds",
    "persona_scale_total",
    "persona_scale_blind",
    "persona_task_wait_seconds_bucket",
    "persona_task_duration_seconds_bucket",
    "persona_first_token_seconds_bucket",
    "persona_tasks_total",
    "persona_attempts_total",
    "persona_tokens_total",
    "persona_worker_memory_bytes",
    "persona_worker_recycles_total",
    "persona_gateway_requests_total",
    "persona_gateway_request_seconds_bucket",
    "persona_topology_personas",
    "persona_topology_phase",
    "persona_topology_moving",
    "persona_queue_up",
    "persona_dead_tasks",
    "persona_reconcile_seconds_bucket",
    "persona_leader",
    "persona_build_info",
    "persona_memory_bytes_per_persona",
];

fn sum(samples: &[Sample]) -> f64 {
    samples.iter().map(|sample| sample.value).sum()
}

#[tokio::test]
async fn prometheus_finds_all_pods_and_counts_what_was_asked() -> Result<()> {
    let Some(stage) = Stage::enter("metrics").await? else {
        return Ok(());
    };
    let model = Upstream::always(says(&["Hi", " you"])).await;
    stage
        .persona("helper", &stage.endpoint(&model)?, json!({}))
        .await?;
    stage.wait_ready("persona/helper").await?;
    let prometheus = Prometheus::start(PrometheusOptions {
        kubeconfig: Some(stage.cluster.kubeconfig().to_owned()),
        ..PrometheusOptions::default()
    })
    .await?;
    let prometheus = &prometheus;
    let (system, here) = (stage.release.namespace(), &stage.namespace);
    let is = async |query: &str, wanted: f64| {
        let found = prometheus.until(query, PATIENCE, |found| sum(found) == wanted);
        found.await.map(drop)
    };
    // Two controllers, two gateways, one worker; workers have no label `component`.
    for (of, count) in [
        (
            format!("pod_namespace='{system}',component='controller'"),
            2.0,
        ),
        (format!("pod_namespace='{system}',component='gateway'"), 2.0),
        (format!("pod_namespace='{here}'"), 1.0),
    ] {
        is(&format!("up{{{of}}}"), count).await?;
        is(&format!("count(up{{{of}}})"), count).await?;
    }
    let asked =
        "sum(persona_gateway_requests_total{route='/v1/chat/completions',code='200'}) or vector(0)";
    let before = sum(&prometheus.query(asked).await?);
    let answers = try_join_all((0..REQUESTS).map(|_| stage.answer("helper"))).await?;
    assert!(
        answers.iter().all(|answer| answer == "Hi you"),
        "{answers:?}"
    );

    let count = REQUESTS as f64;
    is(asked, before + count).await?;
    let own = format!("namespace='{here}'");
    for (query, wanted) in [
        (
            format!("sum(persona_tasks_total{{{own},outcome='completed'}})"),
            count,
        ),
        (format!("sum(persona_tasks_total{{{own}}})"), count),
        (
            format!("sum(persona_task_duration_seconds_count{{{own}}})"),
            count,
        ),
        (
            format!("sum(persona_task_wait_seconds_count{{{own}}})"),
            count,
        ),
        (
            format!("sum(persona_first_token_seconds_count{{{own}}})"),
            count,
        ),
        // As the model server counts them: 5 and 2 an answer.
        (
            format!("sum(persona_tokens_total{{{own},kind='input'}})"),
            5.0 * count,
        ),
        (
            format!("sum(persona_tokens_total{{{own},kind='output'}})"),
            2.0 * count,
        ),
        (
            format!("persona_topology_phase{{{own},phase='PerPersona'}}"),
            1.0,
        ),
        (format!("sum(persona_topology_phase{{{own}}})"), 1.0),
        (format!("sum(persona_topology_personas{{{own}}})"), 1.0),
        (format!("sum(persona_pool_workers{{{own}}})"), 1.0),
        (
            format!("sum(persona_pool_workers{{{own},state='idle'}})"),
            1.0,
        ),
        (format!("sum(persona_pool_slots{{{own}}})"), 4.0),
        (format!("sum(persona_pool_desired_replicas{{{own}}})"), 1.0),
        (format!("sum(persona_pool_queued_tasks{{{own}}})"), 0.0),
        (format!("sum(persona_dead_tasks{{{own}}})"), 0.0),
        ("sum(persona_leader)".to_owned(), 1.0),
        ("sum(persona_queue_up)".to_owned(), 1.0),
    ] {
        is(&query, wanted).await?;
    }
    let bytes = format!("persona_worker_memory_bytes{{pod_namespace='{here}'}}");
    let bytes = sum(&prometheus.query(&bytes).await?);
    assert!((1e6..1e9).contains(&bytes), "{bytes} bytes");
    let missing = |found: &[Sample]| {
        let there = |series: &&str| found.iter().any(|f| f.label("__name__") == *series);
        let absent = SERIES.iter().filter(|series| !there(series));
        absent.copied().collect::<Vec<_>>()
    };
    let names = "count by (__name__) ({__name__=~'persona_.+'})";
    // Dead letters are counted once a minute.
    let found = prometheus.until(names, PATIENCE, |found| missing(found).is_empty());
    if found.await.is_err() {
        let missing = missing(&prometheus.query(names).await?);
        anyhow::bail!("nothing has {missing:?}");
    }
    let builds = prometheus.query("persona_build_info").await?;
    let version = builds.first().context("no build")?.label("version");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    stage.leave().await
}
