//! Workers that are followed by fresh ones under load.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event, watcher};
use persona_operator::api::{Persona, WorkerPool};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{Operator, condition};
use crate::upstream::{Step, Upstream, done, stream_head, token};

const SLOTS: u32 = 4;
/// Workers that are replaced in the test.
const REPLACED: usize = 3;
/// Between two looks at who takes requests: a small part of what a worker needs to start.
const LOOK: Duration = Duration::from_millis(5);

#[tokio::test]
async fn a_pool_of_one_replaces_its_worker_without_a_gap_and_loses_no_request() -> Result<()> {
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("there"),
        Step::Pause(Duration::from_millis(150)),
        done(),
    ])
    .await;
    let operator = Operator::start("recycling").await?;
    operator
        .pool(
            "mine",
            json!({
                "minReplicas": 1, "maxReplicas": 1, "slotsPerWorker": SLOTS,
                "recycle": {"afterTasks": 15},
            }),
        )
        .await?;
    let home = json!({"poolRef": {"name": "mine"}, "queue": {"maxConcurrency": 8}});
    operator.persona("helper", &model.base_url(), home).await?;
    operator.ready::<Persona>("helper").await?;
    operator.ready::<WorkerPool>("mine").await?;

    let stop = CancellationToken::new();
    let client = async |_| {
        let mut answered = 0;
        while !stop.is_cancelled() {
            ensure!(operator.answer("helper").await? == "there");
            answered += 1;
        }
        anyhow::Ok(answered)
    };
    let clients = try_join_all((0..SLOTS).map(client));
    let watching = async {
        let watched = watched(&operator).await;
        stop.cancel();
        watched
    };
    let (answered, ()) = tokio::try_join!(clients, watching)?;
    let answered: usize = answered.into_iter().sum();
    assert_eq!(model.counts().requests, answered, "none ran twice");
    assert_eq!(model.counts().given_up, 0, "none was cut short");
    let namespace = &operator.namespace;
    let series = format!(
        r#"persona_worker_recycles_total{{namespace="{namespace}",pool="mine",reason="tasks"}}"#
    );
    let counted = operator.metric(&series).await?.context("no such series")?;
    assert!(counted >= REPLACED as f64, "{counted}");
    operator.stop().await
}

/// Watches until the worker was replaced often enough: there is always a pod that was Ready and stays, and
/// always a worker that takes requests.
async fn watched(operator: &Operator) -> Result<()> {
    let config = watcher::Config::default().labels("persona.dev/pool=mine");
    let mut pods = watcher(operator.all::<Pod>(), config).boxed();
    let pools = [(operator.queue()?, "mine".to_owned())];
    let queue = pools[0].0.queue();
    let (mut serving, mut replaced) = (BTreeMap::new(), 0);
    while replaced < REPLACED {
        tokio::select! {
            event = pods.next() => {
                match event.context("ended")?? {
                    Event::Init | Event::InitDone => {}
                    Event::InitApply(pod) | Event::Apply(pod) => {
                        let is_ready = condition(&pod, "Ready").as_deref() == Some("True");
                        let stays = pod.metadata.deletion_timestamp.is_none();
                        // A probe that comes too late on a busy machine makes no gap.
                        let serves = serving.entry(pod.name_any()).or_insert(false);
                        *serves = (*serves || is_ready) && stays;
                    }
                    Event::Delete(pod) => {
                        serving.remove(&pod.name_any());
                        replaced += 1;
                    }
                }
                let is_served = serving.is_empty() || serving.values().any(|serves| *serves);
                ensure!(is_served, "no pod was Ready and stays: {serving:?}");
            }
            () = tokio::time::sleep(LOOK) => {
                let stats = queue.stats(&pools).await?.remove(0)?;
                let takes = stats.workers.iter().any(|w| !w.draining && w.slots == SLOTS);
                ensure!(takes, "nobody takes requests: {stats:?}");
            }
        }
    }
    Ok(())
}
