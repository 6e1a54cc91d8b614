//! From the personas before and after to phases, pools and moves. Pure: carries the topology's own plan
//! out on paper.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Error;
use super::personas::Cast;
use super::quantity::bytes;
use crate::api::names::{SERVER_CONTAINER, WORKER_CONTAINER};
use crate::api::{Persona, PersonaTopology, Phase, Span, WorkerPool, WorkerPoolSpec};
use crate::controller::plans::pool::{Serving, sidecar};
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
    /// Memory that a worker's pod asks for, in bytes: its model server's too.
    pub memory: u64,
    /// GPUs of a worker.
    pub gpus: u32,
    /// Other pools that its idle workers help.
    pub helps: usize,
}

/// Forecasts.
///
/// # Errors
/// A quantity of memory in the topology's manifest that is none.
pub fn forecast(now: Timestamp, cast: Cast) -> Result<Forecast, Error> {
    let mut paper = Paper {
        now,
        topology: cast.topology,
        pools: BTreeMap::new(),
    };
    let mut before = None;
    let mut places = BTreeMap::new();
    if !cast.before.is_empty() {
        let mut personas = cast.before;
        let (layout, _) = paper.settle(&mut personas)?;
        before = Some(layout);
        places = pools_of(&personas);
    }
    let had: BTreeSet<String> = paper.pools.keys().cloned().collect();
    let mut personas = cast.after;
    for persona in &mut personas {
        let at = places.get(&name_of(persona)).cloned().flatten();
        persona.status.get_or_insert_default().pool = at;
    }
    let (after, delay) = paper.settle(&mut personas)?;
    let reached = pools_of(&personas);
    let both = || {
        reached
            .iter()
            .filter(|(name, _)| places.contains_key(*name))
    };
    let moves = both()
        .filter(|(name, pool)| places[*name] != **pool)
        .count();
    Ok(Forecast {
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
    })
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
    fn settle(&mut self, personas: &mut [Persona]) -> Result<(Layout, Option<Span>), Error> {
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
        Ok((self.layout(phase, personas)?, delay))
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

    fn layout(&self, phase: Phase, personas: &[Persona]) -> Result<Layout, Error> {
        let status = self.topology.status.clone().unwrap_or_default();
        let mut members: BTreeMap<String, Vec<Arc<Persona>>> = BTreeMap::new();
        for persona in personas {
            let pool = persona.status.as_ref().and_then(|s| s.pool.clone());
            let there = members.entry(pool.unwrap_or_default()).or_default();
            there.push(Arc::new(persona.clone()));
        }
        let pools = status.pools.iter().map(|listed| {
            let spec = self.pools.get(&listed.name).map(|pool| pool.spec.clone());
            let spec = spec.unwrap_or_default();
            let members = members.get(&listed.name).map_or(&[][..], Vec::as_slice);
            Ok(Pool {
                name: listed.name.clone(),
                class: listed.class.clone(),
                personas: listed.personas,
                min: spec.min_replicas,
                max: spec.max_replicas,
                slots: spec.slots_per_worker,
                memory: memory(&spec, members)?,
                gpus: spec.placement.gpus().map_or(0, |gpu| gpu.count),
                helps: spec.steal_from.len(),
            })
        });
        let mut layout = Layout {
            phase,
            counted: status.personas,
            adapters: 0,
            types: 0,
            rule: rule(&self.topology),
            pools: pools.collect::<Result<_, Error>>()?,
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
        Ok(layout)
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

/// Memory that a worker's pod asks for, in bytes: the worker, and the model server for those who are
/// there. What a GPU holds is not part of it.
fn memory(spec: &WorkerPoolSpec, personas: &[Arc<Persona>]) -> Result<u64, Error> {
    let overlay = |container| {
        let template = spec.template.as_ref();
        template.and_then(|template| template.containers.get(container))
    };
    let worker = overlay(WORKER_CONTAINER).and_then(|worker| worker.resources.as_ref());
    let mut sum = match worker {
        Some(resources) => asked(WORKER_CONTAINER, resources)?,
        None => USUAL_MEMORY,
    };
    let slots = spec.slots_per_worker;
    if let Some(serving) = Serving::of(personas, slots) {
        let gpu = spec.placement.gpus();
        let (server, _) = sidecar(&serving, slots, gpu.as_ref(), overlay(SERVER_CONTAINER));
        let resources = server.resources.unwrap_or_default();
        sum = sum.saturating_add(asked(SERVER_CONTAINER, &resources)?);
    }
    Ok(sum)
}

/// Memory that a container asks for, in bytes: as much as its limit where it says nothing else.
fn asked(container: &'static str, resources: &ResourceRequirements) -> Result<u64, Error> {
    let of = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref()?.get("memory").cloned();
    let Some(Quantity(quantity)) = of(&resources.requests).or_else(|| of(&resources.limits)) else {
        return Ok(0);
    };
    bytes(&quantity).ok_or(Error::Quantity {
        container,
        quantity,
    })
}
