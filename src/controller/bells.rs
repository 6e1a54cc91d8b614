//! Which object is to be looked at: from watches, from the queue and from one reconciler to another.

use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

use crate::api::{Persona, PersonaTopology, WorkerPool, names};

/// Wake-ups that wait for a reconciler; who rings more waits.
const ROOM: usize = 1024;

/// Rings for the three reconcilers. Ringing twice before the reconciler came is one visit.
#[derive(Clone)]
pub struct Bells {
    personas: mpsc::Sender<ObjectRef<Persona>>,
    pools: mpsc::Sender<ObjectRef<WorkerPool>>,
    topologies: mpsc::Sender<ObjectRef<PersonaTopology>>,
}

/// The reconcilers' ends.
pub struct Visits {
    /// Personas to visit.
    pub personas: mpsc::Receiver<ObjectRef<Persona>>,
    /// Pools to visit.
    pub pools: mpsc::Receiver<ObjectRef<WorkerPool>>,
    /// Topologies to visit.
    pub topologies: mpsc::Receiver<ObjectRef<PersonaTopology>>,
}

impl Bells {
    /// Both ends.
    pub fn new() -> (Self, Visits) {
        let (personas, to_personas) = mpsc::channel(ROOM);
        let (pools, to_pools) = mpsc::channel(ROOM);
        let (topologies, to_topologies) = mpsc::channel(ROOM);
        let visits = Visits {
            personas: to_personas,
            pools: to_pools,
            topologies: to_topologies,
        };
        let bells = Self {
            personas,
            pools,
            topologies,
        };
        (bells, visits)
    }

    /// Look at this persona.
    pub async fn persona(&self, namespace: &str, name: &str) {
        ring(&self.personas, ObjectRef::new(name).within(namespace)).await;
    }

    /// Look at this pool.
    pub async fn pool(&self, namespace: &str, name: &str) {
        ring(&self.pools, ObjectRef::new(name).within(namespace)).await;
    }

    /// Look at the topology of this namespace.
    pub async fn topology(&self, namespace: &str) {
        let topology = ObjectRef::new(names::TOPOLOGY_NAME).within(namespace);
        ring(&self.topologies, topology).await;
    }
}

async fn ring<T>(bell: &mpsc::Sender<T>, visit: T) {
    // The reconcilers go before the watches when the process ends; then nobody needs to come.
    if bell.send(visit).await.is_err() {
        tracing::debug!("a wake-up came after the reconcilers had ended");
    }
}
