//! What is known of a persona: from the caches, and from the queue where this process has not told it
//! anything yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::ResourceExt;

use super::adapter::Sight;
use super::plan::{Layout, Observed, PoolView, home_of};
use crate::api::{Persona, WorkerPool};
use crate::controller::observer::served;
use crate::controller::routes::Published;
use crate::controller::{Context, Error};
use crate::queue::stats::PersonaStats;
use crate::topology::Home;

/// A pool, and the lanes that its workers serve, if that is known.
type Place = (Arc<WorkerPool>, Option<BTreeSet<String>>);

/// Everything that a persona's plan depends on.
#[derive(Debug)]
pub struct Seen {
    persona: Arc<Persona>,
    layout: Option<Layout>,
    home: Option<Place>,
    present: Option<Place>,
    published: Option<Published>,
    is_ours: bool,
    live: PersonaStats,
    adapter: Option<Sight>,
}

impl Seen {
    /// As the plan takes it.
    pub fn observed(&self) -> Observed<'_> {
        Observed {
            persona: &self.persona,
            layout: self.layout,
            home: view(self.home.as_ref()),
            present: view(self.present.as_ref()),
            published: self.published.as_ref(),
            is_ours: self.is_ours,
            live: self.live,
            adapter: self.adapter.as_ref(),
        }
    }
}

fn view(sight: Option<&Place>) -> Option<PoolView<'_>> {
    sight.map(|(pool, lanes)| PoolView {
        pool,
        lanes: lanes.as_ref(),
    })
}

/// Looks at everything.
///
/// # Errors
/// The queue gave no answer.
pub async fn observe(cx: &Context, persona: Arc<Persona>) -> Result<Seen, Error> {
    let (namespace, name) = (persona.namespace().unwrap_or_default(), persona.name_any());
    let told = cx.routes.of(&namespace, &name);
    let is_ours = told.is_some();
    let published = match told {
        Some(told) => Some(told),
        None => registered(cx, &namespace, &name).await?,
    };
    let mut seen = look(cx, persona, published, is_ours);
    seen.live = live(cx, &namespace, &name, &seen).await?;
    Ok(seen)
}

/// Looks at what is known without the queue.
pub fn blind(cx: &Context, persona: Arc<Persona>) -> Seen {
    let status = persona.status.as_ref();
    let live = PersonaStats {
        queued: status.map_or(0, |s| u64::try_from(s.queued).unwrap_or_default()),
        running: status.map_or(0, |s| u64::try_from(s.running).unwrap_or_default()),
        quarantined_until_ms: None,
    };
    Seen {
        live,
        ..look(cx, persona, None, false)
    }
}

fn look(cx: &Context, persona: Arc<Persona>, published: Option<Published>, is_ours: bool) -> Seen {
    let namespace = persona.namespace().unwrap_or_default();
    let topology = cx.stores.topology(&namespace);
    let layout = Layout::of(topology.as_deref());
    let sight = |pool: &str| {
        let found = cx.stores.pool(&namespace, pool)?;
        let stats = cx.observer.stats(&namespace, pool).ok();
        let lanes = stats.map(|stats| served(&stats).into_iter().map(str::to_owned).collect());
        Some((found, lanes))
    };
    let home = home_of(&persona, layout);
    let known = match &published {
        Some(told) if Some(&told.uid) == persona.metadata.uid.as_ref() => told.pool.as_deref(),
        _ => persona.status.as_ref().and_then(|s| s.pool.as_deref()),
    };
    // Where it belongs it is to be loaded, before the persona enters.
    let looked_at = home.as_ref().and_then(Home::pool).or(known);
    let stats = looked_at.and_then(|pool| cx.observer.stats(&namespace, pool).ok());
    Seen {
        adapter: stats.and_then(|stats| Sight::of(&persona, &stats)),
        layout,
        home: home.as_ref().and_then(|home| sight(home.pool()?)),
        present: known.and_then(sight),
        published,
        is_ours,
        live: PersonaStats::default(),
        persona,
    }
}

async fn registered(cx: &Context, namespace: &str, name: &str) -> Result<Option<Published>, Error> {
    let found = cx.queue.namespace(namespace)?.registration(name).await?;
    Ok(found.map(|found| Published {
        uid: found.uid,
        generation: found.generation,
        pool: found.pool,
        epoch: found.epoch,
    }))
}

/// Its requests; not asked for where the pool's numbers say that there are none, and nobody suspect.
async fn live(
    cx: &Context,
    namespace: &str,
    name: &str,
    seen: &Seen,
) -> Result<PersonaStats, Error> {
    let pool = seen.published.as_ref().and_then(|p| p.pool.as_deref());
    let stats = pool.and_then(|pool| cx.observer.stats(namespace, pool).ok());
    if stats.is_some_and(|stats| stats.queued == 0 && stats.running == 0 && stats.suspects == 0) {
        return Ok(PersonaStats::default());
    }
    let asked = [name.to_owned()];
    let answers = cx.queue.namespace(namespace)?.persona_stats(&asked).await?;
    Ok(answers.into_iter().next().unwrap_or_default())
}
