//! Pools whose size follows Prometheus and RabbitMQ, with workers that know nothing of the operator.

use std::fs;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use persona_operator::api::WorkerPool;
use serde_json::{Value, json};
use testbed::{Prometheus, PrometheusOptions, RabbitMq};

use crate::harness::{Operator, reason};
use crate::outage::counting_jobs;

/// A pool of workers that only sleep, sized by one metric.
pub async fn sleepers(operator: &Operator, metrics: Value, more: Value) -> Result<()> {
    let mut spec = json!({
        "minReplicas": 0,
        "maxReplicas": 9,
        "idleTimeout": "1s",
        "scaling": {"metrics": metrics},
        "template": {"containers": {"worker": {
            "image": "sleeper.test/sleep:1", "args": ["1000000"],
        }}},
    });
    if let Value::Object(more) = more {
        for (key, value) in more {
            spec["scaling"][key] = value;
        }
    }
    operator.pool("sleepers", spec).await?;
    Ok(())
}

/// So many workers, all ready.
pub fn size(wanted: i32) -> impl Fn(Option<&WorkerPool>) -> bool {
    move |pool| {
        let status = pool.and_then(|p| p.status.as_ref());
        status.is_some_and(|s| s.ready_replicas == wanted && s.replicas == wanted)
    }
}

fn failing(pool: Option<&WorkerPool>) -> bool {
    pool.is_some_and(|p| reason(p, "ScalingActive").as_deref() == Some("MetricUnavailable"))
}

#[tokio::test]
async fn a_pool_follows_a_prometheus_query_and_does_not_shrink_while_that_is_away() -> Result<()> {
    let (jobs, _exporter, prometheus) = counting_jobs(14).await?;
    let operator = Operator::start("prometheus").await?;
    let metric = json!([{"type": "Prometheus", "prometheus": {
        "serverAddress": prometheus.url(), "query": "sum(jobs) or vector(0)", "target": 4,
    }}]);
    let fallback = json!({"fallback": {"replicas": 6}});
    sleepers(&operator, metric, fallback).await?;
    let follows = |pool: Option<&WorkerPool>| {
        let reason = pool.and_then(|pool| reason(pool, "ScalingActive"));
        size(4)(pool) && reason.as_deref() == Some("FollowsMetrics")
    };
    let pool = operator.until("sleepers", "at four", follows).await?;
    let pool = pool.context("gone")?;
    let said = &pool.status.context("no status")?.history[0].reason;
    assert!(said.contains("14"), "{said}");

    jobs.store(0, Ordering::Relaxed);
    prometheus.component().kill().await?;
    operator.until("sleepers", "blind", failing).await?;
    operator
        .until("sleepers", "at its fallback", size(6))
        .await?;
    prometheus.component().restart().await?;
    operator.until("sleepers", "empty", size(0)).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_pool_that_follows_other_metrics_alone_grows_while_redis_is_away() -> Result<()> {
    let (jobs, _exporter, prometheus) = counting_jobs(4).await?;
    let operator = Operator::start("elsewhere").await?;
    let metric = json!([{"type": "Prometheus", "prometheus": {
        "serverAddress": prometheus.url(), "query": "sum(jobs) or vector(0)", "target": 4,
    }}]);
    sleepers(&operator, metric, Value::Null).await?;
    operator.until("sleepers", "at one", size(1)).await?;
    operator.redis.stop().await?;
    // It has no reading of the queue, and knows of no login that it gave.
    operator.controller.restart().await?;
    jobs.store(14, Ordering::Relaxed);
    operator.until("sleepers", "at four", size(4)).await?;
    operator.redis.restart().await?;
    jobs.store(0, Ordering::Relaxed);
    operator.until("sleepers", "empty", size(0)).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_pool_follows_a_rabbitmq_queue_as_whom_its_owner_allows() -> Result<()> {
    let rabbit = RabbitMq::start().await?;
    rabbit.declare("jobs").await?;
    rabbit.publish("jobs", 25).await?;
    let credentials = tempfile::tempdir()?;
    let folder = credentials.path().to_string_lossy().into_owned();
    let settings = [("PERSONA_METRIC_CREDENTIALS_DIR", folder.as_str())];
    let operator = Operator::start_with("rabbitmq", &settings).await?;
    let metric = json!([{"type": "RabbitMQ", "rabbitmq": {
        "managementAddress": rabbit.url(), "queue": "jobs", "target": 5,
    }}]);
    sleepers(&operator, metric, Value::Null).await?;
    let refused = |pool: Option<&WorkerPool>| {
        let conditions = pool.and_then(|p| p.status.as_ref()).map(|s| &s.conditions);
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c.type_ == "ScalingActive" && c.message.contains("401"))
    };
    operator.until("sleepers", "refused", refused).await?;

    let (username, password) = rabbit.login();
    let login = json!({"address": rabbit.url(), "username": username, "password": password});
    fs::write(credentials.path().join("rabbit"), login.to_string())?;
    operator.until("sleepers", "at five", size(5)).await?;
    rabbit.purge("jobs").await?;
    operator.until("sleepers", "empty", size(0)).await?;
    operator.stop().await
}

#[tokio::test]
async fn of_several_metrics_the_largest_wins() -> Result<()> {
    let prometheus = Prometheus::start(PrometheusOptions::default()).await?;
    let operator = Operator::start("several").await?;
    let query = |query: &str| {
        json!({"type": "Prometheus", "prometheus": {
            "serverAddress": prometheus.url(), "query": query, "target": 1,
        }})
    };
    let metrics = json!([query("vector(2)"), query("vector(3)")]);
    sleepers(&operator, metrics, Value::Null).await?;
    operator.until("sleepers", "at three", size(3)).await?;
    operator.stop().await
}
