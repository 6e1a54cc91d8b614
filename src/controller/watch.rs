//! Watches: they keep the stores and ring for whom a change concerns.
//!
//! A change concerns another kind only by what that one decides on (spec, phase, pool, Ready), so that
//! live numbers in a status wake nobody.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::assignment::assigned_pool;
use super::contact::Removal;
use super::context::is_paused;
use super::{Context, topology};
use crate::api::condition::READY;
use crate::api::names::{LABEL_MANAGED_BY, LABEL_POOL, MANAGER};
use crate::api::{Persona, PersonaTopology, WorkerPool};

/// The writing ends of the stores.
pub struct Writers {
    /// Personas.
    pub personas: Writer<Persona>,
    /// Pools.
    pub pools: Writer<WorkerPool>,
    /// Topologies.
    pub topologies: Writer<PersonaTopology>,
    /// Disruption budgets that the operator made.
    pub budgets: Writer<PodDisruptionBudget>,
}

/// Starts all watches; they end with the set.
pub fn start(cx: &Arc<Context>, writers: Writers, tasks: &mut JoinSet<()>) {
    let all = watcher::Config::default();
    tasks.spawn(follow_kind(
        cx.clone(),
        all.clone(),
        writers.personas,
        persona,
    ));
    tasks.spawn(follow_kind(cx.clone(), all.clone(), writers.pools, pool));
    tasks.spawn(follow_kind(
        cx.clone(),
        all.clone(),
        writers.topologies,
        topology,
    ));
    let ours = all.labels(&format!("{LABEL_MANAGED_BY}={MANAGER}"));
    tasks.spawn(follow_kind(cx.clone(), ours, writers.budgets, budget));
    tasks.spawn(follow_pods(cx.clone()));
    let options = &cx.options;
    if options
        .watch_nodes
        .unwrap_or(options.watch_namespace.is_none())
    {
        tasks.spawn(follow_nodes(cx.clone()));
        tasks.spawn(follow_slices(cx.clone()));
    }
    let cx = cx.clone();
    tasks.spawn(async move {
        let stores = &cx.stores;
        let ready = async {
            stores.personas.wait_until_ready().await?;
            stores.pools.wait_until_ready().await?;
            stores.topologies.wait_until_ready().await
        };
        if ready.await.is_ok() {
            cx.pods.wait_until_synced().await;
            stores.synced.send_replace(true);
            tracing::info!("all objects are known");
            cx.contact.hurry();
            cx.contact.sweep();
            cx.wake_all().await;
        }
    });
}

fn api<K>(cx: &Context) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    let client: Client = cx.client.clone();
    match &cx.options.watch_namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

/// What a change of one object means: before, after; `after` is none when it was deleted.
type Hear<K> =
    for<'a> fn(&'a Context, Option<Arc<K>>, Option<&'a K>) -> futures::future::BoxFuture<'a, ()>;

async fn follow_kind<K>(
    cx: Arc<Context>,
    config: watcher::Config,
    mut writer: Writer<K>,
    hear: Hear<K>,
) where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let mut events = watcher(api::<K>(&cx), config).default_backoff().boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                for (before, after) in take_in(&mut writer, &event) {
                    hear(&cx, before, after).await;
                }
                if matches!(event, Event::InitDone) && cx.stores.synced() {
                    cx.wake_all().await;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, kind = %K::kind(&()), "a watch broke, it begins again");
            }
        }
    }
}

/// Puts an event into the store. Answers what changed: before, after; none = there is or was no such object.
fn take_in<'a, K>(
    writer: &mut Writer<K>,
    event: &'a Event<K>,
) -> Vec<(Option<Arc<K>>, Option<&'a K>)>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let store = writer.as_reader();
    let before = match event {
        Event::Apply(object) | Event::Delete(object) => {
            store.get(&ObjectRef::from(object)).into_iter().collect()
        }
        Event::InitDone => store.state(),
        Event::Init | Event::InitApply(_) => Vec::new(),
    };
    writer.apply_watcher_event(event);
    match event {
        Event::Apply(object) => vec![(before.into_iter().next(), Some(object))],
        Event::Delete(object) => {
            let before = before.into_iter().next();
            vec![(
                Some(before.unwrap_or_else(|| Arc::new(object.clone()))),
                None,
            )]
        }
        // A watch that begins anew does not tell what was deleted in between, or made anew.
        Event::InitDone => {
            let is_gone = |object: &Arc<K>| {
                let now = store.get(&ObjectRef::from(&**object));
                now.is_none_or(|now| now.meta().uid != object.meta().uid)
            };
            let gone = before.into_iter().filter(is_gone);
            gone.map(|object| (Some(object), None)).collect()
        }
        Event::Init | Event::InitApply(_) => Vec::new(),
    }
}

async fn follow_pods(cx: Arc<Context>) {
    let config =
        watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGER},{LABEL_POOL}"));
    let mut events = watcher(api::<Pod>(&cx), config).default_backoff().boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                let change = cx.pods.hear(event);
                for loss in change.losses {
                    cx.contact.lost(loss);
                }
                for (namespace, pool) in change.pools {
                    // A worker registers before its pod is Ready.
                    cx.observer.look(&namespace, &pool);
                    cx.bells.pool(&namespace, &pool).await;
                }
            }
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, kind = "Pod", "a watch broke, it begins again"),
        }
    }
}

