//! From what was observed to the one call that sets a persona's route. Pure.

use std::collections::BTreeSet;

use super::adapter::Sight;
use super::is_paused;
use crate::api::condition::{self, READY};
use crate::api::names::{self, of_topology};
use crate::api::{Persona, PersonaTopology, Phase, WorkerPool, runtime};
use crate::controller::pool::template::follows_queue;
use crate::controller::routes::Published;
use crate::placement::{Offer, Unplaced};
use crate::queue::stats::PersonaStats;
use crate::topology::{self, Home};

/// What the topology has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How pools are shared.
    pub phase: Phase,
    /// Goes with each route: an older one is refused.
    pub epoch: u64,
    /// What the topology offers to local models.
    pub offer: Offer,
}

impl Layout {
    /// As the topology's status says; none before it has decided.
    pub fn of(topology: Option<&PersonaTopology>) -> Option<Self> {
        let topology = topology?;
        let status = topology.status.as_ref()?;
        Some(Self {
            phase: status.phase?,
            epoch: u64::try_from(status.epoch).unwrap_or_default(),
            offer: Offer::of(&topology.spec),
        })
    }
}

/// Where the persona belongs; none while the topology has not decided: until then only its owner's word
/// counts, because what a model fits on depends on what the topology offers.
pub fn home_of(persona: &Persona, layout: Option<Layout>) -> Option<Home> {
    match layout {
        Some(layout) => Some(topology::home(persona, layout.phase, &layout.offer)),
        None => {
            let home = topology::home(persona, Phase::PerPersona, &Offer::default());
            matches!(home, Home::Own { .. }).then_some(home)
        }
    }
}

/// A pool, and what its workers hold.
#[derive(Clone, Copy, Debug)]
pub struct PoolView<'a> {
    /// The object.
    pub pool: &'a WorkerPool,
    /// Lanes of its workers that are not draining; none when that is not known.
    pub lanes: Option<&'a BTreeSet<String>>,
}

impl PoolView<'_> {
    fn name(&self) -> &str {
        self.pool.metadata.name.as_deref().unwrap_or_default()
    }

    fn is_leaving(&self) -> bool {
        self.pool.metadata.deletion_timestamp.is_some()
    }

    /// It needs no worker and has none: it makes one when a request comes.
    fn is_asleep(&self) -> bool {
        let workers = self.pool.status.as_ref().map_or(0, |s| s.ready_replicas);
        let wakes = self.pool.spec.replicas != Some(0) && follows_queue(self.pool);
        workers == 0 && self.is_ready() && wakes
    }

    fn is_ready(&self) -> bool {
        let status = self.pool.status.as_ref();
        status.is_some_and(|s| condition::holds(&s.conditions, READY))
    }

    /// Ready, as of the present spec.
    fn is_ready_now(&self) -> bool {
        let generation = self.pool.metadata.generation;
        let status = self.pool.status.as_ref();
        status.is_some_and(|status| {
            status.conditions.iter().any(|c| {
                c.type_ == READY && c.status == "True" && c.observed_generation == generation
            })
        })
    }

    fn holds(&self, lane: &str) -> Option<bool> {
        self.lanes.map(|lanes| lanes.contains(lane))
    }

    /// Whether a persona that is already here is served: with doubts in its favour, because it was
    /// let in when that was proved.
    pub fn serves(&self, lane: &str) -> bool {
        let up = self
            .pool
            .status
            .as_ref()
            .is_some_and(|s| s.ready_replicas > 0);
        if self.is_leaving() || !(up || self.is_ready()) {
            return false;
        }
        // A queue that has lost its data knows no worker until each has sent its next heartbeat.
        let unheard = up && !self.has_workers() && follows_queue(self.pool);
        self.is_asleep() || unheard || self.holds(lane).unwrap_or(true)
    }

    /// Workers are there, and none of them holds what this persona needs.
    fn serves_others(&self, lane: &str) -> bool {
        let held = self.lanes.filter(|lanes| !lanes.is_empty());
        lane != runtime::PLAIN_LANE && held.is_some_and(|lanes| !lanes.contains(lane))
    }

    fn has_workers(&self) -> bool {
        self.lanes.is_some_and(|lanes| !lanes.is_empty())
    }

    /// Why it is not ready, in the pool's own words where it has some.
    fn reason(&self) -> String {
        let status = self.pool.status.as_ref();
        let ready = status.and_then(|s| s.conditions.iter().find(|c| c.type_ == READY));
        match ready {
            _ if self.is_leaving() => "Deleting",
            // Its workers are its owner's.
            _ if !follows_queue(self.pool) => "ServesNoPersonas",
            Some(condition) if condition.status != "True" => &condition.reason,
            Some(_) if self.pool.spec.replicas == Some(0) => "PinnedToZero",
            Some(_) if !self.is_ready_now() => "Updating",
            _ => "Starting",
        }
        .to_owned()
    }
}

