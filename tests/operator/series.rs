//! Series of the controller end with what they tell of.

use std::sync::Arc;

use anyhow::{Result, ensure};
use axum::http::Method;
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use persona_operator::api::WorkerPool;
use serde_json::json;
use testbed::Cluster;
use testbed::net::Port;
use tokio::sync::watch;

use crate::api_proxy::{ApiProxy, Meanwhile};
use crate::harness::{Operator, PATIENCE, node};
use crate::metrics::until;

const POOL: &str = "mine";

#[tokio::test]
async fn a_source_that_a_pool_follows_no_more_is_not_blind_for_ever() -> Result<()> {
    let operator = Operator::start("sources").await?;
    let nobody = Port::free()?;
    let away = json!({"type": "Prometheus", "prometheus": {
        "serverAddress": format!("http://127.0.0.1:{}", nobody.number()), "query": "up", "target": 4,
    }});
    let queue = json!({"type": "Queue"});
    let both = json!({"scaling": {"metrics": [queue, away]}});
    operator.pool(POOL, both).await?;
    let namespace = &operator.namespace;
    let blind = |source: &str| {
        let labels = format!("namespace=\"{namespace}\",pool=\"{POOL}\",source=\"{source}\"");
        format!("persona_scale_blind{{{labels}}}")
    };
    until(&operator, &blind("prometheus"), |is| is == Some(1.0)).await?;
    let one = json!({"scaling": {"metrics": [queue]}});
    operator.patch::<WorkerPool>(POOL, one).await?;
    until(&operator, &blind("prometheus"), |is| is.is_none()).await?;
    until(&operator, &blind("queue"), |is| is == Some(0.0)).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_pool_that_is_deleted_during_a_visit_leaves_no_series() -> Result<()> {
    node().await?;
    let cluster = Cluster::shared().await?;
    // Its first pod is made when the test says so.
    let (asked, mut is_asked) = watch::channel(false);
    let (go, goes) = watch::channel(false);
    let before: Meanwhile = Arc::new(move |method, path| {
        if *method != Method::POST || !path.ends_with("/pods") {
            return async {}.boxed();
        }
        asked.send_replace(true);
        let mut goes = goes.clone();
        async move { drop(goes.wait_for(|goes| *goes).await) }.boxed()
    });
    let proxy = ApiProxy::after(cluster.client().await?, before).await?;
    let operator = Operator::start_in(cluster, "visited", &[proxy.setting()]).await?;
    operator.pool(POOL, json!({"minReplicas": 1})).await?;
    tokio::time::timeout(PATIENCE, is_asked.wait_for(|asked| *asked)).await??;
    let queue = operator.queue()?;
    ensure!(queue.pools().await? == [POOL], "it is not open yet");
    let visits = "persona_reconcile_seconds_count{kind=\"WorkerPool\"}";
    let visited = operator.metric(visits).await?;
    let params = DeleteParams::default();
    operator.all::<WorkerPool>().delete(POOL, &params).await?;
    // The controller has heard of it.
    let closed = async {
        while !queue.pools().await?.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, closed).await??;
    go.send_replace(true);
    until(&operator, visits, |now| now > visited).await?;
    let labels = format!("{{namespace=\"{}\",pool=\"{POOL}\"}}", operator.namespace);
    for name in ["persona_pool_desired_replicas", "persona_pool_slots"] {
        let series = format!("{name}{labels}");
        let left = operator.metric(&series).await?;
        ensure!(left.is_none(), "{series} is {left:?}");
    }
    let pods = operator.all::<Pod>();
    let all = ListParams::default();
    pods.delete_collection(&DeleteParams::default(), &all)
        .await?;
    operator.stop().await
}
