//! A WorkerPool of one's own: its pods and its status.

use anyhow::Result;
use persona_operator::api::WorkerPool;
use serde_json::json;

use crate::harness::{Operator, reason};

#[tokio::test]
async fn a_pool_of_ones_own_gets_its_workers_and_becomes_ready() -> Result<()> {
    let operator = Operator::start("pool").await?;
    operator
        .create::<WorkerPool>(json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": "mine"},
            "spec": {"minReplicas": 2},
        }))
        .await?;
    let pool = operator.ready::<WorkerPool>("mine").await?.expect("a pool");
    let status = pool.status.clone().expect("a status");
    assert_eq!((status.replicas, status.ready_replicas), (2, 2));
    assert_eq!(reason(&pool, "Ready").as_deref(), Some("WorkersReady"));
    operator.stop().await
}