/// What the plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The persona with its last status.
    pub persona: &'a Persona,
    /// What the topology has decided; none yet for a new namespace.
    pub layout: Option<Layout>,
    /// The pool it belongs to ([`home_of`]), if that exists.
    pub home: Option<PoolView<'a>>,
    /// The pool it is routed to, as the queue says, or its status where the queue knows nothing of
    /// it; if that exists.
    pub present: Option<PoolView<'a>>,
    /// What the queue has of it.
    pub published: Option<&'a Published>,
    /// Whether this process has published it, so that the queue has it in this version's words.
    pub is_ours: bool,
    /// Its requests.
    pub live: PersonaStats,
    /// Its adapter, as the workers of the pool that it is routed to say.
    pub adapter: Option<&'a Sight>,
}

/// What the route shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Where it was: nowhere for a new one, which accepts requests all the same.
    Stay,
    /// Nowhere: no worker can run its model.
    Leave,
    /// Into this pool.
    Enter(String),
}

/// What a persona waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The topology to decide.
    Topology,
    /// A pool that is there, or shall be, to become ready.
    Pool {
        /// Name of the pool.
        pool: String,
        /// The reason that the pool gives, or `Missing`.
        reason: String,
    },
    /// A worker of the pool to hold the credential.
    Credential {
        /// Name of the pool.
        pool: String,
    },
    /// Somebody to make the pool of `spec.poolRef`.
    OwnPool {
        /// Name of the pool.
        pool: String,
    },
    /// Somebody to free the name of the pool.
    PoolNameTaken {
        /// Name of the pool.
        pool: String,
    },
    /// Its manifest to say what its model needs.
    Placement(Unplaced),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The call to make, if the queue does not have all of it yet.
    pub route: Option<Intent>,
    /// On purpose the queue keeps what it has, though that is not the newest.
    pub keeps: bool,
    /// Epoch that goes with the call.
    pub epoch: u64,
    /// What keeps it from where it belongs, or from being served there.
    pub wait: Option<Wait>,
}

/// Plans: into the pool it belongs to as soon as that is ready and somebody there can serve it; until
/// then it stays where it is, and with what it has there if it could not be served with the new.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let persona = observed.persona;
    let epoch = observed.layout.map_or(0, |layout| layout.epoch);
    let mut plan = Plan {
        route: None,
        keeps: false,
        epoch,
        wait: None,
    };
    if is_paused(persona) || persona.metadata.deletion_timestamp.is_some() {
        plan.keeps = true;
        return plan;
    }
    let lane = runtime::lane(persona);
    let known = known(observed);
    let here = known.and_then(|published| published.pool.as_deref());
    let home = home_of(persona, observed.layout);
    let mut intent = match &home {
        Some(Home::Unplaced(unplaced)) => {
            plan.wait = Some(Wait::Placement(unplaced.clone()));
            if here.is_some() {
                Intent::Leave
            } else {
                Intent::Stay
            }
        }
        Some(Home::Managed { pool, .. } | Home::Own { pool }) if here == Some(pool) => {
            plan.wait = trouble(observed, &lane, pool);
            Intent::Stay
        }
        Some(home @ (Home::Managed { pool, .. } | Home::Own { pool })) => {
            plan.wait = obstacle(observed, home, &lane, pool);
            match plan.wait {
                None => Intent::Enter(pool.clone()),
                Some(_) => Intent::Stay,
            }
        }
        None => {
            plan.wait = Some(Wait::Topology);
            Intent::Stay
        }
    };
    plan.keeps = intent == Intent::Stay && keeps_what_it_has(observed, home.as_ref(), &lane);
    if let (Intent::Stay, Some(pool)) = (&intent, lost_place(observed, home.as_ref())) {
        if home.as_ref().and_then(Home::pool) == Some(&pool) {
            plan.wait = trouble(observed, &lane, &pool);
        }
        intent = Intent::Enter(pool);
    }
    if !plan.keeps && !has_all(observed, &intent, epoch) {
        plan.route = Some(intent);
    }
    plan
}

