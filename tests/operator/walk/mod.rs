//! A namespace that grows and shrinks over all thresholds, with a client on each persona that asks again
//! as soon as it was answered: with worker processes, in a test once and in the soak longer, and with real
//! pods.

mod land;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::json;
use testbed::upstream::{Upstream, says};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use land::Land;
use seen::Seen;

/// Numbers of personas, and the phase that each brings.
pub const STOPS: [(usize, Phase); 5] = [
    (9, Phase::PerPersona),
    (11, Phase::Generic),
    (51, Phase::Hybrid),
    (60, Phase::Hybrid),
    (8, Phase::PerPersona),
];
/// Types, which have a pool each in Hybrid.
const TYPES: usize = 4;
/// A client thinks for this long before it asks again.
const THINKS: Duration = Duration::from_millis(400);

/// What was seen of one way.
#[derive(Debug)]
pub struct Way {
    to: (usize, Phase),
    /// From the first persona that was made or deleted until nothing moved any more.
    took: Duration,
    /// From a pool that was ready to the last persona that entered it, the longest over the pools.
    entered: Option<Duration>,
    /// Of the requests that were submitted meanwhile.
    waits: Vec<Duration>,
}

/// What was seen.
#[derive(Debug)]
pub struct Report {
    ways: Vec<Way>,
    /// Requests; each was answered once, in its order.
    pub requests: usize,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} requests: 0 lost, 0 doubled, each persona's in order",
            self.requests
        )?;
        writeln!(
            f,
            "| personas | phase | took | pool ready to last persona in it | requests meanwhile | answered in (p50, p99) |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for way in &self.ways {
            let (number, phase) = way.to;
            let entered = way
                .entered
                .map_or("-".to_owned(), |time| format!("{time:.0?}"));
            let [p50, p99] = percentiles(way.waits.clone());
            writeln!(
                f,
                "| {number} | {} | {:.1?} | {entered} | {} | {p50:.0?}, {p99:.0?} |",
                phase.as_str(),
                way.took,
                way.waits.len()
            )?;
        }
        Ok(())
    }
}

/// A model that gives the last words of each request back, and keeps book of them.
pub struct Model {
    upstream: Upstream,
    seen: Arc<Seen>,
}

impl Model {
    pub async fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let book = seen.clone();
        let upstream = Upstream::start(move |asked| says(&[&book.arrived(&asked.body)])).await;
        Self { upstream, seen }
    }

    pub fn server(&self) -> &Upstream {
        &self.upstream
    }
}

/// Walks the stops so many times. `endpoint` is where workers reach the model.
///
/// # Errors
/// A request that was lost, doubled or out of order, or a way that does not come to its end.
pub async fn walk(land: Land, model: Model, endpoint: &str, times: usize) -> Result<Report> {
    let spec = json!({"stabilization": "1s", "pool": {"maxReplicas": 2}});
    land.create::<PersonaTopology>("default", spec).await?;
    let mut walker = Walker {
        land,
        model,
        endpoint: endpoint.to_owned(),
        clients: JoinSet::new(),
        stops: Vec::new(),
        made: 0,
    };
    let mut ways = Vec::new();
    for _ in 0..times {
        for to in STOPS {
            ways.push(walker.go(to).await?);
        }
    }
    walker.end(ways).await
}

struct Walker {
    land: Land,
    model: Model,
    endpoint: String,
    clients: JoinSet<Result<usize>>,
    /// Of each persona, the oldest first.
    stops: Vec<(String, CancellationToken)>,
    made: usize,
}

impl Walker {
    async fn go(&mut self, to: (usize, Phase)) -> Result<Way> {
        let (number, phase) = to;
        let begun = Instant::now();
        let stop = CancellationToken::new();
        let watching = tokio::spawn(watch(self.land.clone(), phase, stop.clone()));
        while self.stops.len() < number {
            self.more().await?;
        }
        while self.stops.len() > number {
            self.fewer().await?;
        }
        let still = move |found: Option<&PersonaTopology>| {
            found.is_some_and(|t| {
                let status = t.status.clone().unwrap_or_default();
                status.phase == Some(phase)
                    && usize::try_from(status.personas) == Ok(number)
                    && status.transition.is_none()
                    && is(&status.conditions, "Ready")
                    && is(&status.conditions, "Stable")
            })
        };
        let settled = self.land.until("default", phase.as_str(), still).await?;
        for (name, _) in &self.stops {
            let home = move |p: Option<&Persona>| {
                let status = p.and_then(|p| p.status.as_ref());
                status.is_some_and(|s| s.phase == Some(phase) && is(&s.conditions, "Ready"))
            };
            self.land.until(name, "at home", home).await?;
        }
        let took = begun.elapsed();
        stop.cancel();
        let entered = watching.await??;
        self.check_pools(settled, to).await?;
        let waits = self.model.seen.waits_since(begun);
        ensure!(
            !waits.is_empty(),
            "nobody was answered on the way to {to:?}"
        );
        Ok(Way {
            to,
            took,
            entered,
            waits,
        })
    }

