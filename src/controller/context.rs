//! What all reconcilers share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};

use super::access::Access;
use super::assignment::belongs_to;
use super::bells::Bells;
use super::contact::Contact;
use super::latest::Latest;
use super::metrics::Metrics;
use super::nodes::Nodes;
use super::observer::Observer;
use super::pods::Pods;
use super::routes::Routes;
use super::slices::Slices;
use super::sources::Sources;
use super::{Options, pool, topology};
use crate::api::{Persona, PersonaTopology, WorkerPool, names};
use crate::lock::lock;
use crate::queue::Queue;
use crate::telemetry::Health;

/// What all reconcilers share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The queue, as its administrator.
    pub queue: Queue,
    /// What claims the queue's prefix.
    pub cluster_id: String,
    /// The process's settings.
    pub options: Options,
    /// The three kinds as the watches show them.
    pub stores: Stores,
    /// The worker pods.
    pub pods: Pods,
    /// Nodes that lose their pods.
    pub nodes: Nodes,
    /// GPUs that drivers publish.
    pub slices: Slices,
    /// The latest numbers of pools.
    pub observer: Observer,
    /// Numbers from elsewhere.
    pub sources: Sources,
    /// Wake-ups.
    pub bells: Bells,
    /// The state of the queue.
    pub contact: Contact,
    /// Users of the queue.
    pub access: Access,
    /// What the queue was told.
    pub routes: Routes,
    /// What sizing remembers of each pool.
    pub pool_memory: Mutex<HashMap<(String, String), pool::Memory>>,
    /// What is remembered of each namespace's topology.
    pub topology_memory: Mutex<HashMap<String, topology::Memory>>,
    /// Events for `kubectl describe`.
    pub recorder: Recorder,
    /// What Prometheus reads.
    pub metrics: Metrics,
    /// Liveness of the loops.
    pub health: Health,
}

impl AsRef<Metrics> for Context {
    fn as_ref(&self) -> &Metrics {
        &self.metrics
    }
}

/// The three kinds, each with what this process wrote last, and the budgets of pools.
pub struct Stores {
    /// Personas.
    pub personas: Store<Persona>,
    /// Pools.
    pub pools: Store<WorkerPool>,
    /// Topologies.
    pub topologies: Store<PersonaTopology>,
    /// Disruption budgets that the operator made. Nobody waits until they were listed.
    pub budgets: Store<PodDisruptionBudget>,
    /// Statuses of personas that were written.
    pub written_personas: Latest<Persona>,
    /// Pools that were written.
    pub written_pools: Latest<WorkerPool>,
    /// Topologies that were written.
    pub written_topologies: Latest<PersonaTopology>,
    /// All were listed once.
    pub synced: tokio::sync::watch::Sender<bool>,
}

impl Stores {
    /// Whether all kinds were listed once.
    pub fn synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until all kinds were listed once.
    pub async fn wait_until_synced(&self) {
        // The sender is ours, so it is there.
        self.synced
            .subscribe()
            .wait_for(|synced| *synced)
            .await
            .ok();
    }

    /// A pool.
    pub fn pool(&self, namespace: &str, name: &str) -> Option<Arc<WorkerPool>> {
        let pool = self.pools.get(&ObjectRef::new(name).within(namespace))?;
        Some(self.written_pools.of(pool))
    }

    /// The pools of a namespace.
    pub fn pools_of(&self, namespace: &str) -> impl Iterator<Item = Arc<WorkerPool>> {
        let pools = in_namespace(&self.pools, namespace);
        pools.into_iter().map(|pool| self.written_pools.of(pool))
    }

    /// A persona.
    pub fn persona(&self, namespace: &str, name: &str) -> Option<Arc<Persona>> {
        let persona = self.personas.get(&ObjectRef::new(name).within(namespace))?;
        Some(self.written_personas.of(persona))
    }

    /// The personas of a namespace.
    pub fn personas_of(&self, namespace: &str) -> impl Iterator<Item = Arc<Persona>> {
        let personas = in_namespace(&self.personas, namespace);
        personas
            .into_iter()
            .map(|persona| self.written_personas.of(persona))
    }

