//! The same load on the same personas in each phase: what a persona costs in memory and workers, and
//! what the way through gateway, queue and worker adds to the model's own time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::api::ListParams;
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::{Value, json};
use testbed::upstream::{Step, Upstream, done, stream_head, token};
use tokio::task::JoinSet;

use crate::harness::{Operator, condition, node};

/// Numbers of personas.
const PERSONAS: [usize; 4] = [3, 12, 60, 101];
/// Types, which have a pool each in Hybrid and Specialized.
const TYPES: usize = 4;
/// Requests a second, over all personas.
const RATE: u32 = 20;
/// How long the model takes for an answer.
const THINKS: Duration = Duration::from_millis(50);

/// Prints a row for each number of personas and phase.
pub async fn run(seconds: u64) -> Result<()> {
    println!(
        "| personas | phase | pools | workers | memory of workers | memory a persona | requests | answered/s | added p50 | added p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for personas in PERSONAS {
        for phase in Phase::ALL {
            println!("{}", measure(phase, personas, seconds).await?);
        }
    }
    Ok(())
}

/// The phase is pinned and everybody is Ready.
pub async fn prepare(
    operator: &Operator,
    phase: Phase,
    spec: Value,
    personas: impl IntoIterator<Item = (String, String, Value)>,
) -> Result<Vec<String>> {
    operator
        .share(json!({"mode": phase.as_str(), "pool": spec}))
        .await?;
    let mut names = Vec::new();
    for (name, endpoint, more) in personas {
        operator.persona(&name, &endpoint, more).await?;
        names.push(name);
    }
    for name in &names {
        operator.ready::<Persona>(name).await?;
    }
    let still = |t: Option<&PersonaTopology>| {
        t.is_some_and(|t| condition(t, "Stable").as_deref() == Some("True"))
    };
    operator.until("default", "Stable", still).await?;
    Ok(names)
}

async fn measure(phase: Phase, number: usize, seconds: u64) -> Result<String> {
    let model = Upstream::always(vec![
        Step::Pause(THINKS),
        stream_head("text/event-stream"),
        token("yes"),
        done(),
    ])
    .await;
    let operator = Arc::new(Operator::start("phases").await?);
    let persona = |i: usize| {
        let more = json!({"type": format!("T{}", i % TYPES)});
        (format!("p{i:03}"), model.base_url(), more)
    };
    let names = prepare(&operator, phase, json!({}), (0..number).map(persona)).await?;
    // Connections are made and memory is touched before anything counts.
    for some in names.chunks(8) {
        try_join_all(some.iter().map(|name| operator.answer(name))).await?;
    }
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut asked = JoinSet::new();
    for name in names.iter().cycle() {
        tick.tick().await;
        if begun.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
        let (operator, name) = (operator.clone(), name.clone());
        asked.spawn(async move {
            let sent = Instant::now();
            ensure!(operator.answer(&name).await? == "yes");
            Ok(sent.elapsed().saturating_sub(THINKS))
        });
    }
    let memory = resident(&operator).await?;
    let mut added = Vec::new();
    while let Some(one) = asked.join_next().await {
        added.push(one??);
    }
    let took = begun.elapsed().as_secs_f64();
    let pools = operator.all::<WorkerPool>();
    let pools = pools.list(&ListParams::default()).await?.items.len();
    let sum: u64 = memory.iter().sum();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let [p50, p99] = percentiles(&mut added);
    let row = format!(
        "| {number} | {} | {pools} | {} | {:.1} MiB | {:.2} MiB | {} | {:.1} | {p50:.1} ms | {p99:.1} ms |",
        phase.as_str(),
        memory.len(),
        mib(sum),
        mib(sum / number as u64),
        added.len(),
        added.len() as f64 / took,
    );
    let operator = Arc::into_inner(operator).context("all requests have ended")?;
    operator.stop().await?;
    Ok(row)
}

/// Resident memory of each worker process, in bytes.
async fn resident(operator: &Operator) -> Result<Vec<u64>> {
    let pods = operator.all::<k8s_openapi::api::core::v1::Pod>();
    let pods = pods.list(&ListParams::default()).await?;
    let mut all = Vec::new();
    for pod in pods {
        let node = node().await?;
        let pid = node
            .pid(&operator.namespace, &pod.name_any(), "worker")
            .await?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: u64 = kib.context("no VmRSS")?.parse()?;
        all.push(kib * 1024);
    }
    Ok(all)
}

/// p50 and p99 in ms.
pub fn percentiles(values: &mut [Duration]) -> [f64; 2] {
    values.sort_unstable();
    [50, 99].map(|p| {
        let place = (values.len() * p).div_ceil(100).saturating_sub(1);
        values
            .get(place)
            .map_or(0.0, |time| time.as_secs_f64() * 1e3)
    })
}
