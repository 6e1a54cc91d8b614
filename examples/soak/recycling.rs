//! A pool of one whose worker is followed by a fresh one again and again: what its clients feel.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use persona_operator::api::{Persona, WorkerPool};
use serde_json::{Value, json};
use testbed::upstream::{Step, Upstream, done, stream_head, token};
use tokio_util::sync::CancellationToken;

use crate::harness::Operator;
use crate::phases::percentiles;

const SLOTS: u32 = 4;
/// Least and most ms that the model takes for an answer.
const THINKS: (usize, usize) = (1000, 3000);
/// A worker is followed by another one after so many requests.
const AFTER: u64 = 20;

/// Prints a row of what is added to the model's time by a worker that stays, one that is replaced, and one that starts afresh in its place.
pub async fn run(seconds: u64) -> Result<()> {
    println!("| worker | requests | fresh ones | added p50 ms | added p99 ms | most ms |");
    println!("|---|---|---|---|---|---|");
    let stays = json!({"recycle": {"afterTasks": 1_000_000_000}});
    let replaced = json!({"recycle": {"afterTasks": AFTER}});
    // As if a model server were beside it.
    let args = json!(["worker", "--model-server=LlamaCpp"]);
    let in_place = json!({
        "recycle": {"afterTasks": AFTER}, "template": {"containers": {"worker": {"args": args}}},
    });
    for (name, spec) in [
        ("stays", stays),
        ("is replaced", replaced),
        ("in its place", in_place),
    ] {
        println!(
            "{}",
            measure(name, spec, Duration::from_secs(seconds)).await?
        );
    }
    Ok(())
}

async fn measure(name: &str, more: Value, time: Duration) -> Result<String> {
    let model = Upstream::start(|request| {
        let (least, most) = THINKS;
        let ms = least + request.number * 7919 % (most - least);
        // The answer says how long it took.
        vec![
            Step::Pause(Duration::from_millis(ms as u64)),
            stream_head("text/event-stream"),
            token(&ms.to_string()),
            done(),
        ]
    })
    .await;
    let operator = Operator::start("recycling").await?;
    let mut spec = json!({"minReplicas": 1, "maxReplicas": 1, "slotsPerWorker": SLOTS});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    operator.pool("mine", spec).await?;
    let home = json!({"poolRef": {"name": "mine"}, "queue": {"maxConcurrency": 8}});
    operator.persona("helper", &model.base_url(), home).await?;
    operator.ready::<Persona>("helper").await?;
    operator.ready::<WorkerPool>("mine").await?;
    let stop = CancellationToken::new();
    let client = async |_| {
        let mut added = Vec::new();
        while !stop.is_cancelled() {
            let asked = Instant::now();
            let thought = operator.answer("helper").await?.parse()?;
            let thought = Duration::from_millis(thought);
            added.push(asked.elapsed().saturating_sub(thought));
        }
        anyhow::Ok(added)
    };
    let pools = [(operator.queue()?, "mine".to_owned())];
    let (end, mut workers) = (Instant::now() + time, BTreeMap::new());
    let watching = async {
        while Instant::now() < end {
            let stats = pools[0].0.queue().stats(&pools).await?.remove(0)?;
            workers.extend(stats.workers.into_iter().map(|w| (w.uid, w.address)));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.cancel();
        anyhow::Ok(())
    };
    let (added, watched) = tokio::join!(try_join_all((0..SLOTS).map(client)), watching);
    watched?;
    let mut added: Vec<Duration> = added?.into_iter().flatten().collect();
    let (count, longest) = (added.len(), added.iter().max().copied().unwrap_or_default());
    ensure!(model.counts().requests == count, "some ran twice");
    ensure!(model.counts().given_up == 0, "some were cut short");
    let [p50, p99] = percentiles(&mut added);
    let mut fresh = workers.len() - 1;
    for address in workers.values() {
        fresh += recycled(address).await;
    }
    operator.stop().await?;
    let longest = longest.as_secs_f64() * 1000.0;
    Ok(format!(
        "| {name} | {count} | {fresh} | {p50:.0} | {p99:.0} | {longest:.0} |"
    ))
}

/// How often the worker has started afresh in its place; never where it is gone.
async fn recycled(address: &str) -> usize {
    let page = reqwest::get(format!("http://{address}/metrics"));
    let Ok(page) = async { page.await?.text().await }.await else {
        return 0;
    };
    let counts = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let is_count = series.starts_with("persona_worker_recycles_total{");
        is_count.then(|| value.parse::<usize>().ok())?
    });
    counts.sum()
}
