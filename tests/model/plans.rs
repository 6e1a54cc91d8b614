//! The controller's own decisions, for the layouts of the model: asked once for each situation, and
//! remembered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::jiff::Timestamp;
use persona_operator::api::condition::{READY, Verdict, merge};
use persona_operator::api::runtime::PLAIN_LANE;
use persona_operator::api::{
    Mode, Persona, PersonaStatus, PersonaTopology, PersonaTopologySpec, PersonaTopologyStatus,
    Phase, WorkerPool, WorkerPoolStatus,
};
use persona_operator::controller::plans::{persona, topology};
use persona_operator::placement::{Class, Offer};
use persona_operator::queue::stats::PersonaStats;
use persona_operator::topology::pool_name;
use serde_json::{Value, json};

/// The pool of all personas, and the pool of their type: both personas are of one.
pub const POOLS: [Phase; 2] = [Phase::Generic, Phase::Hybrid];

/// A WorkerPool as the API server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Which of the specs that the topology has asked for so far.
    pub spec: u8,
    /// Ready as of this spec.
    pub ready: bool,
    /// It has been ready.
    pub shown: bool,
}

/// What a persona's plan depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Situation {
    /// Which persona.
    pub persona: usize,
    /// Edits of the topology so far.
    pub edits: u8,
    /// The pool in its status.
    pub says: usize,
    /// The pools.
    pub pools: [Option<Object>; 2],
    /// Whether the pool's worker serves.
    pub serving: [bool; 2],
    /// Pool and epoch that the queue has of it, as far as the controller knows.
    pub published: (usize, u8),
    /// This process has told the queue so.
    pub is_ours: bool,
}

/// The call that a persona's plan asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    Stay,
    Enter(usize),
}

/// What the topology's plan asks for, a pool each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The spec to apply.
    pub apply: [Option<u8>; 2],
    /// To be closed and deleted.
    pub retire: [bool; 2],
}

type Memo<K, V> = Mutex<HashMap<K, V>>;
type Layout = (u8, [Option<Object>; 2], [usize; 2]);

/// The planners, and what they have answered.
pub struct Plans {
    personas: [Persona; 2],
    names: [String; 2],
    specs: Mutex<Vec<(Value, WorkerPool)>>,
    routes: Memo<Situation, Option<Route>>,
    wanted: Memo<Layout, Wanted>,
}

impl Plans {
    pub fn new() -> Self {
        let personas = ["a", "b"].map(|name| {
            serde_json::from_value(json!({
                "apiVersion": "persona.dev/v1alpha1",
                "kind": "Persona",
                "metadata": {"name": name, "uid": name, "generation": 1},
                "spec": {"type": "T", "model": {"provider": "OpenAI", "name": "m"}},
            }))
            .expect("a persona")
        });
        let names = POOLS.map(|phase| pool_name(&personas[0], phase, Class::Api));
        Self {
            personas,
            names,
            specs: Mutex::default(),
            routes: Mutex::default(),
            wanted: Mutex::default(),
        }
    }

    /// The pool where all belong after so many edits: Generic, Hybrid, and back again.
    pub fn home(edits: u8) -> usize {
        usize::from(edits % 2 == 1)
    }

    /// The epoch after so many edits, as the topology's plan counts it.
    pub fn epoch(edits: u8) -> u8 {
        edits + 1
    }

    /// The call that the persona's plan asks for.
    pub fn route(&self, situation: Situation) -> Option<Route> {
        remembered(&self.routes, situation, |s| self.ask_persona(s))
    }

    /// What the topology's plan asks for, where the personas' statuses say these pools.
    pub fn wanted(&self, edits: u8, pools: [Option<Object>; 2], says: [usize; 2]) -> Wanted {
        remembered(
            &self.wanted,
            (edits, pools, says),
            |(edits, pools, says)| self.ask_topology(*edits, pools, says),
        )
    }

