//! From pools of their own to a shared one, with requests in flight.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::api::ListParams;
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::json;

use crate::harness::Operator;
use crate::upstream::{Step, Upstream, done, stream_head, token};

async fn slow_model() -> Upstream {
    Upstream::start(|_| {
        vec![
            stream_head("text/event-stream"),
            token("moved"),
            Step::Pause(Duration::from_millis(300)),
            done(),
        ]
    })
    .await
}

async fn personas(operator: &Operator, model: &Upstream, names: &[String]) -> Result<()> {
    for name in names {
        operator.persona(name, &model.base_url(), json!({})).await?;
    }
    for name in names {
        operator.ready::<Persona>(name).await?;
    }
    Ok(())
}

fn in_phase(phase: Phase) -> impl Fn(Option<&PersonaTopology>) -> bool {
    move |topology| {
        topology
            .and_then(|t| t.status.as_ref())
            .is_some_and(|s| s.phase == Some(phase) && s.transition.is_none() && s.pools.len() == 1)
    }
}

/// Asks all personas again and again until `stop`; how many were answered.
async fn clients(
    operator: &Operator,
    names: &[String],
    stop: &tokio_util::sync::CancellationToken,
) -> Result<usize> {
    let one = async |name: &String| {
        let mut answered = 0;
        while !stop.is_cancelled() {
            anyhow::ensure!(operator.answer(name).await? == "moved");
            answered += 1;
        }
        anyhow::Ok(answered)
    };
    let counts = try_join_all(names.iter().map(one)).await?;
    Ok(counts.into_iter().sum())
}

#[tokio::test]
async fn an_eleventh_persona_moves_all_to_a_shared_pool_and_loses_nothing() -> Result<()> {
    let model = slow_model().await;
    let operator = Operator::start("eleventh").await?;
    let names: Vec<String> = (1..=10).map(|n| format!("persona-{n:02}")).collect();
    personas(&operator, &model, &names).await?;
    assert_eq!(pools(&operator).await?.len(), 10);
    let stop = tokio_util::sync::CancellationToken::new();
    let crossing = async {
        operator
            .persona("persona-11", &model.base_url(), json!({}))
            .await?;
        operator
            .until("default", "Generic", in_phase(Phase::Generic))
            .await?;
        operator.ready::<Persona>("persona-11").await?;
        one_pool(&operator).await?;
        stop.cancel();
        anyhow::Ok(())
    };
    let (answered, crossed) = tokio::join!(clients(&operator, &names, &stop), crossing);
    crossed?;
    let answered = answered?;
    assert!(answered >= 10, "{answered}");
    assert_eq!(model.counts().requests, answered, "none was answered twice");
    assert_eq!(model.counts().given_up, 0, "none was cut short");
    operator.stop().await
}

#[tokio::test]
async fn a_controller_killed_in_the_middle_of_a_move_completes_it_when_it_is_back() -> Result<()> {
    let model = slow_model().await;
    let operator = Operator::start("midway").await?;
    let names: Vec<String> = (1..=10).map(|n| format!("persona-{n:02}")).collect();
    personas(&operator, &model, &names).await?;
    let stop = tokio_util::sync::CancellationToken::new();
    let crossing = async {
        operator
            .persona("persona-11", &model.base_url(), json!({}))
            .await?;
        // As soon as the first word of the move is written, and again a moment later.
        let begun = |t: Option<&PersonaTopology>| {
            t.and_then(|t| t.status.as_ref())
                .is_some_and(|s| s.phase == Some(Phase::Generic))
        };
        operator.until("default", "on its way", begun).await?;
        operator.controller.kill().await?;
        operator.controller.restart().await?;
        operator.controller.kill().await?;
        operator.controller.restart().await?;
        operator
            .until("default", "Generic", in_phase(Phase::Generic))
            .await?;
        operator.ready::<Persona>("persona-11").await?;
        one_pool(&operator).await?;
        stop.cancel();
        anyhow::Ok(())
    };
    let (answered, crossed) = tokio::join!(clients(&operator, &names, &stop), crossing);
    crossed?;
    assert_eq!(
        model.counts().requests,
        answered?,
        "none was answered twice"
    );
    operator.stop().await
}

async fn pools(operator: &Operator) -> Result<Vec<String>> {
    let pools = operator
        .all::<WorkerPool>()
        .list(&ListParams::default())
        .await?;
    Ok(pools.items.iter().map(|pool| pool.name_any()).collect())
}

/// Waits until the pools of before are gone.
async fn one_pool(operator: &Operator) -> Result<()> {
    let gone = async {
        while pools(operator).await?.len() > 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(crate::harness::PATIENCE, gone)
        .await
        .context("the pools of before are still there")?
}
