//! What the autoscalers of nodes are told of a pool's workers: which may be disturbed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::select_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use persona_operator::api::{Persona, WorkerPool};
use serde_json::json;
use testbed::upstream::{Step, Upstream, stream_head, token};

use crate::harness::Operator;

const POOL: &str = "mine";

/// What a pod's annotations say to the cluster autoscaler, and to Karpenter.
fn told(pod: &Pod) -> (Option<&str>, Option<&str>) {
    let of = |name: &str| pod.annotations().get(name).map(String::as_str);
    (
        of("cluster-autoscaler.kubernetes.io/safe-to-evict"),
        of("karpenter.sh/do-not-disrupt"),
    )
}

fn busy(pod: Option<&Pod>) -> bool {
    pod.is_some_and(|pod| told(pod) == (Some("false"), Some("true")))
}

fn idle(pod: Option<&Pod>) -> bool {
    pod.is_some_and(|pod| told(pod) == (Some("true"), None))
}

#[tokio::test]
async fn a_worker_is_not_to_be_disturbed_while_it_is_busy_and_may_be_when_it_was_idle_for_a_while()
-> Result<()> {
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("begun"),
        Step::Hang,
    ])
    .await;
    let operator = Operator::start("disturbed").await?;
    // Whose drainTimeout is set is not rolled for the persona's long timeout.
    let spec =
        json!({"minReplicas": 2, "maxReplicas": 2, "slotsPerWorker": 1, "drainTimeout": "60s"});
    operator.pool(POOL, spec).await?;
    let more = json!({"poolRef": {"name": POOL}, "timeout": "5m"});
    operator.persona("helper", &model.base_url(), more).await?;
    operator.ready::<Persona>("helper").await?;
    let two = |pool: Option<&WorkerPool>| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status.is_some_and(|status| status.ready_replicas == 2)
    };
    operator.until(POOL, "ready", two).await?;

    let asked = Instant::now();
    let mut stream = operator.ask("helper", json!({"stream": true})).await?;
    model.until("the task", |counts| counts.open == 1).await;
    let names: Vec<_> = operator.pods(POOL).await?;
    let names: Vec<_> = names.iter().map(ResourceExt::name_any).collect();
    let either = names
        .iter()
        .map(|name| Box::pin(operator.until(name, "busy", busy)));
    let (pod, _, _) = select_all(either).await;
    assert!(
        asked.elapsed() >= Duration::from_secs(5),
        "short work costs a write"
    );
    let worker = pod?.context("it is gone")?.name_any();
    let other = names.iter().find(|name| **name != worker);
    let other = other.context("one worker only")?;
    operator.until(other, "idle", idle).await?;
    stream.chunk().await?.context("the stream has ended")?;
    let found: Pod = operator.all().get(&worker).await?;
    assert!(busy(Some(&found)), "it still works: {:?}", told(&found));

    // Who asked goes away, and the task is given up.
    let released = Instant::now();
    drop(stream);
    model.until("the end", |counts| counts.open == 0).await;
    operator.until(&worker, "idle", idle).await?;
    assert!(
        released.elapsed() >= Duration::from_secs(30),
        "it was idle for a moment"
    );
    operator.stop().await
}
