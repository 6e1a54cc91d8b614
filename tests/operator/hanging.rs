//! Requests to the API server that are never answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use axum::http::Method;
use futures::FutureExt;
use serde_json::json;
use testbed::Cluster;

use crate::api_proxy::{ApiProxy, Meanwhile};
use crate::harness::{Operator, node};
use persona_operator::api::WorkerPool;

#[tokio::test]
async fn a_request_that_hangs_is_given_up_and_made_again() -> Result<()> {
    node().await?;
    let (listed, made) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let posts = made.clone();
    let before: Meanwhile = Arc::new(move |method, path| {
        let count = match *method {
            Method::GET => &listed,
            Method::POST => &*posts,
            _ => return std::future::ready(()).boxed(),
        };
        // The first list of pods, which all that is decided waits for, the watch after it, and the first
        // pod that is made.
        let hangs = match path.ends_with("/pods") {
            true => count.fetch_add(1, Ordering::AcqRel),
            false => return std::future::ready(()).boxed(),
        };
        match (method, hangs) {
            (&Method::GET, 0 | 2) | (&Method::POST, 0) => std::future::pending().boxed(),
            _ => std::future::ready(()).boxed(),
        }
    });
    let cluster = Cluster::shared().await?;
    let proxy = ApiProxy::after(cluster.client().await?, before).await?;
    let settings = [proxy.setting(), ("PERSONA_API_TIMEOUT", "3s")];
    let operator = Operator::start_in(cluster, "hangs", &settings).await?;
    let pool = json!({"replicas": 1, "minReplicas": 1, "maxReplicas": 1});
    operator.pool("mine", pool).await?;
    operator.ready::<WorkerPool>("mine").await?;
    assert!(made.load(Ordering::Acquire) > 1, "no request hung");
    operator.stop().await
}