    /// The topology of a namespace.
    pub fn topology(&self, namespace: &str) -> Option<Arc<PersonaTopology>> {
        let name = ObjectRef::new(names::TOPOLOGY_NAME).within(namespace);
        Some(self.written_topologies.of(self.topologies.get(&name)?))
    }
}

fn in_namespace<K>(store: &Store<K>, namespace: &str) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone,
{
    store.state_filter(|object| object.meta().namespace.as_deref() == Some(namespace))
}

impl Context {
    /// Whether this process serves the namespace.
    pub fn watches(&self, namespace: &str) -> bool {
        self.options
            .watch_namespace
            .as_deref()
            .is_none_or(|only| only == namespace)
    }

    /// Wakes the personas that are routed to the pool or belong there.
    pub async fn wake_personas_of(&self, namespace: &str, pool: &str) {
        let topology = self.stores.topology(namespace);
        for persona in self.stores.personas_of(namespace) {
            if belongs_to(&persona, pool, topology.as_deref()) {
                self.bells.persona(namespace, &persona.name_any()).await;
            }
        }
    }

    /// Wakes everything in a namespace.
    pub async fn wake_namespace(&self, namespace: &str) {
        self.bells.topology(namespace).await;
        for pool in self.stores.pools_of(namespace) {
            self.bells.pool(namespace, &pool.name_any()).await;
        }
        for persona in self.stores.personas_of(namespace) {
            self.bells.persona(namespace, &persona.name_any()).await;
        }
    }

    /// Wakes everything.
    pub async fn wake_all(&self) {
        let mut namespaces: Vec<String> = self
            .stores
            .personas
            .state()
            .iter()
            .filter_map(|persona| persona.namespace())
            .chain(
                self.stores
                    .pools
                    .state()
                    .iter()
                    .filter_map(|p| p.namespace()),
            )
            .chain(
                self.stores
                    .topologies
                    .state()
                    .iter()
                    .filter_map(|t| t.namespace()),
            )
            .collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        for namespace in namespaces {
            self.wake_namespace(&namespace).await;
        }
    }

    /// The pool is gone, and with it what is remembered of it.
    pub fn forget_pool(&self, namespace: &str, pool: &str) {
        self.metrics.forget_pool(namespace, pool);
        self.observer.forget(namespace, pool);
        let mut memory = lock(&self.pool_memory);
        memory.remove(&(namespace.to_owned(), pool.to_owned()));
    }

    /// Asks for fresh numbers of a namespace's pools.
    pub fn look_at_pools(&self, namespace: &str) {
        for pool in self.stores.pools_of(namespace) {
            self.observer.look(namespace, &pool.name_any());
        }
    }

    /// Tells people. Events are a courtesy: one that cannot be written is only logged.
    pub async fn tell<K>(&self, object: &K, news: News)
    where
        K: Resource<DynamicType = ()>,
    {
        let event = Event {
            type_: if news.is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: news.reason.to_owned(),
            note: Some(news.note.chars().take(1000).collect()),
            action: news.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(%error, reason = news.reason, "an event could not be written");
        }
    }
}

/// Something a person would want to see in `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Something is wrong.
    pub is_warning: bool,
    /// CamelCase word.
    pub reason: &'static str,
    /// What was being done, CamelCase.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

impl News {
    /// Something went as it should.
    pub fn normal(reason: &'static str, action: &'static str, note: impl Into<String>) -> Self {
        Self {
            is_warning: false,
            reason,
            action,
            note: note.into(),
        }
    }

    /// Something is wrong.
    pub fn warning(reason: &'static str, action: &'static str, note: impl Into<String>) -> Self {
        Self {
            is_warning: true,
            ..Self::normal(reason, action, note)
        }
    }
}

/// Whether an object asks us not to touch it.
pub fn is_paused<K: Resource>(object: &K) -> bool {
    object
        .annotations()
        .get(names::ANNOTATION_PAUSED)
        .is_some_and(|value| value == "true")
}

/// Now, as conditions and planners take it.
pub fn now() -> Timestamp {
    Timestamp::now()
}
