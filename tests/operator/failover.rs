//! Two controllers, of which the one that leads hangs while a pool waits to shrink, and goes on when
//! another leads. Controllers whose requests for the lease are answered late, or not at all, or find it
//! changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::http::Method;
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
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

/// One more controller of the same lease with these settings, and the port that it serves at.
async fn second(operator: &Operator, settings: &[(&str, &str)]) -> Result<(Component, Port)> {
    let port = Port::free()?;
    let listen = format!("127.0.0.1:{}", port.number());
    let mut spec = operator.controller.spec().clone();
    spec.name = format!("{}-second", operator.namespace);
    spec.probe = Probe::Http(format!("http://{listen}/readyz"));
    let mut spec = spec.env("PERSONA_LISTEN", listen).env("POD_NAME", "second");
    for (name, value) in settings {
        spec = spec.env(*name, *value);
    }
    let component = Component::start(spec, &RunDir::current()?.logs())?;
    component.ready().await?;
    Ok((component, port))
}

async fn the_lease(operator: &Operator) -> Result<Lease> {
    let leases = operator.all::<Lease>().list(&ListParams::default()).await?;
    leases.items.into_iter().next().context("no lease")
}

fn renewed(lease: &Lease) -> Result<Timestamp> {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
    Ok(renewed.context("nobody holds the lease")?.0)
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
    let lease = the_lease(&operator).await?.name_any();
    operator
        .until(&lease, "held by the first", held_by("controller"))
        .await?;
    let (second, _port) = second(&operator, &[]).await?;

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
    // Late, though in time for the leader to go on; all that it asks for after that is too late. If it
    // counted from the answer, it would lead for three seconds longer than the lease lasts.
    let [lease, deadline, late] = [25, 20, 8].map(Duration::from_secs);
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
    let settings = [
        proxy.setting(),
        ("PERSONA_LEASE_DURATION", &format!("{lease:?}")),
        ("PERSONA_LEASE_RENEW_DEADLINE", &format!("{deadline:?}")),
    ];
    let operator = Operator::start_in(cluster, "late", &settings).await?;
    arm.store(true, Ordering::Release);
    let ended = timeout(PATIENCE, operator.controller.ended()).await??;
    let now = Timestamp::now();
    ensure!(!ended.success(), "{}", operator.controller.last_words());
    let led = now.duration_since(renewed(&the_lease(&operator).await?)?);
    ensure!(
        led < SignedDuration::try_from(lease)?,
        "it led for {led:?} after its last renewal\n{}",
        operator.controller.last_words()
    );
    operator.stop().await
}

