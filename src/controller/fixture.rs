//! Objects for tests, and a namespace in which the plans are carried out as the API server, the pools
//! and the queue would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::routes::Published;
use super::{persona, topology};
use crate::api::condition::{self, READY, Verdict};
use crate::api::{
    Adapter, Mode, Persona, PersonaTopology, PersonaTopologySpec, Phase, PoolRef, SecretKeyRef,
    WorkerPool, WorkerPoolSpec, WorkerPoolStatus, names, runtime,
};
use crate::queue::stats::PersonaStats;

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

/// A namespace: what the API server and the queue hold, and pools that come up by themselves.
pub struct World {
    /// The clock.
    pub now: Timestamp,
    /// The topology.
    pub topology: PersonaTopology,
    /// Personas by name.
    pub personas: BTreeMap<String, Persona>,
    /// Pools by name.
    pub pools: BTreeMap<String, WorkerPool>,
    /// What the queue has of each persona.
    pub queue: BTreeMap<String, Published>,
    /// Pools whose workers never come up: those whose name begins so.
    pub broken: Option<String>,
    /// Secrets that do not exist.
    pub missing: BTreeSet<String>,
    /// Refusals by the API server.
    pub refusals: BTreeMap<String, String>,
    made: u32,
}

impl World {
    /// An empty namespace.
    pub fn new(topology: PersonaTopology) -> Self {
        Self {
            now: at(0),
            topology,
            personas: BTreeMap::new(),
            pools: BTreeMap::new(),
            queue: BTreeMap::new(),
            broken: None,
            missing: BTreeSet::new(),
            refusals: BTreeMap::new(),
            made: 0,
        }
    }

    /// Creates a persona.
    pub fn add(&mut self, persona: Persona) {
        let name = persona.metadata.name.clone().expect("a name");
        self.personas.insert(name, persona);
    }

    /// Deletes a persona: object and queue.
    pub fn delete(&mut self, name: &str) {
        self.personas.remove(name);
        self.queue.remove(name);
    }

    /// Makes it `count` personas by creating or deleting p0, p1, …, of four types.
    pub fn set_number(&mut self, count: usize) {
        for i in 0..300 {
            let name = format!("p{i}");
            if i >= count {
                self.delete(&name);
            } else if !self.personas.contains_key(&name) {
                self.add(a_persona(&name).of_type(&format!("T{}", i % 4)));
            }
        }
    }

    /// The present phase.
    pub fn phase(&self) -> Option<Phase> {
        self.topology.status.as_ref()?.phase
    }

    /// The epoch.
    pub fn epoch(&self) -> i64 {
        self.topology.status.as_ref().map_or(0, |s| s.epoch)
    }

    /// What the topology would do now.
    pub fn plan(&self) -> topology::Plan {
        let personas: Vec<_> = self.personas.values().cloned().map(Arc::new).collect();
        let pools: Vec<_> = self.pools.values().cloned().map(Arc::new).collect();
        topology::plan(
            self.now,
            &topology::Observed {
                topology: &self.topology,
                personas: &personas,
                pools: &pools,
                seen_epoch: None,
                refusals: &self.refusals,
            },
        )
    }

    /// One reconciliation of the topology: true if it changed anything.
    pub fn step_topology(&mut self) -> bool {
        let plan = self.plan();
        assert!(
            plan.status.epoch >= self.epoch(),
            "the epoch never goes back"
        );
        let mut changed = self.topology.status.as_ref() != Some(&plan.status);
        self.topology.status = Some(plan.status);
        for wanted in plan.apply {
            changed = true;
            self.apply(wanted);
        }
        for retired in plan.retire {
            // As the queue's `close`: refused while somebody is routed there.
            if self
                .queue
                .values()
                .all(|p| p.pool.as_ref() != Some(&retired.name))
            {
                changed = true;
                self.pools.remove(&retired.name);
            }
        }
        changed
    }

    /// As server-side apply by one manager does: what others set stays, what is new counts.
    fn apply(&mut self, wanted: WorkerPool) {
        let name = wanted.metadata.name.clone().expect("a name");
        self.made += 1;
        let made = self.made;
        let pool = self.pools.entry(name).or_insert_with(|| {
            let mut pool = wanted.clone();
            pool.metadata.uid = Some(format!("pool-{made}"));
            pool.metadata.generation = Some(0);
            pool
        });
        let replicas = pool.spec.replicas;
        if pool.spec != wanted.spec || pool.metadata.generation == Some(0) {
            pool.metadata.generation = pool.metadata.generation.map(|g| g + 1);
        }
        pool.spec = WorkerPoolSpec {
            replicas,
            ..wanted.spec
        };
        pool.metadata.labels = wanted.metadata.labels;
        pool.metadata.annotations = wanted.metadata.annotations;
    }

