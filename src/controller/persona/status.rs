//! What a persona's status says, once the queue has answered. Pure.

use jiff::Timestamp;

use super::adapter;
use super::is_paused;
use super::plan::{Intent, Observed, Plan, Wait, home_of, known};
use crate::api::condition::{self, MODEL_PLACED, READY, ROUTED, Verdict};
use crate::api::{ModelServerKind, Persona, PersonaStatus, runtime};
use crate::topology::Home;

/// How the call that the plan asked for went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none to make, or the queue accepted it.
    Accepted,
    /// The queue gave no answer, for this reason.
    Unreachable(&'static str),
    /// The queue refused it, and keeps what it had.
    Refused(Refusal),
}

/// Why the queue refused a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The pool is not open.
    ClosedPool,
    /// Another topology has spoken since.
    StaleEpoch,
    /// A persona that had its name is still there.
    OtherUid,
    /// It was taken out as deleted, and is kept out for a while.
    Removed,
}

impl Refusal {
    /// Reason and sentence.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::ClosedPool => (
                "WaitingForPool",
                "its pool is not open in the queue: it was retired a moment ago, or is about to open",
            ),
            Self::StaleEpoch => (
                "WaitingForTopology",
                "the queue was told of a newer epoch than the PersonaTopology's, which overtakes it now",
            ),
            Self::OtherUid => (
                "Replacing",
                "the requests of a deleted persona of its name are ended first",
            ),
            Self::Removed => (
                "Removed",
                "it was taken out of the queue as deleted: its requests are refused, and it comes back ten \
                 minutes after that at the latest; to have it back at once delete it and make it again",
            ),
        }
    }
}

/// The status, whole.
pub fn status(
    now: Timestamp,
    observed: &Observed<'_>,
    plan: &Plan,
    outcome: Outcome,
) -> PersonaStatus {
    let persona = observed.persona;
    let before = persona.status.clone().unwrap_or_default();
    let home = home_of(persona, observed.layout);
    let pool = match (&plan.route, outcome) {
        (Some(Intent::Enter(pool)), Outcome::Accepted) => Some(pool.clone()),
        (Some(Intent::Leave), Outcome::Accepted) => None,
        (_, Outcome::Accepted) => known(observed).and_then(|known| known.pool.clone()),
        (_, Outcome::Unreachable(_) | Outcome::Refused(_)) => before.pool.clone(),
    };
    let phase = match &home {
        Some(Home::Own { pool: own }) if pool.as_ref() == Some(own) => None,
        Some(Home::Managed { pool: home, .. }) if pool.as_ref() == Some(home) => {
            observed.layout.map(|layout| layout.phase)
        }
        _ if pool.is_none() => None,
        _ => before.phase,
    };
    let standing = Standing {
        observed,
        plan,
        outcome,
        now,
        home: home.as_ref(),
        pool: pool.as_deref(),
    };
    let mut verdicts = vec![standing.ready(), standing.routed(), placed(home.as_ref())];
    verdicts.extend(adapter::verdict(persona, observed.adapter));
    let generation = persona.metadata.generation;
    PersonaStatus {
        conditions: condition::merge(&before.conditions, &verdicts, generation, now),
        pool,
        phase,
        queued: i64::try_from(observed.live.queued).unwrap_or(i64::MAX),
        running: i64::try_from(observed.live.running).unwrap_or(i64::MAX),
        observed_generation: generation,
    }
}

struct Standing<'a> {
    observed: &'a Observed<'a>,
    plan: &'a Plan,
    outcome: Outcome,
    now: Timestamp,
    home: Option<&'a Home>,
    /// Where it is routed now.
    pool: Option<&'a str>,
}