    /// There are the pools of the phase and no others, neither in the API server nor in the queue.
    async fn check_pools(
        &self,
        topology: Option<PersonaTopology>,
        (number, phase): (usize, Phase),
    ) -> Result<()> {
        let listed = topology
            .and_then(|t| t.status)
            .context("no status")?
            .pools
            .into_iter()
            .map(|pool| pool.name)
            .collect::<BTreeSet<_>>();
        let expected = match phase {
            Phase::PerPersona => number,
            Phase::Generic => 1,
            Phase::Hybrid | Phase::Specialized => TYPES,
        };
        ensure!(listed.len() == expected, "{phase:?}: {listed:?}");
        let pools = self.land.all::<WorkerPool>();
        let pools = pools.list(&ListParams::default()).await?;
        let pools: BTreeSet<_> = pools.iter().map(ResourceExt::name_any).collect();
        ensure!(pools == listed, "{pools:?} instead of {listed:?}");
        let open = self.land.queue.pools().await?;
        let open: BTreeSet<_> = open.into_iter().collect();
        ensure!(open == listed, "open: {open:?} instead of {listed:?}");
        Ok(())
    }

    /// One more persona, and a client that asks it at once, before it has a pool.
    async fn more(&mut self) -> Result<()> {
        self.made += 1;
        let name = format!("p{:03}", self.made);
        let spec = json!({
            "type": format!("T{}", self.made % TYPES),
            "model": {
                "provider": "OpenAICompatible",
                "name": "scripted",
                "endpoint": self.endpoint,
            },
            "timeout": "20s",
        });
        self.land.create::<Persona>(&name, spec).await?;
        let stop = CancellationToken::new();
        self.stops.push((name.clone(), stop.clone()));
        let (land, seen) = (self.land.clone(), self.model.seen.clone());
        self.clients
            .spawn(async move { client(&land, &name, &seen, &stop).await });
        Ok(())
    }

    /// The youngest goes: first its client, when it has its answer.
    async fn fewer(&mut self) -> Result<()> {
        let (name, stop) = self.stops.pop().context("nobody is there")?;
        stop.cancel();
        let personas = self.land.all::<Persona>();
        let rests = async {
            while self.model.seen.is_open(&name) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(self.land.patience, rests).await?;
        personas.delete(&name, &DeleteParams::default()).await?;
        Ok(())
    }

    async fn end(mut self, ways: Vec<Way>) -> Result<Report> {
        for (_, stop) in &self.stops {
            stop.cancel();
        }
        let mut requests = 0;
        while let Some(answered) = self.clients.join_next().await {
            requests += answered??;
        }
        self.model.seen.in_order()?;
        let asked = self.model.upstream.counts().requests;
        ensure!(asked == requests, "{asked} attempts for {requests} answers");
        Ok(Report { ways, requests })
    }
}

/// Asks until `stop`; how many were answered.
async fn client(land: &Land, name: &str, seen: &Seen, stop: &CancellationToken) -> Result<usize> {
    // The queue accepts its requests once the persona has a word about itself, ready or not.
    land.until(name, "registered", |p: Option<&Persona>| {
        let status = p.and_then(|p| p.status.as_ref());
        status.is_some_and(|status| status.conditions.iter().any(|c| c.type_ == "Ready"))
    })
    .await?;
    let model = format!("{}/{name}", land.namespace);
    let mut number = 0;
    while !stop.is_cancelled() {
        let content = format!("{name} {number}");
        let sent = Instant::now();
        seen.open(name, true);
        let text = land.chat.answer(&model, &content).await?;
        ensure!(text == content, "{content}: {text}");
        seen.answered(sent);
        seen.open(name, false);
        number += 1;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(THINKS) => {}
        }
    }
    Ok(number)
}

fn is(conditions: &[Condition], type_: &str) -> bool {
    let mut conditions = conditions.iter();
    conditions.any(|found| found.type_ == type_ && found.status == "True")
}

/// From the moment that a pool was ready to the last entry of a persona; the longest over the pools
/// that were made since.
async fn watch(land: Land, phase: Phase, stop: CancellationToken) -> Result<Option<Duration>> {
    let config = watcher::Config::default;
    let mut pools = watcher(land.all::<WorkerPool>(), config())
        .applied_objects()
        .boxed();
    let mut personas = watcher(land.all::<Persona>(), config())
        .applied_objects()
        .boxed();
    let mut ready: BTreeMap<String, Instant> = BTreeMap::new();
    let mut first: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut longest = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(longest),
            Some(pool) = pools.next() => {
                let pool = pool?;
                let status = pool.status.as_ref();
                if status.is_some_and(|status| is(&status.conditions, "Ready")) {
                    ready.entry(pool.name_any()).or_insert_with(Instant::now);
                }
            }
            Some(persona) = personas.next() => {
                let persona = persona?;
                let name = persona.name_any();
                let status = persona.status.unwrap_or_default();
                let before = first.insert(name, status.pool.clone());
                let moved = before.flatten().is_some_and(|before| Some(before) != status.pool);
                if !moved || status.phase != Some(phase) {
                    continue;
                }
                let since = status.pool.and_then(|pool| ready.get(&pool));
                // There are two watches: a pool that is not known to be ready has been so just now.
                let took = since.map_or(Duration::ZERO, Instant::elapsed);
                longest = longest.max(Some(took));
            }
        }
    }
}

fn percentiles(mut values: Vec<Duration>) -> [Duration; 2] {
    values.sort_unstable();
    [50, 99].map(|p| {
        let place = (values.len() * p).div_ceil(100).saturating_sub(1);
        values.get(place).copied().unwrap_or_default()
    })
}