async fn follow_nodes(cx: Arc<Context>) {
    let nodes: Api<Node> = Api::all(cx.client.clone());
    let mut events = watcher(nodes, watcher::Config::default())
        .default_backoff()
        .boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                let changed = cx.nodes.hear(&event);
                for (namespace, pool) in cx.pods.pools_on(&changed) {
                    cx.bells.pool(&namespace, &pool).await;
                }
            }
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, kind = "Node", "a watch broke, it begins again"),
        }
    }
}

async fn follow_slices(cx: Arc<Context>) {
    let slices: Api<ResourceSlice> = Api::all(cx.client.clone());
    // Clusters before 1.34 do not have them, and there no pool can claim a device either.
    if let Err(kube::Error::Api(status)) = slices.list(&ListParams::default().limit(1)).await
        && status.code == 404
    {
        tracing::info!("the cluster has no resource slices: device classes cannot be used");
        return;
    }
    let mut events = watcher(slices, watcher::Config::default())
        .default_backoff()
        .boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => cx.slices.hear(&event),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, kind = "ResourceSlice", "a watch broke, it begins again");
            }
        }
    }
}

/// What people change in an object.
fn intent<K: Resource>(object: &K) -> (Option<i64>, bool, bool, Option<&str>) {
    let meta = object.meta();
    (
        meta.generation,
        is_paused(object),
        meta.deletion_timestamp.is_some(),
        meta.uid.as_deref(),
    )
}

fn persona<'a>(
    cx: &'a Context,
    before: Option<Arc<Persona>>,
    after: Option<&'a Persona>,
) -> futures::future::BoxFuture<'a, ()> {
    Box::pin(async move {
        let Some(object) = after.or(before.as_deref()) else {
            return;
        };
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let routed = |p: &Persona| p.status.as_ref().and_then(|s| s.pool.clone());
        let intended = before.as_deref().map(intent) != after.map(intent);
        let moved = before.as_deref().and_then(routed) != after.and_then(routed);
        if let (Some(before), None) = (&before, after) {
            cx.stores.written_personas.forget(before);
            cx.contact.removed(Removal {
                namespace: namespace.clone(),
                persona: name.clone(),
                uid: before.uid().unwrap_or_default(),
            });
        }
        if intended {
            cx.bells.persona(&namespace, &name).await;
        }
        if intended || moved {
            cx.bells.topology(&namespace).await;
            let topology = cx.stores.topology(&namespace);
            let mut pools: Vec<String> = [before.as_deref(), after]
                .into_iter()
                .flatten()
                .flat_map(|p| [routed(p), assigned_pool(p, topology.as_deref())])
                .flatten()
                .collect();
            pools.sort_unstable();
            pools.dedup();
            for pool in pools {
                cx.bells.pool(&namespace, &pool).await;
            }
        }
    })
}

fn pool<'a>(
    cx: &'a Context,
    before: Option<Arc<WorkerPool>>,
    after: Option<&'a WorkerPool>,
) -> futures::future::BoxFuture<'a, ()> {
    Box::pin(async move {
        let Some(object) = after.or(before.as_deref()) else {
            return;
        };
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let intended = before.as_deref().map(intent) != after.map(intent);
        if after.is_none() {
            cx.forget_pool(&namespace, &name);
            cx.contact.pool_gone(&namespace, &name);
            cx.stores.written_pools.forget(object);
        } else if intended {
            cx.bells.pool(&namespace, &name).await;
        }
        if intended || before.as_deref().map(serves) != after.map(serves) {
            cx.bells.topology(&namespace).await;
            cx.wake_personas_of(&namespace, &name).await;
        }
    })
}

/// What personas and topology wait for.
fn serves(pool: &WorkerPool) -> (Option<String>, Option<i64>, Option<i32>) {
    let Some(status) = &pool.status else {
        return (None, None, None);
    };
    let ready = status.conditions.iter().find(|c| c.type_ == READY);
    let warm = pool.spec.warm_replicas.map(|_| status.ready_replicas);
    (
        ready.map(|c| c.status.clone()),
        status.observed_generation,
        warm,
    )
}

fn topology<'a>(
    cx: &'a Context,
    before: Option<Arc<PersonaTopology>>,
    after: Option<&'a PersonaTopology>,
) -> futures::future::BoxFuture<'a, ()> {
    Box::pin(async move {
        let Some(object) = after.or(before.as_deref()) else {
            return;
        };
        let namespace = object.namespace().unwrap_or_default();
        if after.is_none() {
            cx.metrics.forget_topology(&namespace);
            topology::forget(cx, &namespace);
            cx.stores.written_topologies.forget(object);
        } else if before.as_deref().map(intent) != after.map(intent) {
            cx.bells.topology(&namespace).await;
        }
        let decided = |t: &PersonaTopology| {
            let status = t.status.as_ref()?;
            Some((status.phase, status.epoch, status.pools.clone()))
        };
        if before.as_deref().map(decided) != after.map(decided) {
            for persona in cx.stores.personas_of(&namespace) {
                cx.bells.persona(&namespace, &persona.name_any()).await;
            }
            for pool in cx.stores.pools_of(&namespace) {
                cx.bells.pool(&namespace, &pool.name_any()).await;
            }
        }
    })
}

/// A pool's budget has its name.
fn budget<'a>(
    cx: &'a Context,
    before: Option<Arc<PodDisruptionBudget>>,
    after: Option<&'a PodDisruptionBudget>,
) -> futures::future::BoxFuture<'a, ()> {
    Box::pin(async move {
        let Some(object) = after.or(before.as_deref()) else {
            return;
        };
        if before.as_deref().map(intent) != after.map(intent) {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            cx.bells.pool(&namespace, &name).await;
        }
    })
}

#[cfg(test)]
mod tests;
