//! A persona whose requests kill their worker, in each phase: what the others feel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use persona_operator::api::names::LABEL_POOL;
use persona_operator::api::{Persona, Phase};
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use serde_json::json;
use testbed::process_node::Signal;
use testbed::upstream::{Step, Upstream, done, stream_head, token};
use tokio_util::sync::CancellationToken;

use crate::harness::{Operator, node};
use crate::phases::{percentiles, prepare};

/// Name, type, and whether it is of the deadly one's type.
const OTHERS: [(&str, &str); 6] = [
    ("mate-1", "deadly"),
    ("mate-2", "deadly"),
    ("coder-1", "coder"),
    ("coder-2", "coder"),
    ("writer-1", "writer"),
    ("writer-2", "writer"),
];
const DEADLY: &str = "deadly-1";
/// How long the model takes for an answer.
const THINKS: Duration = Duration::from_millis(100);
/// The deadly persona is asked so often.
const PACE: Duration = Duration::from_secs(1);
/// A client gives up after this.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one request became.
struct Answer {
    type_: &'static str,
    took: Duration,
    failed: bool,
}

/// Prints a row for each phase, and one where the deadly persona is alone in its type, which is then never
/// in quarantine.
pub async fn run(seconds: u64) -> Result<()> {
    println!(
        "| phase | workers lost | of other pools | same type: calm p50, p99 | same type: p50, p99 | failed | other types: calm p50, p99 | other types: p50, p99 | failed |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let time = Duration::from_secs(seconds);
    for phase in Phase::ALL {
        println!("{}", measure(phase, "deadly", time).await?);
    }
    println!("{}", measure(Phase::Hybrid, "lone", time).await?);
    Ok(())
}

/// `type_` is the deadly persona's.
async fn measure(phase: Phase, type_: &'static str, time: Duration) -> Result<String> {
    let model = Upstream::always(vec![
        Step::Pause(THINKS),
        stream_head("text/event-stream"),
        token("yes"),
        done(),
    ])
    .await;
    let deadly = Upstream::always(vec![stream_head("text/event-stream"), Step::Hang]).await;
    let operator = Arc::new(Operator::start("isolation").await?);
    let others = OTHERS.map(|(name, type_)| {
        let more = json!({"type": type_});
        (name.to_owned(), model.base_url(), more)
    });
    let more = json!({"type": type_, "timeout": "120s", "queue": {"maxConcurrency": 2}});
    let bad = (DEADLY.to_owned(), deadly.base_url(), more);
    // As many slots in each phase: eight.
    let workers = match phase {
        Phase::PerPersona => json!({"minReplicas": 1, "maxReplicas": 2, "slotsPerWorker": 2}),
        Phase::Generic => json!({"minReplicas": 4, "maxReplicas": 6, "slotsPerWorker": 2}),
        _ => json!({"minReplicas": 2, "maxReplicas": 3, "slotsPerWorker": 2}),
    };
    prepare(&operator, phase, workers, others.into_iter().chain([bad])).await?;
    let calm = clients(&operator, time, &CancellationToken::new()).await?;
    let stop = CancellationToken::new();
    let killing = {
        let (operator, stop) = (operator.clone(), stop.clone());
        tokio::spawn(async move { kill(&operator, &stop).await })
    };
    let crashing = clients(&operator, time, &stop).await?;
    stop.cancel();
    let (lost, of_others) = killing.await??;
    let of = |answers: &[Answer], same: bool| {
        let some: Vec<_> = answers
            .iter()
            .filter(|answer| (answer.type_ == type_) == same)
            .collect();
        let failed = some.iter().filter(|answer| answer.failed).count();
        let mut waits: Vec<_> = some.iter().map(|a| a.took.saturating_sub(THINKS)).collect();
        let [p50, p99] = percentiles(&mut waits);
        if some.is_empty() {
            return ("-".to_owned(), "-".to_owned());
        }
        (
            format!("{p50:.0}, {p99:.0} ms"),
            format!("{failed} of {}", some.len()),
        )
    };
    let (same_calm, other_calm) = (of(&calm, true).0, of(&calm, false).0);
    let (same, other) = (of(&crashing, true), of(&crashing, false));
    let row = format!(
        "| {}{} | {lost} | {of_others} | {same_calm} | {} | {} | {other_calm} | {} | {} |",
        phase.as_str(),
        if type_ == "lone" {
            ", alone in its type"
        } else {
            ""
        },
        same.0,
        same.1,
        other.0,
        other.1
    );
    let operator = Arc::into_inner(operator).context("all clients have ended")?;
    operator.stop().await?;
    Ok(row)
}

/// Two clients on each of the others, for a while.
async fn clients(
    operator: &Operator,
    time: Duration,
    stop: &CancellationToken,
) -> Result<Vec<Answer>> {
    let begun = Instant::now();
    let one = async |(name, type_): (&str, &'static str)| {
        let mut answers = Vec::new();
        while begun.elapsed() < time && !stop.is_cancelled() {
            let sent = Instant::now();
            let answer = tokio::time::timeout(PATIENCE, operator.answer(name)).await;
            answers.push(Answer {
                type_,
                took: sent.elapsed(),
                failed: !matches!(answer, Ok(Ok(text)) if text == "yes"),
            });
            tokio::time::sleep(THINKS).await;
        }
        answers
    };
    let twice = OTHERS.into_iter().chain(OTHERS).map(one);
    let all = futures::future::join_all(twice).await;
    Ok(all.into_iter().flatten().collect())
}

/// Asks the deadly persona again and again, and kills the worker that has one of its requests; how many, and
/// how many of them were of other pools than its own.
async fn kill(operator: &Operator, stop: &CancellationToken) -> Result<(usize, usize)> {
    let queue = operator.queue()?;
    let mut connection = operator.redis.connection().await?;
    let pods = operator.all::<Pod>();
    let deadly: Persona = operator.all().get(DEADLY).await?;
    let own = deadly.status.and_then(|status| status.pool);
    let (mut number, mut killed, mut of_others) = (0, 0, 0);
    let mut asked = Instant::now() - PACE;
    while !stop.is_cancelled() {
        if asked.elapsed() >= PACE {
            asked = Instant::now();
            let request =
                json!({"model": DEADLY, "messages": [{"role": "user", "content": "die"}]});
            let payload = json!({"kind": "chat.completions", "request": request}).to_string();
            let task = format!("{DEADLY}.{number}");
            number += 1;
            let answer = queue
                .enqueue(&Enqueue::new(DEADLY, &task, &payload))
                .await?;
            let accepted = matches!(
                answer,
                EnqueueAnswer::Queued { .. } | EnqueueAnswer::Full { .. }
            );
            ensure!(accepted, "{answer:?}");
        }
        for pod in pods.list(&ListParams::default()).await? {
            let uid = pod.uid().unwrap_or_default();
            let key = format!("{}lease:{uid}", queue.keys().prefix());
            let held: Vec<String> = redis::cmd("ZRANGE")
                .arg(key)
                .arg(0)
                .arg(-1)
                .query_async(&mut connection)
                .await?;
            if held.iter().any(|task| task.starts_with(DEADLY)) {
                let (namespace, name) = (&operator.namespace, pod.name_any());
                let node = node().await?;
                let done = node
                    .kill_container(namespace, &name, "worker", Signal::SIGKILL)
                    .await;
                // One that is down already waits for its restart.
                if done.is_ok() {
                    killed += 1;
                    of_others += usize::from(pod.labels().get(LABEL_POOL) != own.as_ref());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((killed, of_others))
}
