//! The controllers die while personas move from pools of their own to a shared one.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use kube::api::ListParams;
use persona_operator::api::{PersonaTopology, Phase, WorkerPool};
use serde_json::json;
use testbed::release::run;
use tokio_util::sync::CancellationToken;

use crate::harness::{Stage, eventually};
use testbed::upstream::{Step, Upstream, done, stream_head, token};

/// Asks all personas again and again until `stop`; how many were answered.
async fn clients(stage: &Stage, names: &[String], stop: &CancellationToken) -> Result<usize> {
    let one = async |name: &String| {
        let mut answered = 0;
        while !stop.is_cancelled() {
            ensure!(stage.answer(name).await? == "moved");
            answered += 1;
        }
        anyhow::Ok(answered)
    };
    Ok(try_join_all(names.iter().map(one)).await?.into_iter().sum())
}

/// Kills the controllers, the one that leads and the one that stands by.
async fn kill_controllers(stage: &Stage) -> Result<()> {
    let args = [
        "delete",
        "pods",
        "-n",
        stage.release.namespace(),
        "-l",
        "app.kubernetes.io/component=controller",
        "--force",
        "--grace-period=0",
    ];
    run(stage.cluster.kubectl().await?, &args).await.map(drop)
}

#[tokio::test]
async fn controllers_killed_in_the_middle_of_a_move_complete_it_and_lose_nothing() -> Result<()> {
    let Some(stage) = Stage::enter("midway").await? else {
        return Ok(());
    };
    let pause = Step::Pause(Duration::from_millis(500));
    let steps = [
        stream_head("text/event-stream"),
        token("moved"),
        pause,
        done(),
    ];
    let model = Upstream::always(steps.to_vec()).await;
    let endpoint = stage.endpoint(&model)?;
    let names: Vec<String> = (1..=10).map(|n| format!("persona-{n:02}")).collect();
    for name in &names {
        stage.persona(name, &endpoint, json!({})).await?;
    }
    stage.wait_ready("personas").await?;
    let stop = CancellationToken::new();
    let move_all = async {
        stage.persona("persona-11", &endpoint, json!({})).await?;
        let begun = |topology: Option<&PersonaTopology>| {
            let status = topology.and_then(|t| t.status.as_ref());
            status.is_some_and(|status| status.phase == Some(Phase::Generic))
        };
        stage
            .until::<PersonaTopology>("default", "on its way", begun)
            .await?;
        kill_controllers(&stage).await?;
        let there = |topology: Option<&PersonaTopology>| {
            let status = topology.and_then(|t| t.status.as_ref());
            status.is_some_and(|s| s.transition.is_none() && s.pools.len() == 1)
        };
        stage
            .until::<PersonaTopology>("default", "Generic", there)
            .await?;
        stage.wait_ready("persona/persona-11").await?;
        eventually("the pools of before are gone", async || {
            let pools = stage.all::<WorkerPool>();
            let pools = pools.list(&ListParams::default()).await?;
            Ok((pools.items.len() == 1).then_some(()))
        })
        .await
    };
    let crossing = async {
        let moved = move_all.await;
        stop.cancel();
        moved
    };
    let (answered, crossed) = tokio::join!(clients(&stage, &names, &stop), crossing);
    crossed?;
    let answered = answered?;
    assert!(answered >= 10, "{answered}");
    assert_eq!(model.counts().requests, answered, "none was answered twice");
    assert_eq!(model.counts().given_up, 0, "none was cut short");
    stage.wait_ready("personas").await?;
    stage.leave().await
}
