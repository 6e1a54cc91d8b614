//! The plan and the status, by what is observed.

mod edits;
mod places;

use std::collections::BTreeSet;

use super::plan::{Intent, Layout, Observed, Plan, PoolView, plan};
use super::status::{Outcome, status};
use crate::api::condition::{READY, ROUTED};
use crate::api::{Persona, PersonaStatus, Phase, WorkerPool, WorkerPoolSpec, names};
use crate::controller::fixture::{a_pool, at, condition};
use crate::controller::routes::Published;
use crate::queue::stats::PersonaStats;
use crate::topology;

/// A persona and what is around it.
struct Case {
    persona: Persona,
    layout: Option<Layout>,
    home: Option<(WorkerPool, Option<BTreeSet<String>>)>,
    present: Option<(WorkerPool, Option<BTreeSet<String>>)>,
    published: Option<Published>,
    is_ours: bool,
    quarantined_until_ms: Option<u64>,
}

impl Case {
    /// A persona that nobody has looked at, in a Generic namespace of epoch 7.
    fn new(persona: Persona) -> Self {
        Self {
            persona,
            layout: Some(Layout {
                phase: Phase::Generic,
                epoch: 7,
                offer: crate::placement::Offer::default(),
            }),
            home: None,
            present: None,
            published: None,
            is_ours: true,
            quarantined_until_ms: None,
        }
    }

    /// Its pool is there, and its workers serve these lanes.
    fn home(mut self, pool: WorkerPool, lanes: &[&str]) -> Self {
        self.home = Some((pool, Some(set(lanes))));
        self
    }

    /// It is routed to this pool, as of its present generation and epoch 7.
    fn in_pool(mut self, pool: WorkerPool, lanes: &[&str]) -> Self {
        let published = Published {
            uid: self.persona.metadata.uid.clone().expect("a uid"),
            generation: self.persona.metadata.generation.expect("a generation"),
            pool: pool.metadata.name.clone(),
            epoch: 7,
        };
        let before = self.persona.status.get_or_insert_default();
        before.pool.clone_from(&published.pool);
        before.phase = Some(Phase::PerPersona);
        self.published = Some(published);
        self.present = Some((pool, Some(set(lanes))));
        self
    }

    /// Its requests took workers along: it waits until this second.
    fn quarantined(mut self, until: i64) -> Self {
        self.quarantined_until_ms = u64::try_from(at(until).as_millisecond()).ok();
        self
    }

    /// It was edited since.
    fn edited(mut self, edit: impl FnOnce(Persona) -> Persona) -> Self {
        self.persona = edit(self.persona);
        let generation = self.persona.metadata.generation.as_mut().expect("one");
        *generation += 1;
        self
    }

    fn observe<T>(&self, see: impl FnOnce(&Observed<'_>) -> T) -> T {
        fn view(sight: &(WorkerPool, Option<BTreeSet<String>>)) -> PoolView<'_> {
            PoolView {
                pool: &sight.0,
                lanes: sight.1.as_ref(),
            }
        }
        see(&Observed {
            persona: &self.persona,
            layout: self.layout,
            home: self.home.as_ref().map(view),
            present: self.present.as_ref().map(view),
            published: self.published.as_ref(),
            is_ours: self.is_ours,
            live: PersonaStats {
                queued: 3,
                running: 2,
                quarantined_until_ms: self.quarantined_until_ms,
            },
            adapter: None,
        })
    }

    fn plan(&self) -> Plan {
        self.observe(plan)
    }

    fn status(&self, outcome: Outcome) -> PersonaStatus {
        self.observe(|observed| status(at(0), observed, &plan(observed), outcome))
    }

    /// The call, then Ready, then Routed.
    fn says(&self) -> (Option<Intent>, String, String) {
        let status = self.status(Outcome::Accepted);
        (
            self.plan().route,
            condition(&status.conditions, READY),
            condition(&status.conditions, ROUTED),
        )
    }

    fn message(&self) -> String {
        let status = self.status(Outcome::Accepted);
        status.conditions[0].message.clone()
    }
}

fn set(lanes: &[&str]) -> BTreeSet<String> {
    lanes.iter().map(|lane| (*lane).to_owned()).collect()
}

/// The pool of all in Generic.
fn generic() -> WorkerPool {
    let any = crate::controller::fixture::a_persona("any");
    of_topology(&topology::pool_name(
        &any,
        Phase::Generic,
        crate::placement::Class::Api,
    ))
}

/// A pool that the topology made.
fn of_topology(name: &str) -> WorkerPool {
    let mut pool = a_pool(name);
    let labels = [
        (names::LABEL_MANAGED_BY, names::MANAGER),
        (names::LABEL_TOPOLOGY, names::TOPOLOGY_NAME),
        (names::LABEL_CLASS, "api"),
    ];
    let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned()));
    pool.metadata.labels = Some(labels.into());
    pool
}

fn enter(pool: &str) -> Option<Intent> {
    Some(Intent::Enter(pool.to_owned()))
}

/// A pool that may be empty.
fn may_be_empty(mut pool: WorkerPool) -> WorkerPool {
    pool.spec = WorkerPoolSpec {
        min_replicas: 0,
        ..pool.spec
    };
    pool
}
