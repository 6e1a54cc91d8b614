//! Two controllers, of which the one that leads is killed while a pool waits to shrink.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use persona_operator::api::WorkerPool;
use serde_json::{Value, json};
use testbed::Component;
use testbed::net::Port;
use testbed::probe::Probe;
use testbed::run_dir::RunDir;

use crate::harness::{Operator, condition};

const POOL: &str = "mine";
/// Idle workers, of which one stays.
const WORKERS: i32 = 3;
/// No worker goes before it was surplus for so long.
const WINDOW: SignedDuration = SignedDuration::from_secs(20);

/// One more controller of the same lease, and the port that it serves at.
async fn second(operator: &Operator) -> Result<(Component, Port)> {
    let port = Port::free()?;
    let listen = format!("127.0.0.1:{}", port.number());
    let mut spec = operator.controller.spec().clone();
    spec.name = format!("{}-second", operator.namespace);
    spec.probe = Probe::Http(format!("http://{listen}/readyz"));
    let spec = spec.env("PERSONA_LISTEN", listen).env("POD_NAME", "second");
    let component = Component::start(spec, &RunDir::current()?.logs())?;
    component.ready().await?;
    Ok((component, port))
}

/// Whoever holds the lease is a pod of this name.
fn held_by(pod: &'static str) -> impl Fn(Option<&Lease>) -> bool {
    move |lease| {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        holder.is_some_and(|holder| holder.split('_').next() == Some(pod))
    }
}

/// So many are wanted, and that number is followed.
fn wants(size: i32) -> impl Fn(Option<&WorkerPool>) -> bool {
    move |pool| {
        let Some(pool) = pool else { return false };
        let desired = pool.status.as_ref().map(|status| status.desired_replicas);
        let follows = condition(pool, "ScalingActive").as_deref() == Some("True");
        follows && desired == Some(size)
    }
}

/// Returns once fewer are wanted, or a worker goes.
async fn shrinks(operator: &Operator, pods: &[Pod]) -> Result<()> {
    let fewer = |pool: Option<&WorkerPool>| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status.is_none_or(|status| status.desired_replicas < WORKERS)
    };
    let going = |pod: Option<&Pod>| pod.is_none_or(|p| p.metadata.deletion_timestamp.is_some());
    let names: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
    let goes = names
        .iter()
        .map(|name| Box::pin(operator.until(name, "going", going)));
    tokio::select! {
        pool = operator.until(POOL, "smaller", fewer) => pool.map(drop),
        (pod, _, _) = futures::future::select_all(goes) => pod.map(drop),
    }
}

#[tokio::test]
async fn a_new_leader_shrinks_a_pool_a_full_window_after_it_took_over() -> Result<()> {
    let operator = Operator::start("failover").await?;
    operator
        .pool(
            POOL,
            json!({
                "replicas": WORKERS, "minReplicas": 1, "maxReplicas": WORKERS, "idleTimeout": "1s",
                "scaling": {"behavior": {"scaleDown": {
                    "stabilizationWindowSeconds": WINDOW.as_secs(),
                }}},
            }),
        )
        .await?;
    let ready = |size: i32| {
        move |pool: Option<&WorkerPool>| {
            let status = pool.and_then(|pool| pool.status.as_ref());
            status.is_some_and(|s| s.ready_replicas == size && s.replicas == size)
        }
    };
    operator.until(POOL, "large", ready(WORKERS)).await?;
    let leases = operator.all::<Lease>().list(&ListParams::default()).await?;
    let lease = leases.items.first().context("no lease")?.name_any();
    operator
        .until(&lease, "held by the first", held_by("controller"))
        .await?;
    let (second, _port) = second(&operator).await?;

    // From now on two workers are surplus.
    let unpinned: WorkerPool = operator
        .patch(POOL, json!({"replicas": Value::Null}))
        .await?;
    assert_eq!(unpinned.spec.replicas, None);
    operator
        .until(POOL, "no longer pinned", wants(WORKERS))
        .await?;
    operator.controller.kill().await?;
    let pods = operator.pods(POOL).await?;
    assert_eq!(i32::try_from(pods.len())?, WORKERS, "the first was slow");
    let shrinking = async {
        shrinks(&operator, &pods).await?;
        anyhow::Ok(Timestamp::now())
    };
    let taking_over = operator.until(&lease, "held by the second", held_by("second"));
    let (shrunk, lease) = tokio::join!(shrinking, taking_over);
    let (shrunk, lease) = (shrunk?, lease?.context("the lease is gone")?);
    let spec = lease.spec.context("a lease without spec")?;
    let took_over = spec.acquire_time.context("nobody has it")?.0;
    let waited = shrunk.duration_since(took_over);
    ensure!(
        waited >= WINDOW,
        "it shrank {waited:?} after it had taken over\n{}",
        second.last_words()
    );
    operator.until(POOL, "small", ready(1)).await?;
    second.stop(Duration::from_secs(10)).await?;
    operator.stop().await
}
