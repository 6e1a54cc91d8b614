//! Pods that the API server does not want.

use std::time::Duration;

use anyhow::Result;
use persona_operator::api::WorkerPool;
use serde_json::json;

use crate::harness::{Operator, condition};
use crate::webhook::Webhook;

#[tokio::test]
async fn a_refusing_webhook_is_not_stormed_is_said_in_its_words_and_when_it_goes_all_is_well()
-> Result<()> {
    let operator = Operator::start("webhook").await?;
    let words = "images of this registry are not signed";
    let webhook = Webhook::refuse(&operator.client, &operator.namespace, words).await?;
    operator.pool("mine", json!({"minReplicas": 8})).await?;
    let refused = |pool: Option<&WorkerPool>| {
        let conditions = pool.and_then(|p| p.status.as_ref()).map(|s| &s.conditions);
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c.type_ == "ReplicaFailure" && c.message.contains(words))
    };
    operator.until("mine", "refused", refused).await?;
    let ready = |pool: Option<&WorkerPool>| {
        let conditions = pool.and_then(|p| p.status.as_ref()).map(|s| &s.conditions);
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c.type_ == "Ready" && c.status == "False" && c.message.contains(words))
    };
    operator.until("mine", "not ready", ready).await?;
    // Eight at once, then four, two and one by one, each pause twice as long as the one before:
    // sixteen in eight seconds, two more in sixteen.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let asked = webhook.refused();
    assert!((8..=18).contains(&asked), "{asked} pods were asked for");

    webhook.remove().await?;
    let whole = |pool: Option<&WorkerPool>| {
        pool.is_some_and(|p| {
            condition(p, "Ready").as_deref() == Some("True")
                && condition(p, "ReplicaFailure").is_none()
        })
    };
    operator.until("mine", "whole", whole).await?;
    operator.stop().await
}
