//! What others do to pools at the very moment at which the topology makes them or takes them away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use axum::http::Method;
use futures::FutureExt;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::{Value, json};
use testbed::Cluster;
use tokio::sync::Mutex;

use crate::api_proxy::{ApiProxy, Meanwhile};
use crate::harness::{Operator, condition, node, reason};
use crate::midway::home;
use crate::webhook::Webhook;

/// Nobody calls it: these tests ask nothing.
const ENDPOINT: &str = "http://127.0.0.1:9/v1";
/// The pool of all in Generic.
const SHARED: &str = "generic-api-80e4c060";

/// An operator whose controller reaches the API server after `before`.
async fn behind(name: &str, before: Meanwhile) -> Result<(Operator, ApiProxy)> {
    node().await?;
    let cluster = Cluster::shared().await?;
    let proxy = ApiProxy::after(cluster.client().await?, before).await?;
    Ok((
        Operator::start_in(cluster, name, &[proxy.setting()]).await?,
        proxy,
    ))
}

async fn mode(operator: &Operator, mode: Phase) -> Result<()> {
    let spec = json!({"mode": mode.as_str()});
    operator.patch::<PersonaTopology>("default", spec).await?;
    Ok(())
}

async fn gone(operator: &Operator, pool: &str) -> Result<()> {
    let gone = |pool: Option<&WorkerPool>| pool.is_none();
    operator.until(pool, "gone", gone).await?;
    Ok(())
}

fn is_of(path: &str, pool: &str) -> bool {
    path.ends_with(&format!("/workerpools/{pool}"))
}

/// Sees to it that the shared pool is wanted again, as a controller that leads since would: the pool is
/// changed too, though not in its spec.
async fn want_again(operator: &Operator) -> Result<()> {
    mode(operator, Phase::Generic).await?;
    let change = Patch::Merge(json!({"metadata": {"annotations": {"example.com/by": "another"}}}));
    let pools = operator.all::<WorkerPool>();
    pools
        .patch(SHARED, &PatchParams::default(), &change)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_pool_that_is_wanted_again_after_it_was_closed_is_not_deleted() -> Result<()> {
    let (operator, is_armed) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
    let (at, armed) = (operator.clone(), is_armed.clone());
    let before: Meanwhile = Arc::new(move |method, path| {
        let watched = is_of(path, SHARED) && armed.load(Ordering::Acquire);
        let (at, armed, is_end) = (at.clone(), armed.clone(), *method == Method::DELETE);
        async move {
            let guard = at.lock().await;
            let Some(operator): Option<&Operator> = guard.as_ref().filter(|_| watched) else {
                return;
            };
            let open = async { anyhow::Ok(operator.queue()?.pools().await?) };
            let open = open.await.expect("the queue answers");
            if (is_end || !open.iter().any(|pool| pool == SHARED))
                && armed.swap(false, Ordering::AcqRel)
            {
                want_again(operator).await.expect("it is changed");
            }
        }
        .boxed()
    });
    let (started, _proxy) = behind("wanted-again", before).await?;
    *operator.lock().await = Some(started.clone());
    let operator = started;
    operator.share(json!({"mode": "Generic"})).await?;
    operator.persona("helper", ENDPOINT, json!({})).await?;
    ensure!(home(&operator, "helper", Phase::Generic).await? == SHARED);
    let uid = operator.all::<WorkerPool>().get(SHARED).await?.uid();
    is_armed.store(true, Ordering::Release);
    mode(&operator, Phase::PerPersona).await?;
    let again = |pool: Option<&WorkerPool>| {
        pool.is_some_and(|pool| pool.annotations().contains_key("example.com/by"))
    };
    operator.until(SHARED, "wanted again", again).await?;
    ensure!(home(&operator, "helper", Phase::Generic).await? == SHARED);
    let still = operator.all::<WorkerPool>().get(SHARED).await?.uid();
    assert_eq!(still, uid, "it was deleted and made again");
    operator.stop().await
}

#[tokio::test]
async fn a_pool_that_somebody_makes_at_the_same_moment_is_not_adopted() -> Result<()> {
    // Somebody's pool, made just before the controller's write of that name.
    let theirs: Arc<Mutex<Option<(Operator, Value)>>> = Arc::default();
    let waiting = theirs.clone();
    let before: Meanwhile = Arc::new(move |method, path| {
        let is_write = *method == Method::PATCH && is_of(path, SHARED);
        let waiting = waiting.clone();
        async move {
            let next = if is_write {
                waiting.lock().await.take()
            } else {
                None
            };
            if let Some((operator, spec)) = next {
                operator.pool(SHARED, spec).await.expect("it is made");
            }
        }
        .boxed()
    });
    let (operator, _proxy) = behind("same-moment", before).await?;
    operator.share(json!({"mode": "Generic"})).await?;
    operator.persona("helper", ENDPOINT, json!({})).await?;
    ensure!(home(&operator, "helper", Phase::Generic).await? == SHARED);
    let pools = operator.all::<WorkerPool>();
    let mut same = serde_json::to_value(pools.get(SHARED).await?.spec)?;
    same["warmReplicas"] = json!(1);
    for spec in [same, json!({"maxReplicas": 3})] {
        mode(&operator, Phase::PerPersona).await?;
        home(&operator, "helper", Phase::PerPersona).await?;
        gone(&operator, SHARED).await?;
        *theirs.lock().await = Some((operator.clone(), spec.clone()));
        mode(&operator, Phase::Generic).await?;
        let held = |p: Option<&Persona>| {
            p.and_then(|p| reason(p, "Routed")).as_deref() == Some("PoolNameTaken")
        };
        operator.until("helper", "held back", held).await?;
        // The persona may say so while what was applied is still being taken back; the topology, whose
        // visits follow one another, only after that.
        let in_the_way = |topology: Option<&PersonaTopology>| {
            topology.and_then(|t| reason(t, "Ready")).as_deref() == Some("PoolNameTaken")
        };
        operator.until("default", "told of it", in_the_way).await?;
        let found = pools.get(SHARED).await?;
        let mine: WorkerPool = serde_json::from_value(json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": SHARED},
            "spec": spec,
        }))?;
        assert_eq!(found.spec, mine.spec);
        assert!(
            found.labels().is_empty() && found.annotations().is_empty(),
            "{found:?}"
        );
        pools.delete(SHARED, &DeleteParams::default()).await?;
        ensure!(home(&operator, "helper", Phase::Generic).await? == SHARED);
    }
    operator.stop().await
}

