//! A persona whose requests kill the workers of a pool that others share.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use kube::api::ListParams;
use persona_operator::api::Persona;
use serde_json::json;

use crate::harness::{Operator, node, reason};
use crate::upstream::{Step, Upstream, says, stream_head};
use testbed::process_node::Signal;

/// Kills the worker whenever the model has got a request, so many times.
async fn kill_at_each_request(operator: &Operator, deadly: &Upstream, times: usize) -> Result<()> {
    let pools = operator.all::<persona_operator::api::WorkerPool>();
    let pools = pools.list(&ListParams::default()).await?;
    let pool = pools.items.first().context("no pool")?.name_any();
    for time in 1..=times {
        wait_for(deadly, time).await;
        for pod in operator.pods(&pool).await? {
            let killed = node()
                .await?
                .kill_container(
                    &operator.namespace,
                    &pod.name_any(),
                    "worker",
                    Signal::SIGKILL,
                )
                .await;
            if let Err(error) = killed {
                println!("{}: {error:#}", pod.name_any());
            }
        }
    }
    Ok(())
}

/// A container that crashes again and again comes back after 10 s, then after 20 s.
async fn wait_for(deadly: &Upstream, requests: usize) {
    for _ in 0..3 {
        if deadly.counts().requests >= requests {
            return;
        }
        let asked = async { deadly.until("a request", |c| c.requests >= requests).await };
        if tokio::time::timeout(Duration::from_secs(25), asked)
            .await
            .is_ok()
        {
            return;
        }
    }
    panic!("request {requests} never came: {:?}", deadly.counts());
}

#[tokio::test]
async fn who_kills_every_worker_waits_in_quarantine_and_the_others_are_served() -> Result<()> {
    let deadly = Upstream::always(vec![stream_head("text/event-stream"), Step::Hang]).await;
    let model = Upstream::always(says(&["alive"])).await;
    let operator = Operator::start("quarantine").await?;
    operator
        // Everything runs alone, so that each loss tells who is the cause.
        .share(json!({"mode": "Generic", "pool": {"maxReplicas": 1, "slotsPerWorker": 1}}))
        .await?;
    let more = json!({"maxAttempts": 10, "timeout": "120s"});
    operator.persona("bad", &deadly.base_url(), more).await?;
    operator
        .persona("good", &model.base_url(), json!({}))
        .await?;
    for name in ["bad", "good"] {
        operator.ready::<Persona>(name).await?;
    }
    let asking = operator.ask("bad", json!({}));
    let course = async {
        kill_at_each_request(&operator, &deadly, 3).await?;
        let held = |p: Option<&Persona>| {
            p.and_then(|p| reason(p, "Ready")).as_deref() == Some("Quarantined")
        };
        let found = operator.until("bad", "in quarantine", held).await?;
        let conditions = found
            .context("gone")?
            .status
            .context("no status")?
            .conditions;
        let message = &conditions[0].message;
        assert!(message.contains("runs until"), "{message}");
        assert_eq!(operator.answer("good").await?, "alive");
        let events = operator.all::<Event>().list(&ListParams::default()).await?;
        let told = |event: &&Event| event.reason.as_deref() == Some("Quarantined");
        assert_eq!(events.items.iter().filter(told).count(), 1);
        anyhow::Ok(())
    };
    tokio::select! {
        done = course => done?,
        answer = asking => panic!("it has an answer: {:?}", answer?.text().await?),
    }
    operator.stop().await
}
