//! A persona's route in the queue, and its status.
//!
//! It is registered at once, so that it accepts requests; it enters the pool it belongs to when that is
//! ready and holds what it needs; until then it stays where it is.
//!
//! - `observe` what the caches and the queue have of it
//! - `plan` pure: whether to register, stay or enter a pool
//! - `apply` the one call to the queue
//! - `status` pure: conditions, from the plan and the queue's answer
//! - `sweep` takes personas that are gone out of the queue

mod adapter;
mod apply;
mod observe;
pub(super) mod plan;
pub(super) mod status;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use self::apply::Applied;
use super::context::{News, is_paused, now};
use super::status::LIVE_NUMBERS;
use super::{Context, Error, topology};
use crate::api::condition::READY;
use crate::api::{Persona, PersonaStatus};

use plan::plan;
use status::{Outcome, status};

pub use sweep::{removed, sweep};

/// Field manager of personas' statuses.
const FIELD_MANAGER: &str = "persona-operator-persona";
/// When to try again while the queue cannot be used.
const NO_QUEUE: Duration = Duration::from_secs(5);
/// Reasons that people should do something about.
const TROUBLES: [&str; 6] = [
    "Quarantined",
    "Removed",
    "WaitingForCredential",
    "PoolNotFound",
    "PoolNameTaken",
    "Unplaced",
];

/// One visit to a persona.
pub fn reconcile(
    persona: Arc<Persona>,
    cx: Arc<Context>,
) -> BoxFuture<'static, Result<Action, Error>> {
    Box::pin(async move { visit(&cx, cx.stores.written_personas.of(persona)).await })
}

async fn visit(cx: &Context, persona: Arc<Persona>) -> Result<Action, Error> {
    let namespace = persona.namespace().unwrap_or_default();
    if persona.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let topology = cx.stores.topology(&namespace);
    if topology.is_none() && speaks_for_all(cx, &namespace, &persona) {
        topology::make(cx, &namespace).await?;
    }
    let seen = match observe::observe(cx, persona.clone()).await {
        Ok(seen) => seen,
        Err(error) => return no_answer(cx, &observe::blind(cx, persona), error).await,
    };
    let observed = seen.observed();
    let plan = plan(&observed);
    match apply::apply(cx, &observed, &plan).await {
        Ok(Applied::Done) => {}
        Ok(Applied::Again(pause)) => return Ok(Action::requeue(pause)),
        Ok(Applied::Refused(refusal, pause)) => {
            let after = status(now(), &observed, &plan, Outcome::Refused(refusal));
            write(cx, &persona, &after).await?;
            return Ok(Action::requeue(pause));
        }
        Err(error) => return no_answer(cx, &seen, error).await,
    }
    let after = status(now(), &observed, &plan, Outcome::Accepted);
    write(cx, &persona, &after).await?;
    let others = topology.and_then(|t| Some(t.status.as_ref()?.personas));
    Ok(Action::requeue(next_look(others.unwrap_or_default())))
}

/// When to look at a persona's numbers again: of many personas each less often, so that a namespace
/// costs the API server ten writes a second at most.
fn next_look(personas: i32) -> Duration {
    let share = LIVE_NUMBERS / 100 * u32::try_from(personas).unwrap_or_default();
    LIVE_NUMBERS
        .max(share)
        .mul_f64(rand::random_range(1.0..1.2))
}

/// One persona of a namespace asks for the topology that all need.
fn speaks_for_all(cx: &Context, namespace: &str, persona: &Persona) -> bool {
    let names = cx.stores.personas_of(namespace).map(|p| p.name_any());
    names.min().is_none_or(|first| first == persona.name_any())
}

/// The queue gave no answer. What it was told before holds, so that the status says so only of a
/// persona whose present generation it was not told.
async fn no_answer(cx: &Context, seen: &observe::Seen, error: Error) -> Result<Action, Error> {
    let observed = seen.observed();
    let persona = observed.persona;
    let told = persona
        .status
        .as_ref()
        .is_some_and(|s| s.observed_generation == persona.metadata.generation);
    if !told {
        let plan = plan(&observed);
        let outcome = Outcome::Unreachable(error.reason());
        let after = status(now(), &observed, &plan, outcome);
        write(cx, persona, &after).await?;
    }
    match cx.contact.usable() {
        // The upkeep of the queue tells, and wakes everybody when it is back.
        Err(_) => Ok(Action::requeue(NO_QUEUE)),
        Ok(()) => Err(error),
    }
}

/// Writes the status where it differs, and tells of a new trouble.
async fn write(cx: &Context, persona: &Persona, after: &PersonaStatus) -> Result<(), Error> {
    if persona.status.as_ref() == Some(after) {
        return Ok(());
    }
    let latest = &cx.stores.written_personas;
    match super::status::write(&cx.client, latest, FIELD_MANAGER, persona, after).await {
        Ok(()) => {}
        Err(error) if super::status::is_gone(&error) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let reason = |status: &PersonaStatus| {
        let ready = status.conditions.iter().find(|c| c.type_ == READY)?;
        let trouble = TROUBLES
            .into_iter()
            .find(|trouble| *trouble == ready.reason);
        Some((trouble?, ready.message.clone()))
    };
    let before = persona.status.as_ref().and_then(reason);
    if let Some((trouble, message)) = reason(after)
        && before.is_none_or(|(before, _)| before != trouble)
    {
        cx.tell(persona, News::warning(trouble, "Route", message))
            .await;
    }
    Ok(())
}
