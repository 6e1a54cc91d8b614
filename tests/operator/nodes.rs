//! Nodes that are emptied and nodes that are lost, in clusters of their own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use persona_operator::api::{Persona, WorkerPool};
use serde_json::json;
use testbed::{Cluster, Options};

use crate::harness::{Operator, join_node};
use crate::upstream::{Step, Upstream, done, stream_head, token};

async fn on_node(operator: &Operator, pool: &str, node: &str) -> Result<usize> {
    let pods = operator.pods(pool).await?;
    let on = pods.iter().filter(|pod| {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.node_name.as_deref()) == Some(node)
    });
    Ok(on.count())
}

#[tokio::test]
async fn a_drained_node_is_left_by_busy_workers_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    let (first, _second) = (
        join_node(&cluster, "first").await?,
        join_node(&cluster, "second").await?,
    );
    let model = Upstream::start(|_| {
        vec![
            stream_head("text/event-stream"),
            token("still here"),
            Step::Pause(Duration::from_millis(700)),
            done(),
        ]
    })
    .await;
    let settings = [("PERSONA_WATCH_NODES", "true")];
    let operator = Operator::start_in(&cluster, "drain", &settings).await?;
    let pool = json!({"apiVersion": "persona.dev/v1alpha1", "kind": "WorkerPool"});
    for (name, size) in [("one", 1), ("four", 4)] {
        let mut pool = pool.clone();
        pool["metadata"] = json!({"name": name});
        pool["spec"] = json!({"minReplicas": size, "maxReplicas": size, "slotsPerWorker": 2});
        operator.create::<WorkerPool>(pool).await?;
        let home = json!({"poolRef": {"name": name}, "queue": {"maxConcurrency": 8}});
        operator.persona(name, &model.base_url(), home).await?;
    }
    for name in ["one", "four"] {
        operator.ready::<WorkerPool>(name).await?;
        operator.ready::<Persona>(name).await?;
    }
    let budget = operator.all::<PodDisruptionBudget>().get("four").await?;
    let least = budget.spec.and_then(|spec| spec.min_available);
    assert_eq!(serde_json::to_value(least)?, json!(3));
    let budgets = operator.all::<PodDisruptionBudget>();
    assert!(
        budgets.get_opt("one").await?.is_none(),
        "it would hold up the node"
    );

    let stop = tokio_util::sync::CancellationToken::new();
    let client = async |persona: &'static str| {
        let mut answered = 0;
        while !stop.is_cancelled() {
            ensure!(operator.answer(persona).await? == "still here");
            answered += 1;
        }
        anyhow::Ok(answered)
    };
    let clients = try_join_all(["one", "four", "four", "four", "four", "one"].map(client));
    let draining = async {
        model.until("requests under way", |c| c.requests >= 4).await;
        for node in ["first", "second"] {
            let mut kubectl = cluster.kubectl().await?;
            kubectl.args([
                "drain",
                node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
            ]);
            let drained = kubectl.arg("--timeout=120s").output().await?;
            let words = String::from_utf8_lossy(&drained.stderr).into_owned();
            ensure!(drained.status.success(), "{words}");
            assert_eq!(on_node(&operator, "four", node).await?, 0);
            assert_eq!(on_node(&operator, "one", node).await?, 0);
            let mut kubectl = cluster.kubectl().await?;
            kubectl.args(["uncordon", node]).output().await?;
        }
        stop.cancel();
        anyhow::Ok(())
    };
    let (answered, drained) = tokio::join!(clients, draining);
    drained?;
    let answered: usize = answered?.into_iter().sum();
    assert_eq!(model.counts().requests, answered, "none ran twice");
    assert_eq!(model.counts().given_up, 0, "none was cut short");
    operator.stop().await?;
    drop(first);
    cluster.stop().await
}

#[tokio::test]
async fn an_unreachable_nodes_workers_are_replaced_once_and_not_doubled_when_it_is_back()
-> Result<()> {
    let cluster = Cluster::start(Options {
        // Longer than between two heartbeats of a node, and no longer than the test has to wait.
        controller_manager_args: vec!["--node-monitor-grace-period=15s".into()],
        ..Options::default()
    })
    .await?;
    let lost = join_node(&cluster, "lost").await?;
    let settings = [("PERSONA_WATCH_NODES", "true")];
    let operator = Operator::start_in(&cluster, "unreachable", &settings).await?;
    operator
        .pool("mine", json!({"minReplicas": 2, "drainTimeout": "2s"}))
        .await?;
    operator.ready::<WorkerPool>("mine").await?;
    let before: Vec<String> = operator
        .pods("mine")
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    let _other = join_node(&cluster, "other").await?;
    lost.pause();
    let moved = async {
        while on_node(&operator, "mine", "other").await? < 2 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(2 * crate::harness::PATIENCE, moved)
        .await
        .context("the workers were not replaced")??;
    lost.resume();
    let settled = |pool: Option<&WorkerPool>| {
        pool.and_then(|p| p.status.as_ref())
            .is_some_and(|s| s.replicas == 2 && s.ready_replicas == 2 && s.draining == 0)
    };
    operator.until("mine", "at two again", settled).await?;
    let after = operator.pods("mine").await?;
    assert!(after.iter().all(|pod| !before.contains(&pod.name_any())));
    operator.stop().await?;
    cluster.stop().await
}
