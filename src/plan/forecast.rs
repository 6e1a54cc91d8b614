//! From the personas before and after to phases, pools and moves. Pure: carries the topology's own plan
//! out on paper.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::personas::Cast;
use crate::api::{Device, Persona, PersonaTopology, Phase, Span, WorkerPool};
use crate::controller::plans::topology::{Observed, Plan, plan};
use crate::placement::Offer;
use crate::topology::{Home, home};

/// Memory that a worker's container asks for where its pool says nothing.
const USUAL_MEMORY: u64 = 64 << 20;

/// What would happen.
#[derive(Debug)]
pub struct Forecast {
    /// How it is now; none where there is nobody yet.
    pub before: Option<Layout>,
    /// How it will be.
    pub after: Layout,
    /// How long the number must stay low until the phase follows it; none = the phase follows at once.
    pub delay: Option<Span>,
    /// Personas that are there before and after, and change their pool.
    pub moves: usize,
    /// Personas that are there before and after, and stay in their pool.
    pub stay: usize,
    /// Personas that come.
    pub come: usize,
    /// Personas that go.
    pub go: usize,
    /// Pools that are closed and deleted, once nobody is there any more.
    pub retired: usize,
}

/// How personas share pools.
#[derive(Debug)]
pub struct Layout {
    /// The phase.
    pub phase: Phase,
    /// Personas that the phase follows.
    pub counted: i32,
    /// Those of them with an adapter.
    pub adapters: usize,
    /// Types of those.
    pub types: usize,
    /// Thresholds of the phases, and what pins one.
    pub rule: String,
    /// The pools that the topology makes, in the order of their names.
    pub pools: Vec<Pool>,
    /// Personas on pools of their owners'.
    pub own: usize,
    /// Personas that no class of workers can run: name and what to do.
    pub unplaced: Vec<(String, String)>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its resource class.
    pub class: String,
    /// Personas that belong there.
    pub personas: i32,
    /// Fewest workers.
    pub min: u32,
    /// Most workers.
    pub max: u32,
    /// Requests that a worker answers at once.
    pub slots: u32,
    /// Memory that a worker asks for, in bytes.
    pub memory: u64,
    /// GPUs of a worker.
    pub gpus: u32,
    /// Other pools that its idle workers help.
    pub helps: usize,
}

/// Forecasts.
pub fn forecast(now: Timestamp, cast: Cast) -> Forecast {
    let mut paper = Paper {
        now,
        topology: cast.topology,
        pools: BTreeMap::new(),
    };
    let mut before = None;
    let mut places = BTreeMap::new();
    if !cast.before.is_empty() {
        let mut personas = cast.before;
        let (layout, _) = paper.settle(&mut personas);
        before = Some(layout);
        places = pools_of(&personas);
    }
    let had: BTreeSet<String> = paper.pools.keys().cloned().collect();
    let mut personas = cast.after;
    for persona in &mut personas {
        let at = places.get(&name_of(persona)).cloned().flatten();
        persona.status.get_or_insert_default().pool = at;
    }
    let (after, delay) = paper.settle(&mut personas);
    let reached = pools_of(&personas);
    let both = || {
        reached
            .iter()
            .filter(|(name, _)| places.contains_key(*name))
    };
    let moves = both()
        .filter(|(name, pool)| places[*name] != **pool)
        .count();
    Forecast {
        moves,
        stay: both().count() - moves,
        come: reached.len() - both().count(),
        go: places.len() - both().count(),
        retired: had
            .iter()
            .filter(|name| !paper.pools.contains_key(*name))
            .count(),
        before,
        after,
        delay,
    }
}

/// A namespace in which everything comes up at once.
struct Paper {
    now: Timestamp,
    topology: PersonaTopology,
    pools: BTreeMap<String, WorkerPool>,
}

impl Paper {
    /// Carries out what the topology plans, until everybody is where they belong. Answers how long that
    /// has to wait.
    fn settle(&mut self, personas: &mut [Persona]) -> (Layout, Option<Span>) {
        let mut plan = self.plan(personas);
        let mut delay = None;
        if let Some(later) = plan.again_at {
            self.topology.status = Some(plan.status);
            self.now = later;
            delay = Some(self.topology.spec.stabilization);
            plan = self.plan(personas);
        }
        let phase = plan.status.phase.unwrap_or_default();
        let offer = Offer::of(&self.topology.spec);
        for persona in personas.iter_mut() {
            let home = home(persona, phase, &offer);
            persona.status.get_or_insert_default().pool = home.pool().map(str::to_owned);
        }
        self.carry_out(plan);
        // Once all are there, nobody needs to be waited for.
        let plan = self.plan(personas);
        self.carry_out(plan);
        (self.layout(phase, personas), delay)
    }

