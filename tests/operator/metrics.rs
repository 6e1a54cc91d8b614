//! What the metrics say of a namespace's phase: by phase, and right.

use anyhow::{Context, Result, bail};
use kube::api::DeleteParams;
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::json;

use crate::harness::{Operator, PATIENCE, condition, topology};
use crate::upstream::{Upstream, says};

/// Waits until a series of the controller is as wanted; none = it is not there.
pub async fn until(
    operator: &Operator,
    series: &str,
    is: impl Fn(Option<f64>) -> bool,
) -> Result<()> {
    let waits = async {
        while !is(operator.metric(series).await?) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    let waited = tokio::time::timeout(PATIENCE, waits).await;
    let last = operator.metric(series).await?;
    waited.with_context(|| format!("{series} is {last:?}"))?
}

/// Waits that a pool's workers have counted for a phase.
async fn waits(operator: &Operator, pool: &str, phase: Phase) -> Result<f64> {
    let queue = operator.queue()?;
    let pools = [(queue.clone(), pool.to_owned())];
    let stats = queue.queue().stats(&pools).await?;
    let phase = format!("phase=\"{}\"", phase.as_str());
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut sum = 0.0;
    for worker in stats.iter().flatten().flat_map(|pool| &pool.workers) {
        let url = format!("http://{}/metrics", worker.address);
        let text = http.get(url).send().await?.text().await?;
        let counts = text.lines().filter(|line| {
            line.starts_with("persona_task_wait_seconds_count") && line.contains(&phase)
        });
        for line in counts {
            let value = line.rsplit(' ').next().context("no value")?;
            sum += value.parse::<f64>()?;
        }
    }
    Ok(sum)
}

#[tokio::test]
async fn personas_memory_latency_and_triggers_are_told_by_phase() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("metrics").await?;
    operator.share(json!({"mode": "PerPersona"})).await?;
    for name in ["p0", "p1", "p2"] {
        operator.persona(name, &model.base_url(), json!({})).await?;
    }
    let namespace = operator.namespace.clone();
    for phase in [Phase::PerPersona, Phase::Generic, Phase::Hybrid] {
        let mode = json!({"mode": phase.as_str()});
        operator.patch::<PersonaTopology>("default", mode).await?;
        let still = move |t: Option<&PersonaTopology>| {
            t.is_some_and(|t| {
                let is = |type_| condition(t, type_).as_deref() == Some("True");
                t.status.as_ref().and_then(|s| s.phase) == Some(phase)
                    && is("Ready")
                    && is("Stable")
            })
        };
        operator.until("default", phase.as_str(), still).await?;
        for name in ["p0", "p1", "p2"] {
            operator.ready::<Persona>(name).await?;
            assert_eq!(operator.answer(name).await?, "Hi");
        }
        for other in Phase::ALL {
            let is = other == phase;
            let series = |name: &str| {
                format!(
                    "{name}{{namespace=\"{namespace}\",phase=\"{}\"}}",
                    other.as_str()
                )
            };
            let expected = if is { 3.0 } else { 0.0 };
            let personas = series("persona_topology_personas");
            until(&operator, &personas, |value| value == Some(expected)).await?;
            let expected = if is { 1.0 } else { 0.0 };
            let told = series("persona_topology_phase");
            until(&operator, &told, |value| value == Some(expected)).await?;
            let moving = series("persona_topology_moving");
            until(&operator, &moving, |value| value == Some(0.0)).await?;
            let memory = series("persona_memory_bytes_per_persona");
            until(&operator, &memory, |value| {
                value.is_some_and(|v| (v > 1e5) == is)
            })
            .await?;
        }
        let persona = operator.ready::<Persona>("p0").await?.context("gone")?;
        let pool = persona.status.and_then(|s| s.pool).context("no pool")?;
        let of_pool = format!("{{namespace=\"{namespace}\",pool=\"{pool}\"}}");
        for name in [
            "persona_pool_queued_tasks",
            "persona_pool_utilization_ratio",
        ] {
            until(&operator, &format!("{name}{of_pool}"), |v| v == Some(0.0)).await?;
        }
        let up = format!(
            "persona_scale_total{{direction=\"up\",namespace=\"{namespace}\",pool=\"{pool}\",reason=\"bounds\"}}"
        );
        until(&operator, &up, |changes| changes >= Some(1.0)).await?;
        // A worker that has just come may not have been told its phase yet.
        let counted = async {
            while waits(&operator, &pool, phase).await? < 1.0 {
                assert_eq!(operator.answer("p0").await?, "Hi");
            }
            anyhow::Ok(())
        };
        let counted = tokio::time::timeout(PATIENCE, counted).await;
        counted.with_context(|| format!("no latency of {phase:?}"))??;
    }
    operator.stop().await
}

/// Waits until that many requests of a persona wait.
async fn queued(operator: &Operator, persona: &str, count: u64) -> Result<()> {
    let queue = operator.queue()?;
    let personas = [persona.to_owned()];
    let wait = async {
        while queue.persona_stats(&personas).await?[0].queued != count {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.with_context(|| format!("never are {count} requests of {persona} queued"))?
}

#[tokio::test]
async fn requests_that_end_before_a_worker_has_them_are_counted() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("ends").await?;
    operator.pool("mine", json!({})).await?;
    let home = json!({"poolRef": {"name": "mine"}});
    operator.persona("helper", &model.base_url(), home).await?;
    operator.ready::<Persona>("helper").await?;
    let none = json!({"replicas": 0});
    operator.patch::<WorkerPool>("mine", none).await?;
    let empty = |pool: Option<&WorkerPool>| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status.is_some_and(|status| status.replicas == 0)
    };
    operator.until("mine", "empty", empty).await?;
    // Its client leaves.
    tokio::select! {
        answer = operator.ask("helper", json!({})) => bail!("{answer:?}"),
        waits = queued(&operator, "helper", 1) => waits?,
    }
    queued(&operator, "helper", 0).await?;
    // Its persona is deleted.
    let deleting = async {
        queued(&operator, "helper", 1).await?;
        let params = DeleteParams::default();
        operator.all::<Persona>().delete("helper", &params).await?;
        anyhow::Ok(())
    };
    let (answer, deleted) = tokio::join!(operator.ask("helper", json!({})), deleting);
    deleted?;
    assert_eq!(answer?.status(), 404);
    let topology = topology(&operator).await?;
    let phase = topology.status.and_then(|s| s.phase).context("no phase")?;
    let series = ["cancelled", "failed"].map(|outcome| {
        format!(
            "persona_tasks_total{{namespace=\"{}\",outcome=\"{outcome}\",phase=\"{}\"}}",
            operator.namespace,
            phase.as_str()
        )
    });
    for series in &series {
        until(&operator, series, |count| count == Some(1.0)).await?;
    }
    // A namespace that has nothing left has no series either.
    let params = DeleteParams::default();
    operator.all::<WorkerPool>().delete("mine", &params).await?;
    for series in &series {
        until(&operator, series, |count| count.is_none()).await?;
    }
    assert_eq!(model.counts().requests, 0);
    operator.stop().await
}
