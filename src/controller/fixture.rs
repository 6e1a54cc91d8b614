//! Objects for tests, and a namespace to try plans in.

mod world;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use self::world::World;
use crate::api::condition::{self, READY, Verdict};
use crate::api::{
    Adapter, Mode, Persona, PersonaTopology, PersonaTopologySpec, PoolRef, SecretKeyRef,
    WorkerPool, WorkerPoolSpec, WorkerPoolStatus, names,
};

/// A point in time, in seconds.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("in range")
}

/// A persona on a remote model, with its name as uid.
pub fn a_persona(name: &str) -> Persona {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "persona.dev/v1alpha1",
        "kind": "Persona",
        "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "generation": 1},
        "spec": {"model": {"provider": "OpenAI", "name": "m"}},
    }))
    .expect("a persona")
}

/// Changes to a persona, for fixtures that read as sentences.
pub trait PersonaExt: Sized {
    /// Of this type.
    fn of_type(self, type_: &str) -> Self;
    /// `spec.suspend`.
    fn suspended(self) -> Self;
    /// Stops its model from being placed.
    fn unplaced(self) -> Self;
    /// `spec.poolRef`.
    fn on_own_pool(self, pool: &str) -> Self;
    /// `spec.adapter`.
    fn with_adapter(self) -> Self;
    /// `spec.model.apiKeySecretRef`.
    fn with_secret(self, secret: &str) -> Self;
    /// The annotation that stops us.
    fn paused(self) -> Self;
    /// Being deleted, held by somebody's finalizer.
    fn deleting(self) -> Self;
    /// Routed to this pool, with so many requests running.
    fn routed(self, pool: &str, running: i64) -> Self;
}

impl PersonaExt for Persona {
    fn of_type(mut self, type_: &str) -> Self {
        self.spec.type_ = type_.to_owned();
        self
    }

    fn suspended(mut self) -> Self {
        self.spec.suspend = true;
        self
    }

    fn unplaced(mut self) -> Self {
        self.spec.model.provider = crate::api::Provider::Ollama;
        self
    }

    fn on_own_pool(mut self, pool: &str) -> Self {
        self.spec.pool_ref = Some(PoolRef { name: pool.into() });
        self
    }

    fn with_adapter(mut self) -> Self {
        self.spec.adapter = Some(Adapter {
            name: "a".into(),
            source: "s".into(),
        });
        self
    }

    fn with_secret(mut self, secret: &str) -> Self {
        self.spec.model.api_key_secret_ref = Some(SecretKeyRef {
            name: secret.into(),
            key: "key".into(),
        });
        self
    }

    fn paused(mut self) -> Self {
        let pause = (names::ANNOTATION_PAUSED.to_owned(), "true".to_owned());
        self.metadata.annotations = Some(BTreeMap::from([pause]));
        self
    }

    fn deleting(mut self) -> Self {
        self.metadata.deletion_timestamp = Some(Time(at(0)));
        self
    }

    fn routed(mut self, pool: &str, running: i64) -> Self {
        let status = self.status.get_or_insert_default();
        status.pool = Some(pool.to_owned());
        status.running = running;
        self
    }
}

/// A topology of generation 1, not decided yet.
pub fn a_topology(spec: PersonaTopologySpec) -> PersonaTopology {
    let mut topology = PersonaTopology::new(names::TOPOLOGY_NAME, spec);
    topology.metadata.namespace = Some("n".into());
    topology.metadata.generation = Some(1);
    topology
}

/// A topology whose mode is pinned.
pub fn pinned(mode: Mode) -> PersonaTopology {
    a_topology(PersonaTopologySpec {
        mode,
        ..PersonaTopologySpec::default()
    })
}

/// A pool that somebody made by hand.
pub fn a_pool(name: &str) -> WorkerPool {
    let mut pool = WorkerPool::new(name, WorkerPoolSpec::default());
    pool.metadata.uid = Some(format!("uid-{name}"));
    pool.metadata.generation = Some(1);
    pool
}

/// Makes the pool ready as of its present spec, with so many workers.
pub fn ready(mut pool: WorkerPool, workers: i32) -> WorkerPool {
    let verdicts = [Verdict::yes(READY, "Ready", "")];
    pool.status = Some(WorkerPoolStatus {
        ready_replicas: workers,
        desired_replicas: workers,
        conditions: condition::merge(&[], &verdicts, pool.metadata.generation, at(0)),
        ..WorkerPoolStatus::default()
    });
    pool
}

/// Status and reason of a condition, like `True/Serving`.
pub fn condition(
    conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    type_: &str,
) -> String {
    conditions
        .iter()
        .find(|c| c.type_ == type_)
        .map_or("absent".to_owned(), |c| {
            format!("{}/{}", c.status, c.reason)
        })
}
