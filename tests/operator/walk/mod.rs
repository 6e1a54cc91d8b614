//! A namespace that grows and shrinks over all thresholds, with a client on each persona that asks again
//! as soon as it was answered. A test walks once, the soak longer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::{Value, json};
use testbed::upstream::{Upstream, says};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{Operator, PATIENCE, condition};

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

/// Walks the stops so many times.
///
/// # Errors
/// A request that was lost, doubled or out of order, or a way that does not come to its end.
pub async fn walk(operator: &Arc<Operator>, times: usize) -> Result<Report> {
    let seen = Arc::new(Seen::default());
    let book = seen.clone();
    let model = Upstream::start(move |asked| says(&[&book.arrived(&asked.body)])).await;
    operator
        .share(json!({"stabilization": "1s", "pool": {"maxReplicas": 2}}))
        .await?;
    let mut walker = Walker {
        operator: operator.clone(),
        model,
        seen,
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
    operator: Arc<Operator>,
    model: Upstream,
    seen: Arc<Seen>,
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
        let watching = tokio::spawn(watch(self.operator.clone(), phase, stop.clone()));
        while self.stops.len() < number {
            self.more().await?;
        }
        while self.stops.len() > number {
            self.fewer().await?;
        }
        let still = move |found: Option<&PersonaTopology>| {
            found.is_some_and(|t| {
                let status = t.status.clone().unwrap_or_default();
                let is = |type_| condition(t, type_).as_deref() == Some("True");
                status.phase == Some(phase)
                    && usize::try_from(status.personas) == Ok(number)
                    && status.transition.is_none()
                    && is("Ready")
                    && is("Stable")
            })
        };
        let settled = self
            .operator
            .until("default", phase.as_str(), still)
            .await?;
        for (name, _) in &self.stops {
            let home = move |p: Option<&Persona>| {
                p.is_some_and(|p| {
                    let status = p.status.as_ref();
                    condition(p, "Ready").as_deref() == Some("True")
                        && status.is_some_and(|s| s.phase == Some(phase))
                })
            };
            self.operator.until(name, "at home", home).await?;
        }
        let took = begun.elapsed();
        stop.cancel();
        let entered = watching.await??;
        self.check_pools(settled, to).await?;
        let waits = self.seen.waits_since(begun);
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
        let pools = self.operator.all::<WorkerPool>();
        let pools = pools.list(&ListParams::default()).await?;
        let pools: BTreeSet<_> = pools.iter().map(ResourceExt::name_any).collect();
        ensure!(pools == listed, "{pools:?} instead of {listed:?}");
        let open = self.operator.queue()?.pools().await?;
        let open: BTreeSet<_> = open.into_iter().collect();
        ensure!(open == listed, "open: {open:?} instead of {listed:?}");
        Ok(())
    }

    /// One more persona, and a client that asks it at once, before it has a pool.
    async fn more(&mut self) -> Result<()> {
        self.made += 1;
        let name = format!("p{:03}", self.made);
        let more = json!({"type": format!("T{}", self.made % TYPES)});
        self.operator
            .persona(&name, &self.model.base_url(), more)
            .await?;
        let stop = CancellationToken::new();
        self.stops.push((name.clone(), stop.clone()));
        let (operator, seen) = (self.operator.clone(), self.seen.clone());
        self.clients
            .spawn(async move { client(&operator, &name, &seen, &stop).await });
        Ok(())
    }

    /// The youngest goes: first its client, when it has its answer.
    async fn fewer(&mut self) -> Result<()> {
        let (name, stop) = self.stops.pop().context("nobody is there")?;
        stop.cancel();
        let personas = self.operator.all::<Persona>();
        let rests = async {
            while self.seen.is_open(&name) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, rests).await?;
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
        self.seen.in_order()?;
        let asked = self.model.counts().requests;
        ensure!(asked == requests, "{asked} attempts for {requests} answers");
        Ok(Report { ways, requests })
    }
}