    /// One look of all pools: those that can come up are ready.
    pub fn step_pools(&mut self) -> bool {
        let mut changed = false;
        for (name, pool) in &mut self.pools {
            if self.broken.as_ref().is_some_and(|b| name.starts_with(b)) {
                continue;
            }
            let floor = pool.spec.warm_replicas.unwrap_or(0);
            let workers = floor
                .max(pool.spec.min_replicas)
                .min(pool.spec.max_replicas);
            let after = ready(pool.clone(), i32::try_from(workers).expect("few"));
            changed |= *pool != after;
            *pool = after;
        }
        changed
    }

    fn lanes(&self, pool: &WorkerPool) -> Option<BTreeSet<String>> {
        let status = pool.status.as_ref()?;
        if status.ready_replicas == 0 {
            return Some(BTreeSet::new());
        }
        let wanted = self.personas.values().map(runtime::lane);
        let held = wanted.filter(|lane| {
            let secret = lane.split('/').next().unwrap_or_default();
            !self.missing.contains(secret)
        });
        Some(held.chain([runtime::PLAIN_LANE.to_owned()]).collect())
    }

    /// One reconciliation of a persona: true if it changed anything.
    pub fn step_persona(&mut self, name: &str) -> bool {
        let Some(persona) = self.personas.get(name).cloned() else {
            return false;
        };
        let layout = persona::Layout::of(self.topology.status.as_ref());
        let published = self.queue.get(name).cloned();
        let home = persona::home_of(&persona, layout);
        let home = home.as_ref().and_then(|h| self.pools.get(h.pool()?));
        let present = published.as_ref().and_then(|p| p.pool.as_ref());
        let present = present.and_then(|name| self.pools.get(name));
        let (home_lanes, present_lanes) = (
            home.and_then(|pool| self.lanes(pool)),
            present.and_then(|pool| self.lanes(pool)),
        );
        let view = |pool, lanes| persona::PoolView { pool, lanes };
        let observed = persona::Observed {
            persona: &persona,
            layout,
            home: home.map(|pool| view(pool, home_lanes.as_ref())),
            present: present.map(|pool| view(pool, present_lanes.as_ref())),
            published: published.as_ref(),
            is_ours: true,
            live: PersonaStats::default(),
        };
        let plan = persona::plan(&observed);
        let status = persona::status(self.now, &observed, &plan, persona::Outcome::Accepted);
        if let Some(intent) = &plan.route {
            self.route(&persona, intent, plan.epoch);
        }
        let changed = plan.route.is_some() || persona.status.as_ref() != Some(&status);
        if let Some(persona) = self.personas.get_mut(name) {
            persona.status = Some(status);
        }
        changed
    }

    /// As the queue's `route`.
    fn route(&mut self, persona: &Persona, intent: &persona::Intent, epoch: u64) {
        let name = persona.metadata.name.clone().expect("a name");
        let before = self.queue.get(&name);
        assert!(
            before.is_none_or(|before| before.epoch <= epoch),
            "no route of an old epoch"
        );
        let pool = match intent {
            persona::Intent::Stay => before.and_then(|p| p.pool.clone()),
            persona::Intent::Leave => None,
            persona::Intent::Enter(pool) => {
                let entered = self.pools.get(pool).expect("a pool that exists");
                assert!(
                    entered
                        .status
                        .as_ref()
                        .is_some_and(|s| s.ready_replicas > 0)
                        || !names::of_topology(&entered.metadata),
                    "nobody enters a pool that has shown no worker"
                );
                Some(pool.clone())
            }
        };
        let published = Published {
            uid: persona.metadata.uid.clone().expect("a uid"),
            generation: persona.metadata.generation.expect("a generation"),
            pool,
            epoch,
        };
        self.queue.insert(name, published);
    }

    /// What must hold at any moment: everybody is routed to a pool that exists, whoever was routed
    /// once stays routed.
    pub fn check(&self) {
        for (name, published) in &self.queue {
            if let Some(pool) = &published.pool {
                assert!(
                    self.pools.contains_key(pool),
                    "{name} is routed to {pool}, which is gone"
                );
            }
        }
    }

    /// Lets everything run until nothing changes any more.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            let mut changed = self.step_topology();
            self.check();
            changed |= self.step_pools();
            let names: Vec<String> = self.personas.keys().cloned().collect();
            for name in names {
                changed |= self.step_persona(&name);
                self.check();
            }
            if !changed {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// As [`World::settle`], with the time that it takes to go back.
    pub fn settle_for(&mut self, seconds: i64) {
        self.settle();
        self.now = self.now + jiff::SignedDuration::from_secs(seconds);
        self.settle();
    }

    /// The pool that the queue has a persona in.
    pub fn pool_of(&self, name: &str) -> Option<&str> {
        self.queue.get(name)?.pool.as_deref()
    }
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
