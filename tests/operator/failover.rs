//! Two controllers, of which the one that leads hangs while a pool waits to shrink, and goes on when
//! another leads; and one whose renewal of the lease is answered late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::http::Method;
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use persona_operator::api::WorkerPool;
use serde_json::{Value, json};
use testbed::net::Port;
use testbed::probe::Probe;
use testbed::run_dir::RunDir;
use testbed::{Cluster, Component};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::api_proxy::{ApiProxy, Meanwhile};
use crate::harness::{LEASE, Operator, PATIENCE, condition};

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
    let surplus = Instant::now();
    operator.controller.pause()?;
    let pods = operator.pods(POOL).await?;
    assert_eq!(i32::try_from(pods.len())?, WORKERS, "the first was slow");
    let shrinking = async {
        shrinks(&operator, &pods).await?;
        anyhow::Ok(Timestamp::now())
    };
    let taking_over = async {
        let held = operator.until(&lease, "held by the second", held_by("second"));
        let lease = held.await?.context("the lease is gone")?;
        // By its own clock the window is over, and that of the new leader is not.
        sleep_until(surplus + WINDOW.unsigned_abs()).await;
        operator.controller.resume()?;
        let ended = timeout(PATIENCE, operator.controller.ended()).await??;
        ensure!(!ended.success(), "{}", operator.controller.last_words());
        Ok(lease)
    };
    let (shrunk, lease) = tokio::try_join!(shrinking, taking_over)?;
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

#[tokio::test]
async fn a_leader_whose_renewal_is_answered_late_is_gone_when_its_lease_is() -> Result<()> {
    // Late, though in time for the leader to go on; all that it asks for after that is too late.
    let late = LEASE / 10 * 7;
    let (armed, spent) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let arm = armed.clone();
    let meanwhile: Meanwhile = Arc::new(move |method, path| {
        if !path.contains("/leases/") || !armed.load(Ordering::Acquire) {
            return std::future::ready(()).boxed();
        }
        if *method == Method::PUT && !spent.swap(true, Ordering::AcqRel) {
            return sleep(late).boxed();
        }
        match spent.load(Ordering::Acquire) {
            true => std::future::pending().boxed(),
            false => std::future::ready(()).boxed(),
        }
    });
    let cluster = Cluster::shared().await?;
    let proxy = ApiProxy::late(cluster.client().await?, meanwhile).await?;
    let config = proxy.kubeconfig();
    let settings = [("KUBECONFIG", config.to_str().context("a path")?)];
    let operator = Operator::start_in(cluster, "late", &settings).await?;
    arm.store(true, Ordering::Release);
    let ended = timeout(PATIENCE, operator.controller.ended()).await??;
    let now = Timestamp::now();
    ensure!(!ended.success(), "{}", operator.controller.last_words());
    let leases = operator.all::<Lease>().list(&ListParams::default()).await?;
    let spec = leases.items.first().and_then(|lease| lease.spec.clone());
    let renewed = spec.and_then(|spec| spec.renew_time);
    let led = now.duration_since(renewed.context("it never led")?.0);
    ensure!(
        led < SignedDuration::try_from(LEASE)?,
        "it led for {led:?} after its last renewal\n{}",
        operator.controller.last_words()
    );
    operator.stop().await
}