impl Standing<'_> {
    fn ready(&self) -> Verdict {
        let persona = self.observed.persona;
        if let Some(verdict) = self.unknown(READY) {
            return verdict;
        }
        if persona.spec.suspend {
            let message =
                "spec.suspend is true: requests are refused, those that wait stay in the queue";
            return Verdict::no(READY, "Suspended", message);
        }
        if let Outcome::Refused(refusal) = self.outcome {
            return self.refused(refusal);
        }
        if let Some(verdict) = self.quarantined() {
            return verdict;
        }
        let (Some(wait), at) = (&self.plan.wait, self.pool) else {
            let at = self.pool.unwrap_or_default();
            return Verdict::yes(READY, "Serving", format!("served by WorkerPool {at}"));
        };
        let (reason, message) = words(wait, persona);
        if self.plan.keeps {
            let known = known(self.observed).map_or(0, |known| known.generation);
            let message =
                format!("{message}; until then requests are answered as of generation {known}");
            return Verdict::no(READY, reason, message);
        }
        let moves = self
            .home
            .and_then(Home::pool)
            .is_some_and(|home| Some(home) != at);
        let lane = runtime::lane(persona);
        match (at, self.observed.present) {
            (Some(at), Some(present)) if moves && present.serves(&lane) => {
                let message = format!("served by WorkerPool {at} until it can move: {message}");
                Verdict::yes(READY, "Moving", message)
            }
            _ => Verdict::no(READY, reason, message),
        }
    }

    /// Who is in the queue is served as before.
    fn refused(&self, refusal: Refusal) -> Verdict {
        let (reason, message) = refusal.words();
        let is_there = refusal != Refusal::Removed && known(self.observed).is_some();
        let lane = runtime::lane(self.observed.persona);
        match (self.pool, self.observed.present) {
            (Some(at), Some(present)) if is_there && present.serves(&lane) => {
                let message = format!("served by WorkerPool {at} as before: {message}");
                Verdict::yes(READY, "Moving", message)
            }
            _ => Verdict::no(READY, reason, message),
        }
    }

    /// Its requests take workers along; until then none of them runs.
    fn quarantined(&self) -> Option<Verdict> {
        let until = i64::try_from(self.observed.live.quarantined_until_ms?).ok()?;
        let until = Timestamp::from_millisecond(until).ok()?;
        let message = format!(
            "worker after worker was lost while it ran nothing but a request of this persona: none of its \
             requests runs until {until:.0}, then one alone, so that the others of its pool are served; they \
             wait meanwhile. Look into the logs of the workers of WorkerPool {}; a change of its spec ends \
             this at once",
            self.pool.unwrap_or_default()
        );
        (self.now < until).then(|| Verdict::no(READY, "Quarantined", message))
    }

    fn routed(&self) -> Verdict {
        if let Some(verdict) = self.unknown(ROUTED) {
            return verdict;
        }
        if let Outcome::Refused(refusal) = self.outcome {
            let (reason, message) = refusal.words();
            return Verdict::no(ROUTED, reason, message);
        }
        match (self.home.and_then(Home::pool), self.pool) {
            (Some(home), Some(pool)) if home == pool && !self.plan.keeps => Verdict::yes(
                ROUTED,
                "Routed",
                format!("requests run in WorkerPool {pool}"),
            ),
            _ => {
                let (reason, message) = match &self.plan.wait {
                    Some(wait) => words(wait, self.observed.persona),
                    None => ("Moving", "is about to enter its pool".to_owned()),
                };
                Verdict::no(ROUTED, reason, message)
            }
        }
    }

    fn unknown(&self, type_: &'static str) -> Option<Verdict> {
        if is_paused(self.observed.persona) {
            let message = "annotation persona.dev/paused is true: the persona stays as it is; remove it to go on";
            return Some(Verdict::unknown(type_, "Paused", message));
        }
        match self.outcome {
            Outcome::Accepted | Outcome::Refused(_) => None,
            Outcome::Unreachable(why) => {
                let message =
                    format!("the queue gave no answer ({why}): tried again until it does");
                Some(Verdict::unknown(type_, "QueueUnreachable", message))
            }
        }
    }
}

/// Reason and sentence. The pool's own message is left out: it changes with each of its pods, and
/// every persona that waits would be written again.
fn words(wait: &Wait, persona: &Persona) -> (&'static str, String) {
    match wait {
        Wait::Topology => undecided(),
        Wait::Pool { pool, reason } => (
            "WaitingForPool",
            format!("waits for WorkerPool {pool} ({reason}): kubectl describe workerpool {pool}"),
        ),
        Wait::Credential { pool } => {
            let missing = match &persona.spec.model.api_key_secret_ref {
                Some(reference) => {
                    format!("key {} of Secret {}", reference.key, reference.name)
                }
                None => {
                    return ("WaitingForModel", lacks_model(pool, persona));
                }
            };
            let message = format!(
                "no worker of WorkerPool {pool} holds {missing} yet: create it if it is missing"
            );
            ("WaitingForCredential", message)
        }
        Wait::OwnPool { pool } => (
            "PoolNotFound",
            format!(
                "spec.poolRef names WorkerPool {pool}, which does not exist: create it, or remove poolRef"
            ),
        ),
        Wait::PoolNameTaken { pool } => (
            "PoolNameTaken",
            format!(
                "its WorkerPool {pool} was made by somebody else and is not touched: delete it, or make it again \
                 under another name"
            ),
        ),
        Wait::Placement(unplaced) => ("Unplaced", unplaced.message.clone()),
    }
}

fn undecided() -> (&'static str, String) {
    let message = "waits until the namespace's PersonaTopology has decided";
    ("WaitingForTopology", message.to_owned())
}

fn lacks_model(pool: &str, persona: &Persona) -> String {
    let model = &persona.spec.model;
    let fixed = model.served_by() == Some(ModelServerKind::LlamaCpp);
    match &persona.spec.adapter {
        Some(adapter) if fixed => format!(
            "no worker of WorkerPool {pool} was started with model {} and adapter {} yet: workers with them are \
             on their way, or more adapters than model.server.maxAdapters share the pool",
            model.name, adapter.name
        ),
        _ => format!(
            "no worker of WorkerPool {pool} has model {} yet",
            model.name
        ),
    }
}

/// Whether workers that can run its model are known; nothing is, before the topology has decided what
/// there shall be.
fn placed(home: Option<&Home>) -> Verdict {
    let message = match home {
        Some(Home::Unplaced(unplaced)) => {
            return Verdict::no(MODEL_PLACED, unplaced.reason, unplaced.message.clone());
        }
        Some(Home::Managed { class, .. }) => {
            format!("workers of class {class} can run its model")
        }
        Some(Home::Own { pool }) => format!("WorkerPool {pool} of spec.poolRef is to run it"),
        None => {
            let (reason, message) = undecided();
            return Verdict::unknown(MODEL_PLACED, reason, message);
        }
    };
    Verdict::yes(MODEL_PLACED, "Placed", message)
}