#[tokio::test]
async fn a_pool_that_may_not_be_deleted_is_told_and_keeps_no_other() -> Result<()> {
    let operator = Operator::start("protected").await?;
    operator.share(json!({"mode": "PerPersona"})).await?;
    let mut own = Vec::new();
    for name in ["a", "b"] {
        operator.persona(name, ENDPOINT, json!({})).await?;
        own.push(home(&operator, name, Phase::PerPersona).await?);
    }
    // The first in the order in which they are taken away.
    own.sort();
    let words = "this pool is under protection";
    let place = (operator.namespace.as_str(), own[0].as_str());
    let webhook = Webhook::protect(&operator.client, place, words).await?;
    mode(&operator, Phase::Generic).await?;
    gone(&operator, &own[1]).await?;
    let told = |t: Option<&PersonaTopology>| {
        let conditions = t.and_then(|t| t.status.as_ref()).map(|s| &s.conditions);
        let mut conditions = conditions.into_iter().flatten();
        conditions
            .any(|c| c.type_ == "Stable" && c.reason == "PoolRefused" && c.message.contains(words))
    };
    let topology = operator.until("default", "told", told).await?;
    let ready = topology.and_then(|t| condition(&t, "Ready"));
    assert_eq!(ready.as_deref(), Some("True"));
    webhook.remove().await?;
    gone(&operator, &own[0]).await?;
    let stable = |t: Option<&PersonaTopology>| {
        t.is_some_and(|t| condition(t, "Stable").as_deref() == Some("True"))
    };
    operator.until("default", "stable", stable).await?;
    operator.stop().await
}