#[tokio::test]
async fn a_lease_that_is_granted_too_late_makes_no_leader() -> Result<()> {
    // By then the lease that it asked for first is over. All that it asks for after that is never answered.
    let late = LEASE / 10 * 11;
    let operator = Operator::start("granted").await?;
    let (asks, mut asked) = tokio::sync::watch::channel(false);
    let meanwhile: Meanwhile = Arc::new(move |method, path| {
        if !path.contains("/leases/") || *method == Method::GET {
            return std::future::ready(()).boxed();
        }
        match asks.send_replace(true) {
            false => sleep(late).boxed(),
            true => std::future::pending().boxed(),
        }
    });
    let proxy = ApiProxy::late(Cluster::shared().await?.client().await?, meanwhile).await?;
    let (second, port) = second(&operator, &[proxy.setting()]).await?;
    operator.controller.stop(Duration::from_secs(10)).await?;
    timeout(PATIENCE, asked.wait_for(|asked| *asked)).await??;
    let over = Instant::now() + late + LEASE / 5;
    while Instant::now() < over {
        let leads = operator.metric_at(port.number(), "persona_leader ");
        ensure!(leads.await? == Some(0.0), "{}", second.last_words());
        sleep(Duration::from_millis(100)).await;
    }
    let lease = the_lease(&operator).await?;
    ensure!(held_by("second")(Some(&lease)), "it was never granted");
    second.stop(PATIENCE).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_controller_that_stands_by_takes_over_though_a_request_for_the_lease_hangs() -> Result<()>
{
    let operator = Operator::start("hanging").await?;
    let asked = AtomicBool::new(false);
    let before: Meanwhile = Arc::new(move |_, path| {
        match path.contains("/leases/") && !asked.swap(true, Ordering::AcqRel) {
            true => std::future::pending().boxed(),
            false => std::future::ready(()).boxed(),
        }
    });
    let proxy = ApiProxy::after(Cluster::shared().await?.client().await?, before).await?;
    let (second, _port) = second(&operator, &[proxy.setting()]).await?;
    let lease = the_lease(&operator).await?.name_any();
    operator.controller.kill().await?;
    operator
        .until(&lease, "held by the second", held_by("second"))
        .await?;
    second.stop(Duration::from_secs(10)).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_controller_that_stands_by_ends_though_its_request_for_the_lease_hangs() -> Result<()> {
    let operator = Operator::start("silent").await?;
    let (asks, mut asked) = tokio::sync::watch::channel(false);
    let before: Meanwhile = Arc::new(move |_, path| match path.contains("/leases/") {
        true => {
            asks.send_replace(true);
            std::future::pending().boxed()
        }
        false => std::future::ready(()).boxed(),
    });
    let proxy = ApiProxy::after(Cluster::shared().await?.client().await?, before).await?;
    let (second, _port) = second(&operator, &[proxy.setting()]).await?;
    timeout(PATIENCE, asked.wait_for(|asked| *asked)).await??;
    let ended = second.stop(PATIENCE).await?.context("it was gone")?;
    ensure!(ended.success(), "{ended}\n{}", second.last_words());
    operator.stop().await
}

#[tokio::test]
async fn a_leader_that_finds_its_lease_changed_by_others_leads_on() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let client = cluster.client().await?;
    let (armed, api) = (Arc::new(AtomicBool::new(false)), client.clone());
    let (arm, changed) = (armed.clone(), Arc::new(AtomicBool::new(false)));
    let has_changed = changed.clone();
    let before: Meanwhile = Arc::new(move |method, path| {
        let is_ours = path.contains("/leases/") && *method == Method::PUT;
        if !is_ours || !armed.swap(false, Ordering::AcqRel) {
            return std::future::ready(()).boxed();
        }
        // `/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}`
        let parts: Vec<_> = path.split('/').map(str::to_owned).collect();
        let (api, changed) = (api.clone(), changed.clone());
        async move {
            let leases: Api<Lease> = Api::namespaced(api, &parts[5]);
            let patch = Patch::Merge(json!({"metadata": {"annotations": {"of": "others"}}}));
            let params = PatchParams::default();
            let patched = leases.patch(&parts[7], &params, &patch).await;
            changed.store(patched.is_ok(), Ordering::Release);
        }
        .boxed()
    });
    let proxy = ApiProxy::after(client, before).await?;
    let operator = Operator::start_in(cluster, "changed", &[proxy.setting()]).await?;
    let lease = the_lease(&operator).await?.name_any();
    arm.store(true, Ordering::Release);
    let is_changed =
        |lease: Option<&Lease>| lease.is_some_and(|l| l.annotations().contains_key("of"));
    let found = operator.until(&lease, "changed", is_changed).await?;
    let since = renewed(&found.context("no lease")?)?;
    let renews = |lease: Option<&Lease>| lease.and_then(|l| renewed(l).ok()) > Some(since);
    operator.until(&lease, "renewed", renews).await?;
    ensure!(has_changed.load(Ordering::Acquire), "nobody changed it");
    let leads = operator.metric("persona_leader ").await?;
    ensure!(leads == Some(1.0), "{}", operator.controller.last_words());
    operator.stop().await
}