    fn ask_persona(&self, s: &Situation) -> Option<Route> {
        let persona = self.persona(s.persona, s.says);
        let layout = Some(persona::Layout {
            phase: POOLS[Self::home(s.edits)],
            epoch: u64::from(Self::epoch(s.edits)),
            offer: Offer::default(),
        });
        let published = persona::Published {
            uid: persona.metadata.uid.clone().expect("a uid"),
            generation: 1,
            pool: Some(self.names[s.published.0].clone()),
            epoch: u64::from(s.published.1),
        };
        let objects: [Option<WorkerPool>; 2] = [0, 1].map(|pool| self.object(pool, s.pools[pool]));
        let lanes = s.serving.map(|serving| {
            let lane = serving.then(|| PLAIN_LANE.to_owned());
            lane.into_iter().collect::<BTreeSet<_>>()
        });
        let view = |pool: usize| {
            let object = objects[pool].as_ref()?;
            Some(persona::PoolView {
                pool: object,
                lanes: Some(&lanes[pool]),
            })
        };
        let plan = persona::plan(&persona::Observed {
            persona: &persona,
            layout,
            home: view(Self::home(s.edits)),
            present: view(s.published.0),
            published: Some(&published),
            is_ours: s.is_ours,
            live: PersonaStats::default(),
            adapter: None,
        });
        match plan.route? {
            persona::Intent::Stay => Some(Route::Stay),
            persona::Intent::Enter(name) => Some(Route::Enter(self.number(&name))),
            persona::Intent::Leave => panic!("its model can be run"),
        }
    }

    fn ask_topology(&self, edits: u8, pools: &[Option<Object>; 2], says: &[usize; 2]) -> Wanted {
        let spec = PersonaTopologySpec {
            mode: [Mode::Generic, Mode::Hybrid][Self::home(edits)],
            ..PersonaTopologySpec::default()
        };
        let mut topology = PersonaTopology::new("default", spec);
        topology.metadata.generation = Some(i64::from(edits) + 1);
        // As the status was before the last edit, which the plan is to see.
        topology.status = edits.checked_sub(1).map(|before| PersonaTopologyStatus {
            phase: Some(POOLS[Self::home(before)]),
            epoch: i64::from(Self::epoch(before)),
            observed_generation: Some(i64::from(before) + 1),
            ..PersonaTopologyStatus::default()
        });
        let personas = [0, 1].map(|i| Arc::new(self.persona(i, says[i])));
        let objects: Vec<_> = [0, 1]
            .into_iter()
            .filter_map(|pool| Some(Arc::new(self.object(pool, pools[pool])?)))
            .collect();
        let observed = topology::Observed {
            topology: &topology,
            personas: &personas,
            pools: &objects,
            seen_epoch: None,
            queue: None,
            refusals: &BTreeMap::new(),
        };
        let plan = topology::plan(Timestamp::UNIX_EPOCH, &observed);
        assert_eq!(plan.status.phase, Some(POOLS[Self::home(edits)]));
        assert_eq!(plan.status.epoch, i64::from(Self::epoch(edits)));
        let mut wanted = Wanted::default();
        for pool in plan.apply {
            let number = self.number(pool.metadata.name.as_deref().expect("a name"));
            wanted.apply[number] = Some(self.spec(pool));
        }
        for pool in plan.retire {
            wanted.retire[self.number(&pool.name)] = true;
        }
        wanted
    }

    fn persona(&self, which: usize, says: usize) -> Persona {
        let mut persona = self.personas[which].clone();
        persona.status = Some(PersonaStatus {
            pool: Some(self.names[says].clone()),
            ..PersonaStatus::default()
        });
        persona
    }

    fn number(&self, name: &str) -> usize {
        let found = self.names.iter().position(|known| known == name);
        found.expect("one of the two pools")
    }

    /// The number of a spec: the same for equal ones.
    fn spec(&self, mut pool: WorkerPool) -> u8 {
        pool.metadata.uid = None;
        let value = json!({"metadata": pool.metadata, "spec": pool.spec});
        let mut specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = specs.iter().position(|(known, _)| *known == value);
        let number = found.unwrap_or_else(|| {
            specs.push((value, pool));
            specs.len() - 1
        });
        u8::try_from(number).expect("few specs")
    }

    fn object(&self, which: usize, object: Option<Object>) -> Option<WorkerPool> {
        let object = object?;
        let specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pool = specs[usize::from(object.spec)].1.clone();
        pool.metadata.uid = Some(format!("pool-{which}"));
        pool.metadata.generation = Some(1);
        if object.shown {
            let seen = i64::from(object.ready);
            let ready = [Verdict::yes(READY, "Ready", "")];
            pool.status = Some(WorkerPoolStatus {
                ready_replicas: 1,
                conditions: merge(&[], &ready, Some(seen), Timestamp::UNIX_EPOCH),
                ..WorkerPoolStatus::default()
            });
        }
        Some(pool)
    }
}

fn remembered<K: Eq + Hash, V: Copy>(memo: &Memo<K, V>, key: K, ask: impl FnOnce(&K) -> V) -> V {
    if let Some(known) = memo
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
    {
        return *known;
    }
    let answer = ask(&key);
    memo.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, answer);
    answer
}
