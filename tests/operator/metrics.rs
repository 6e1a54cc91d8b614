//! What the metrics say of a namespace's phase: by phase, and right.

use anyhow::{Context, Result};
use persona_operator::api::{Persona, PersonaTopology, Phase};
use serde_json::json;

use crate::harness::{Operator, PATIENCE, condition};
use crate::upstream::{Upstream, says};

/// Waits until a series of the controller has a value.
async fn until(operator: &Operator, series: &str, is: impl Fn(f64) -> bool) -> Result<()> {
    let waits = async {
        while !operator.metric(series).await?.is_some_and(&is) {
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
            until(&operator, &personas, |value| value == expected).await?;
            let expected = if is { 1.0 } else { 0.0 };
            let told = series("persona_topology_phase");
            until(&operator, &told, |value| value == expected).await?;
            let moving = series("persona_topology_moving");
            until(&operator, &moving, |value| value == 0.0).await?;
            let memory = series("persona_memory_bytes_per_persona");
            until(&operator, &memory, |value| (value > 1e5) == is).await?;
        }
        let persona = operator.ready::<Persona>("p0").await?.context("gone")?;
        let pool = persona.status.and_then(|s| s.pool).context("no pool")?;
        let of_pool = format!("{{namespace=\"{namespace}\",pool=\"{pool}\"}}");
        for name in [
            "persona_pool_queued_tasks",
            "persona_pool_utilization_ratio",
        ] {
            until(&operator, &format!("{name}{of_pool}"), |v| v == 0.0).await?;
        }
        let up = format!(
            "persona_scale_total{{direction=\"up\",namespace=\"{namespace}\",pool=\"{pool}\",reason=\"bounds\"}}"
        );
        until(&operator, &up, |changes| changes >= 1.0).await?;
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
