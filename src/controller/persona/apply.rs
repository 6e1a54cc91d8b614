//! Tells the queue where a persona's requests run.

use std::time::Duration;

use kube::{Api, ResourceExt};

use super::adapter;
use super::plan::{Intent, Observed, Plan, known};
use super::status::Refusal;
use crate::api::Persona;
use crate::api::runtime::{PersonaConfig, lane};
use crate::controller::routes::Published;
use crate::controller::{Context, Error};
use crate::queue::NamespaceQueue;
use crate::queue::routing::{Route, RouteAnswer, Target};

/// When to try again what others should change any moment.
const SOON: Duration = Duration::from_secs(1);
/// When to try again what only a person can change.
const LATER: Duration = Duration::from_secs(30);

/// What became of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The queue has what it shall have.
    Done,
    /// It has been overtaken by events: to be planned anew after this time.
    Again(Duration),
    /// The queue refused: to be planned anew after this time.
    Refused(Refusal, Duration),
}

/// Carries the plan out.
///
/// # Errors
/// The queue or the API server gave no answer.
pub async fn apply(cx: &Context, observed: &Observed<'_>, plan: &Plan) -> Result<Applied, Error> {
    let persona = observed.persona;
    let (namespace, name) = (persona.namespace().unwrap_or_default(), persona.name_any());
    let Some(intent) = &plan.route else {
        // It keeps what an earlier process told the queue, until there is more to tell: with epoch 0,
        // so that it is told then.
        if let Some(kept) = known(observed).filter(|_| !observed.is_ours) {
            let kept = Published {
                epoch: 0,
                ..kept.clone()
            };
            cx.routes.published(&namespace, &name, kept);
        }
        return Ok(Applied::Done);
    };
    let queue = cx.queue.namespace(&namespace)?;
    let generation = generation(persona);
    let mut answer = call(&queue, persona, intent, plan.epoch, generation).await?;
    if let RouteAnswer::OtherUid { current } = &answer {
        if !is_alive(cx, persona).await? {
            // The cache is behind; its next event brings the persona that there is.
            return Ok(Applied::Again(SOON));
        }
        queue.remove(&name, current, super::sweep::REASON).await?;
        answer = call(&queue, persona, intent, plan.epoch, generation).await?;
    }
    if let RouteAnswer::StaleGeneration { current } = answer {
        if !is_newest(cx, persona).await? {
            cx.routes.forget(&namespace, &name);
            return Ok(Applied::Again(SOON));
        }
        // The API server was restored from a copy, and counts anew what the queue has counted further.
        tracing::warn!(
            namespace,
            persona = name,
            generation,
            current,
            "the queue has a newer generation than the API server: overtaking it"
        );
        let beyond = current.saturating_add(1);
        answer = call(&queue, persona, intent, plan.epoch, beyond).await?;
    }
    match answer {
        RouteAnswer::Routed { from, pool, queued } => {
            // A call of an earlier leader may have moved it since it was looked at.
            let expected = match intent {
                Intent::Stay => known(observed).and_then(|known| known.pool.clone()),
                Intent::Leave => None,
                Intent::Enter(pool) => Some(pool.clone()),
            };
            let elsewhere = pool != expected;
            if let (Some(from), Some(to)) = (&from, &pool) {
                tracing::info!(namespace, persona = name, from, to, queued, "moved");
            }
            for pool in [&from, &pool].into_iter().flatten() {
                cx.observer.look(&namespace, pool);
            }
            let published = Published {
                uid: persona.uid().unwrap_or_default(),
                generation,
                pool,
                epoch: plan.epoch,
            };
            cx.routes.published(&namespace, &name, published);
            if cx.routes.epoch(&namespace).is_none() {
                cx.contact.hurry();
            }
            if elsewhere {
                return Ok(Applied::Again(SOON));
            }
            Ok(Applied::Done)
        }
        RouteAnswer::StaleEpoch { current } => {
            // An earlier leader's, whose topology was deleted or restored from a copy since.
            cx.routes.overtaken(&namespace, current);
            cx.bells.topology(&namespace).await;
            Ok(Applied::Refused(Refusal::StaleEpoch, SOON))
        }
        RouteAnswer::ClosedPool => {
            // It was retired a moment ago, or is not open yet.
            cx.routes.forget(&namespace, &name);
            Ok(Applied::Refused(Refusal::ClosedPool, SOON))
        }
        RouteAnswer::OtherUid { .. } => Ok(Applied::Refused(Refusal::OtherUid, SOON)),
        // Somebody else has just overtaken it too.
        RouteAnswer::StaleGeneration { .. } => Ok(Applied::Again(SOON)),
        RouteAnswer::Removed => {
            tracing::warn!(
                namespace,
                persona = name,
                "was taken out of the queue as deleted, and comes back there in some minutes at the latest"
            );
            Ok(Applied::Refused(Refusal::Removed, LATER))
        }
    }
}

async fn call(
    queue: &NamespaceQueue,
    persona: &Persona,
    intent: &Intent,
    epoch: u64,
    generation: i64,
) -> Result<RouteAnswer, Error> {
    let config = PersonaConfig {
        generation,
        ..PersonaConfig::of(persona)
    };
    let route = Route {
        persona: &persona.name_any(),
        uid: &persona.uid().unwrap_or_default(),
        target: match intent {
            Intent::Stay => Target::Unchanged,
            Intent::Leave => Target::Nowhere,
            Intent::Enter(pool) => Target::Pool(pool),
        },
        lane: &lane(persona),
        epoch,
        config: &config,
        limits: &persona.spec.queue,
        suspended: persona.spec.suspend,
        needs: &adapter::needs(persona),
    };
    Ok(queue.route(&route).await?)
}

fn generation(persona: &Persona) -> i64 {
    persona.metadata.generation.unwrap_or_default()
}

/// Whether the API server has no newer generation of this very persona than the cache.
async fn is_newest(cx: &Context, persona: &Persona) -> Result<bool, Error> {
    let namespace = persona.namespace().unwrap_or_default();
    let personas: Api<Persona> = Api::namespaced(cx.client.clone(), &namespace);
    let found = personas.get_opt(&persona.name_any()).await?;
    Ok(found.is_some_and(|found| {
        found.metadata.uid == persona.metadata.uid
            && found.metadata.generation == persona.metadata.generation
    }))
}

/// Whether this very persona exists, by the API server's word.
pub async fn is_alive(cx: &Context, persona: &Persona) -> Result<bool, Error> {
    let namespace = persona.namespace().unwrap_or_default();
    let uid = persona.metadata.uid.as_deref().unwrap_or_default();
    exists(cx, &namespace, &persona.name_any(), uid).await
}

/// Whether a persona of that name and uid exists, by the API server's word.
///
/// # Errors
/// The API server gave no answer.
pub async fn exists(cx: &Context, namespace: &str, name: &str, uid: &str) -> Result<bool, Error> {
    let personas: Api<Persona> = Api::namespaced(cx.client.clone(), namespace);
    let found = personas.get_opt(name).await?;
    Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid)))
}
