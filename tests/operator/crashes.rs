//! Workers that die, and workers that are taken away under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use kube::ResourceExt;
use persona_operator::api::{Persona, WorkerPool};
use serde_json::{Value, json};
use testbed::process_node::Signal;

use crate::harness::{Operator, node};
use crate::upstream::{Step, Upstream, done, says, stream_head, token};

/// The pod that runs the one worker of a persona's pool.
async fn only_pod(operator: &Operator, persona: &str) -> Result<String> {
    let persona = operator.ready::<Persona>(persona).await?.context("gone")?;
    let pool = persona.status.and_then(|s| s.pool).context("no pool")?;
    let pods = operator.pods(&pool).await?;
    assert_eq!(pods.len(), 1, "one worker");
    Ok(pods[0].name_any())
}

#[tokio::test]
async fn a_killed_worker_costs_a_whole_answer_two_seconds_and_nothing_else() -> Result<()> {
    // The first attempt never ends, the second is answered.
    let model = Upstream::start(|asked| match asked.number {
        1 => vec![stream_head("text/event-stream"), token("lost"), Step::Hang],
        _ => says(&["whole"]),
    })
    .await;
    let operator = Operator::start("killed").await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    let pod = only_pod(&operator, "helper").await?;
    let killing = async {
        model.until("the first attempt", |c| c.requests == 1).await;
        node()
            .await?
            .kill_container(&operator.namespace, &pod, "worker", Signal::SIGKILL)
            .await?;
        let killed = Instant::now();
        model.until("the second attempt", |c| c.requests == 2).await;
        anyhow::Ok(killed.elapsed())
    };
    let (answer, again) = tokio::join!(operator.answer("helper"), killing);
    assert_eq!(answer?, "whole");
    let again = again?;
    // Runnable within 2 s of the kubelet's word, and taken by the restarted worker. Its lease would run
    // out after ten seconds at the earliest.
    assert!(again < Duration::from_secs(9), "{again:?}");
    assert_eq!(model.counts().requests, 2);
    operator.stop().await
}

#[tokio::test]
async fn a_stream_whose_worker_is_killed_ends_in_one_error_and_no_second_answer() -> Result<()> {
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("begun"),
        Step::Hang,
    ])
    .await;
    let operator = Operator::start("spliced").await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    let pod = only_pod(&operator, "helper").await?;
    let mut stream = operator.ask("helper", json!({"stream": true})).await?;
    let mut text = String::new();
    while !text.contains("begun") {
        let more = stream.chunk().await?.context("it ended early")?;
        text.push_str(&String::from_utf8_lossy(&more));
    }
    node()
        .await?
        .kill_container(&operator.namespace, &pod, "worker", Signal::SIGKILL)
        .await?;
    while let Some(more) = stream.chunk().await? {
        text.push_str(&String::from_utf8_lossy(&more));
    }
    let errors: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .filter(|event: &Value| event.get("error").is_some())
        .collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert_eq!(errors[0]["error"]["code"], "interrupted", "{text}");
    assert_eq!(text.matches("begun").count(), 1, "{text}");
    assert_eq!(model.counts().requests, 1, "no second attempt");
    operator.stop().await
}

#[tokio::test]
async fn a_pool_grows_under_load_and_shrinks_without_cutting_a_request_short() -> Result<()> {
    let model = Upstream::start(|asked| {
        // Of different lengths, so that workers empty at different times.
        let time = Duration::from_millis(400 + 300 * (asked.number as u64 % 8));
        vec![
            stream_head("text/event-stream"),
            token("slow"),
            Step::Pause(time),
            done(),
        ]
    })
    .await;
    let operator = Operator::start("load").await?;
    operator
        .pool(
            "mine",
            json!({"minReplicas": 1, "maxReplicas": 8, "slotsPerWorker": 2, "idleTimeout": "1s"}),
        )
        .await?;
    let more = json!({"poolRef": {"name": "mine"}, "queue": {"maxConcurrency": 16}});
    operator.persona("helper", &model.base_url(), more).await?;
    operator.ready::<Persona>("helper").await?;
    let mut sent = 0;
    let mut burst = async |size: usize| {
        sent += size;
        let answers = (0..size).map(|_| operator.answer("helper"));
        for answer in try_join_all(answers).await? {
            assert_eq!(answer, "slow");
        }
        anyhow::Ok(())
    };
    // 16 requests at once, 2 a worker.
    let eight = |pool: Option<&WorkerPool>| {
        pool.and_then(|p| p.status.as_ref())
            .is_some_and(|s| s.desired_replicas == 8)
    };
    let eight = operator.until("mine", "at eight", eight);
    tokio::try_join!(burst(40), eight)?;
    // Bursts with pauses in which workers drain.
    for size in [3, 24, 1] {
        burst(size).await?;
    }
    let small = |pool: Option<&WorkerPool>| {
        pool.and_then(|p| p.status.as_ref())
            .is_some_and(|s| s.replicas == 1 && s.draining == 0)
    };
    operator.until("mine", "back at one worker", small).await?;
    assert_eq!(model.counts().requests, sent, "no request ran twice");
    assert_eq!(model.counts().given_up, 0, "none was cut short");
    operator.stop().await
}