    fn plan(&self, personas: &[Persona]) -> Plan {
        let personas: Vec<_> = personas.iter().cloned().map(Arc::new).collect();
        let pools: Vec<_> = self.pools.values().cloned().map(Arc::new).collect();
        plan(
            self.now,
            &Observed {
                topology: &self.topology,
                personas: &personas,
                pools: &pools,
                seen_epoch: None,
                queue: None,
                refusals: &BTreeMap::new(),
            },
        )
    }

    fn carry_out(&mut self, plan: Plan) {
        for pool in plan.apply {
            if let Some(name) = pool.metadata.name.clone() {
                self.pools.insert(name, pool);
            }
        }
        for retired in plan.retire {
            self.pools.remove(&retired.name);
        }
        self.topology.status = Some(plan.status);
    }

    fn layout(&self, phase: Phase, personas: &[Persona]) -> Layout {
        let status = self.topology.status.clone().unwrap_or_default();
        let pools = status.pools.iter().map(|listed| {
            let spec = self.pools.get(&listed.name).map(|pool| pool.spec.clone());
            let spec = spec.unwrap_or_default();
            Pool {
                name: listed.name.clone(),
                class: listed.class.clone(),
                personas: listed.personas,
                min: spec.min_replicas,
                max: spec.max_replicas,
                slots: spec.slots_per_worker,
                memory: memory(&spec),
                gpus: gpus(&spec),
                helps: spec.steal_from.len(),
            }
        });
        let mut layout = Layout {
            phase,
            counted: status.personas,
            adapters: 0,
            types: 0,
            rule: rule(&self.topology),
            pools: pools.collect(),
            own: 0,
            unplaced: Vec::new(),
        };
        let mut types = BTreeSet::new();
        let offer = Offer::of(&self.topology.spec);
        for persona in personas {
            let counts = !persona.spec.suspend && persona.spec.pool_ref.is_none();
            layout.adapters += usize::from(counts && persona.spec.adapter.is_some());
            if counts {
                types.insert(&persona.spec.type_);
            }
            match home(persona, phase, &offer) {
                Home::Managed { .. } => {}
                Home::Own { .. } => layout.own += 1,
                Home::Unplaced(why) => layout.unplaced.push((name_of(persona), why.message)),
            }
        }
        layout.types = types.len();
        layout
    }
}

fn rule(topology: &PersonaTopology) -> String {
    let spec = &topology.spec;
    match spec.mode.pinned() {
        Some(pinned) => format!("spec.mode pins {}", pinned.as_str()),
        None => format!(
            "Generic above {}, Hybrid above {}, Specialized above {} and with an adapter; back {} below that",
            spec.thresholds.generic,
            spec.thresholds.hybrid,
            spec.thresholds.specialized,
            spec.hysteresis
        ),
    }
}

fn pools_of(personas: &[Persona]) -> BTreeMap<String, Option<String>> {
    let place = |persona: &Persona| {
        let pool = persona
            .status
            .as_ref()
            .and_then(|status| status.pool.clone());
        (name_of(persona), pool)
    };
    personas.iter().map(place).collect()
}

fn name_of(persona: &Persona) -> String {
    persona.metadata.name.clone().unwrap_or_default()
}

fn gpus(spec: &crate::api::WorkerPoolSpec) -> u32 {
    match spec.placement.device {
        Device::Cpu => 0,
        Device::Gpu => spec.placement.gpu.as_ref().map_or(1, |gpu| gpu.count),
    }
}

fn memory(spec: &crate::api::WorkerPoolSpec) -> u64 {
    let worker = spec
        .template
        .as_ref()
        .and_then(|t| t.containers.get("worker"));
    let resources = worker.and_then(|worker| worker.resources.as_ref());
    let asked = resources.and_then(|r| r.requests.as_ref()?.get("memory"));
    asked.and_then(bytes).unwrap_or(USUAL_MEMORY)
}

/// A quantity of memory, like `64Mi`, `1G` or `1048576`.
fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.as_str();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
