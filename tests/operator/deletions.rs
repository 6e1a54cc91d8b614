//! Pods that the API server does not delete when it is asked to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use axum::http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use persona_operator::api::WorkerPool;
use serde_json::json;
use testbed::Cluster;

use crate::api_proxy::{ApiProxy, Refuses};
use crate::harness::{Operator, node};

/// Deletions of pods that are refused, one after the other.
const REFUSED: usize = 5;
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

#[tokio::test]
async fn a_drained_worker_that_cannot_be_deleted_is_tried_again_soon() -> Result<()> {
    node().await?;
    let cluster = Cluster::shared().await?;
    let asked = Arc::new(AtomicUsize::default());
    let count = asked.clone();
    let refuses: Refuses = Arc::new(move |method, path| {
        let is_pod = *method == Method::DELETE && path.contains("/pods/");
        is_pod && count.fetch_add(1, Ordering::Relaxed) < REFUSED
    });
    let proxy = ApiProxy::refusing(cluster.client().await?, refuses).await?;
    let operator = Operator::start_in(cluster, "undeleted", &[proxy.setting()]).await?;
    operator.pool("mine", json!({"minReplicas": 2})).await?;
    operator.ready::<WorkerPool>("mine").await?;
    // What a new pool has to say of its workers makes visits too: that is over.
    for pod in operator.pods("mine").await? {
        let told = |pod: Option<&Pod>| {
            pod.is_some_and(|pod| pod.annotations().contains_key(SAFE_TO_EVICT))
        };
        operator.until(&pod.name_any(), "called idle", told).await?;
    }
    operator
        .patch::<WorkerPool>("mine", json!({"replicas": 1}))
        .await?;
    // Far sooner than the visit that comes every few minutes, whatever was heard.
    let small = |pool: Option<&WorkerPool>| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status.is_some_and(|s| s.replicas == 1 && s.draining == 0)
    };
    operator.until("mine", "one worker", small).await?;
    let pods = operator.pods("mine").await?;
    let staying = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    assert_eq!(staying.count(), 1);
    assert_eq!(asked.load(Ordering::Relaxed), REFUSED + 1);
    operator.stop().await
}