/// The pool that served it before the queue lost its data: there it waits for the one it belongs to. Also
/// if nobody there is ready at this moment, which the loss itself may have brought about: who is nowhere
/// needs no pool, and its own would be deleted.
fn lost_place(observed: &Observed<'_>, home: Option<&Home>) -> Option<String> {
    let present = observed.present.filter(|_| known(observed).is_none())?;
    let status = observed.persona.status.as_ref();
    let was_there = status.and_then(|s| s.pool.as_deref()) == Some(present.name());
    let placed = !matches!(home, Some(Home::Unplaced(_)));
    (was_there && placed && !present.is_leaving()).then(|| present.name().to_owned())
}

/// What the queue has of this very persona.
pub fn known<'a>(observed: &Observed<'a>) -> Option<&'a Published> {
    let uid = observed.persona.metadata.uid.as_deref();
    observed
        .published
        .filter(|published| Some(published.uid.as_str()) == uid)
}

fn has_all(observed: &Observed<'_>, intent: &Intent, epoch: u64) -> bool {
    let Some(known) = known(observed) else {
        return false;
    };
    // Before the topology has decided there is no epoch to publish with.
    let undecided = observed.layout.is_none();
    *intent == Intent::Stay
        && (undecided
            || observed.is_ours
                && known.epoch == epoch
                && known.generation == generation(observed.persona))
}

/// Whether publishing the new generation would take the persona from workers that serve the old one:
/// none of them holds the new credential, or runs the new class of model. Suspending waits for nobody.
fn keeps_what_it_has(observed: &Observed<'_>, home: Option<&Home>, lane: &str) -> bool {
    let (Some(known), Some(present)) = (known(observed), observed.present) else {
        return false;
    };
    if known.generation >= generation(observed.persona) || observed.persona.spec.suspend {
        return false;
    }
    let labels = present.pool.metadata.labels.as_ref();
    let class = labels.and_then(|labels| labels.get(names::LABEL_CLASS));
    let other_class = match (home, class) {
        (Some(Home::Managed { class: wanted, .. }), Some(class)) => wanted.to_string() != *class,
        _ => false,
    };
    // Its old server has not the new model.
    let served = observed.persona.spec.model.served_by().is_some();
    let other_server = served && home.and_then(Home::pool) != Some(present.name());
    let other_lane = !present.is_asleep() && present.holds(lane) == Some(false);
    !present.is_leaving() && (other_class || other_server || other_lane)
}

/// What keeps a persona from being served in the pool where it is and belongs.
fn trouble(observed: &Observed<'_>, lane: &str, pool: &str) -> Option<Wait> {
    let pool = pool.to_owned();
    match observed.home {
        None => Some(Wait::Pool {
            pool,
            reason: "Missing".to_owned(),
        }),
        Some(view) if view.serves(lane) => None,
        Some(view) if view.serves_others(lane) => Some(Wait::Credential { pool }),
        Some(view) => Some(Wait::Pool {
            pool,
            reason: view.reason(),
        }),
    }
}

/// What keeps a persona from entering a pool.
fn obstacle(observed: &Observed<'_>, home: &Home, lane: &str, pool: &str) -> Option<Wait> {
    let managed = matches!(home, Home::Managed { .. });
    let pool = pool.to_owned();
    let Some(view) = observed.home else {
        return Some(if managed {
            Wait::Pool {
                pool,
                reason: "Missing".to_owned(),
            }
        } else {
            Wait::OwnPool { pool }
        });
    };
    debug_assert_eq!(view.name(), pool);
    if managed && !of_topology(&view.pool.metadata) {
        return Some(Wait::PoolNameTaken { pool });
    }
    if !view.is_ready_now() || view.is_leaving() {
        let reason = view.reason();
        return Some(Wait::Pool { pool, reason });
    }
    // Nobody warms up a pool that the topology did not make: it wakes when a request comes.
    let sleeps = !managed && view.is_asleep();
    // Who cannot be served anyway may as well wait in the pool where they belong.
    let unserved = observed.persona.spec.suspend || has_nothing_to_lose(observed, lane);
    if view.holds(lane) == Some(true) || sleeps || unserved && view.has_workers() {
        return None;
    }
    if view.serves_others(lane) {
        return Some(Wait::Credential { pool });
    }
    let reason = view.reason();
    Some(Wait::Pool { pool, reason })
}

/// It is routed to a pool that is gone, or where nobody holds its credential.
fn has_nothing_to_lose(observed: &Observed<'_>, lane: &str) -> bool {
    let Some(known) = known(observed) else {
        return false;
    };
    let unserved = |pool: PoolView<'_>| pool.is_leaving() || pool.serves_others(lane);
    known.pool.is_some()
        && known.generation == generation(observed.persona)
        && observed.present.is_none_or(unserved)
}

fn generation(persona: &Persona) -> i64 {
    persona.metadata.generation.unwrap_or_default()
}