/// Asks until `stop`; how many were answered.
async fn client(
    operator: &Operator,
    name: &str,
    seen: &Seen,
    stop: &CancellationToken,
) -> Result<usize> {
    // The queue accepts its requests once the persona has a word about itself, ready or not.
    operator
        .until(name, "registered", |p: Option<&Persona>| {
            p.is_some_and(|p| condition(p, "Ready").is_some())
        })
        .await?;
    let mut number = 0;
    while !stop.is_cancelled() {
        let content = format!("{name} {number}");
        let sent = Instant::now();
        seen.open(name, true);
        let body = json!({"messages": [{"role": "user", "content": content}]});
        let response = operator.ask(name, body).await?;
        let status = response.status();
        let body: Value = response.json().await?;
        let text = &body["choices"][0]["message"]["content"];
        ensure!(*text == content, "{content}: {status} {body}");
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

/// From the moment that a pool was ready to the last entry of a persona; the longest over the pools
/// that were made since.
async fn watch(
    operator: Arc<Operator>,
    phase: Phase,
    stop: CancellationToken,
) -> Result<Option<Duration>> {
    let config = watcher::Config::default;
    let mut pools = watcher(operator.all::<WorkerPool>(), config())
        .applied_objects()
        .boxed();
    let mut personas = watcher(operator.all::<Persona>(), config())
        .applied_objects()
        .boxed();
    let mut ready: BTreeMap<String, Instant> = BTreeMap::new();
    let mut first: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut longest = None;
    let begun = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(longest),
            Some(pool) = pools.next() => {
                let pool = pool?;
                if condition(&pool, "Ready").as_deref() == Some("True") {
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
                let since = status.pool.and_then(|pool| ready.get(&pool).copied());
                let took = since.unwrap_or(begun).elapsed();
                longest = longest.max(Some(took));
            }
        }
    }
}

/// What the model and the clients saw.
#[derive(Default)]
struct Seen(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    /// Of each persona, as the model saw them.
    arrived: BTreeMap<String, Vec<usize>>,
    /// When a request was submitted, and how long its answer took.
    answered: Vec<(Instant, Duration)>,
    open: BTreeSet<String>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request and gives its words back.
    fn arrived(&self, body: &Value) -> String {
        let messages = body["messages"].as_array();
        let content = messages.and_then(|all| all.last()?["content"].as_str());
        let content = content.unwrap_or_default();
        if let Some((name, number)) = content.split_once(' ')
            && let Ok(number) = number.parse()
        {
            let mut entries = self.lock();
            let arrived = entries.arrived.entry(name.to_owned()).or_default();
            arrived.push(number);
        }
        content.to_owned()
    }

    fn answered(&self, sent: Instant) {
        self.lock().answered.push((sent, sent.elapsed()));
    }

    fn open(&self, name: &str, is: bool) {
        let open = &mut self.lock().open;
        if is {
            open.insert(name.to_owned());
        } else {
            open.remove(name);
        }
    }

    fn is_open(&self, name: &str) -> bool {
        self.lock().open.contains(name)
    }

    fn waits_since(&self, begun: Instant) -> Vec<Duration> {
        let entries = self.lock();
        let since = entries.answered.iter().filter(|(sent, _)| *sent >= begun);
        since.map(|(_, wait)| *wait).collect()
    }

    fn in_order(&self) -> Result<()> {
        for (name, arrived) in &self.lock().arrived {
            let order = arrived.iter().enumerate().all(|(place, n)| place == *n);
            ensure!(order, "{name}: {arrived:?}");
        }
        Ok(())
    }
}

fn percentiles(mut values: Vec<Duration>) -> [Duration; 2] {
    values.sort_unstable();
    [50, 99].map(|p| {
        let place = (values.len() * p).div_ceil(100).saturating_sub(1);
        values.get(place).copied().unwrap_or_default()
    })
}
