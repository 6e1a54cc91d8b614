//! Crossings of thresholds, in both directions between all phases, while numbered requests come in all
//! the time: none may be lost, doubled or out of order. A test crosses a few times, the soak many.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use persona_operator::api::{Persona, PersonaTopology, Phase};
use persona_operator::queue::NamespaceQueue;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::OutcomeKind;
use serde_json::{Value, json};
use testbed::upstream::{Upstream, says};
use tokio_util::sync::CancellationToken;

use crate::harness::{Operator, PATIENCE};

/// A walk over every way from one phase to another, from PerPersona back to it.
const WALK: [Phase; 12] = {
    use Phase::{Generic as G, Hybrid as H, PerPersona as P, Specialized as S};
    [G, P, H, P, S, G, H, G, S, H, S, P]
};
/// Those who are asked all the time, each of a type of its own.
const ASKED: [&str; 2] = ["asked-1", "asked-2"];
/// A new request of each of them comes after this.
const PACE: Duration = Duration::from_millis(100);

/// What was seen.
#[derive(Debug)]
pub struct Report {
    /// Crossings.
    pub crossings: usize,
    /// Requests; each was answered once, in its order.
    pub requests: usize,
    /// How long they waited from their submission to their model, while nothing moved: p50 and p99.
    pub calm: [Duration; 2],
    /// The same for those that came during a crossing.
    pub crossing: [Duration; 2],
    /// How long a crossing took, ready pools included: p50 and p99.
    pub took: [Duration; 2],
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            crossings,
            requests,
            ..
        } = self;
        let both = |[p50, p99]: [Duration; 2]| format!("{p50:.1?}, {p99:.1?}");
        writeln!(
            f,
            "| crossings | requests | lost | doubled | out of order | a crossing took (p50, p99) | wait while nothing moves (p50, p99) | wait during a crossing (p50, p99) | added at the p99 |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        // A report is made only where nothing was lost, doubled or out of order.
        writeln!(
            f,
            "| {crossings} | {requests} | 0 | 0 | 0 | {} | {} | {} | {:.1?} |",
            both(self.took),
            both(self.calm),
            both(self.crossing),
            self.crossing[1].saturating_sub(self.calm[1])
        )?;
        Ok(())
    }
}

/// Crosses so many times; `seen` is told after each.
///
/// # Errors
/// A request that was lost, doubled or out of order, or a crossing that does not come to its end.
pub async fn cross(operator: &Operator, times: usize, seen: impl Fn(usize)) -> Result<Report> {
    let log = Arc::new(Log::default());
    let book = log.clone();
    let model = Upstream::start(move |asked| {
        book.arrived(&asked.body);
        says(&["yes"])
    })
    .await;
    prepare(operator, &model).await?;
    let stop = CancellationToken::new();
    let walking = async {
        let walked = walk(operator, &model, &log, times, seen).await;
        stop.cancel();
        walked
    };
    let queue = operator.queue()?;
    let load = futures::future::try_join_all(ASKED.map(|name| ask(&queue, name, &log, &stop)));
    let (walked, loaded) = tokio::join!(walking, load);
    walked?;
    let sent: usize = loaded?.into_iter().sum();
    log.report(sent, times)
}

/// PerPersona up to two, Generic with three, Hybrid with four, Specialized with five.
async fn prepare(operator: &Operator, model: &Upstream) -> Result<()> {
    operator
        .share(json!({
            "thresholds": {"generic": 2, "hybrid": 3, "specialized": 4},
            "hysteresis": 0,
            "stabilization": "0s",
            "pool": {"maxReplicas": 2},
        }))
        .await?;
    for name in ASKED {
        // One at a time, so that the model sees them in their order.
        let more = json!({"type": name, "queue": {"maxConcurrency": 1}});
        operator.persona(name, &model.base_url(), more).await?;
    }
    for name in ASKED {
        operator.ready::<Persona>(name).await?;
    }
    Ok(())
}

async fn walk(
    operator: &Operator,
    model: &Upstream,
    log: &Log,
    times: usize,
    seen: impl Fn(usize),
) -> Result<()> {
    let mut extra = 0;
    for (done, phase) in WALK.into_iter().cycle().take(times).enumerate() {
        let begun = Instant::now();
        let wanted = Phase::ALL.iter().take_while(|p| **p != phase).count();
        while extra < wanted {
            extra += 1;
            more(operator, model, extra).await?;
        }
        while extra > wanted {
            let personas = operator.all::<Persona>();
            let name = format!("extra-{extra}");
            personas.delete(&name, &DeleteParams::default()).await?;
            extra -= 1;
        }
        operator
            .until("default", phase.as_str(), crossed(phase))
            .await?;
        for name in ASKED {
            let moved = move |p: Option<&Persona>| {
                p.and_then(|p| p.status.as_ref())
                    .is_some_and(|status| status.phase == Some(phase))
            };
            operator.until(name, phase.as_str(), moved).await?;
        }
        log.lock().crossings.push((begun, Instant::now()));
        seen(done + 1);
    }
    Ok(())
}

/// One more persona that nobody asks; the third has an adapter, which Specialized needs.
async fn more(operator: &Operator, model: &Upstream, number: usize) -> Result<()> {
    let mut more = json!({"type": ASKED[number % 2]});
    if number == 3 {
        more["adapter"] = json!({"name": "tone", "source": "hf://example/tone"});
    }
    let name = format!("extra-{number}");
    operator.persona(&name, &model.base_url(), more).await?;
    Ok(())
}

fn crossed(phase: Phase) -> impl Fn(Option<&PersonaTopology>) -> bool {
    move |topology| {
        let status = topology.and_then(|t| t.status.as_ref());
        status.is_some_and(|s| s.phase == Some(phase) && s.transition.is_none())
    }
}

/// Submits numbered requests until `stop`, and sees each of them answered; how many.
///
/// # Errors
/// A request that is refused, lost, or ends otherwise than completed.
pub async fn ask(
    queue: &NamespaceQueue,
    persona: &str,
    log: &Log,
    stop: &CancellationToken,
) -> Result<usize> {
    let mut open = VecDeque::new();
    let mut number = 0;
    let mut tick = tokio::time::interval(PACE);
    // On a loaded machine it falls behind; all that it missed at once would fill the queue.
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        tick.tick().await;
        let task = format!("{persona}-{number}");
        let content = format!("{persona} {number}");
        let request = json!({"model": persona, "messages": [{"role": "user", "content": content}]});
        let payload = json!({"kind": "chat.completions", "request": request}).to_string();
        let at = Instant::now();
        let answer = queue
            .enqueue(&Enqueue::new(persona, &task, &payload))
            .await?;
        ensure!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
        log.lock().sent.insert((persona.to_owned(), number), at);
        open.push_back(task);
        number += 1;
        while let Some(task) = open.front()
            && is_answered(queue, task).await?
        {
            open.pop_front();
        }
    }
    for task in open {
        let ends = async {
            while !is_answered(queue, &task).await? {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        let answered = tokio::time::timeout(PATIENCE, ends).await;
        answered.with_context(|| format!("{task} is not answered"))??;
    }
    Ok(number)
}

async fn is_answered(queue: &NamespaceQueue, task: &str) -> Result<bool> {
    let output = queue.output(task, None).await?;
    let output = output.with_context(|| format!("{task} is lost"))?;
    let Some(outcome) = output.outcome else {
        return Ok(false);
    };
    ensure!(
        outcome.outcome == OutcomeKind::Completed,
        "{task}: {outcome:?}"
    );
    Ok(true)
}

/// What happened when.
#[derive(Default)]
pub struct Log(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    sent: BTreeMap<(String, usize), Instant>,
    /// Of each persona, as the model saw them.
    arrived: BTreeMap<String, Vec<(usize, Instant)>>,
    crossings: Vec<(Instant, Instant)>,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model got this.
    pub fn arrived(&self, body: &Value) {
        let messages = body["messages"].as_array();
        let content = messages.and_then(|all| all.last()?["content"].as_str());
        let parts = content.and_then(|text| text.split_once(' '));
        if let Some((persona, number)) = parts
            && let Ok(number) = number.parse()
        {
            let mut entries = self.lock();
            let seen = entries.arrived.entry(persona.to_owned()).or_default();
            seen.push((number, Instant::now()));
        }
    }

    /// Sees to it that so many requests reached the model, each once and a persona's in their order.
    ///
    /// # Errors
    /// Otherwise.
    pub fn in_order(&self, requests: usize) -> Result<()> {
        let entries = self.lock();
        for (persona, arrived) in &entries.arrived {
            for (place, (number, _)) in arrived.iter().enumerate() {
                ensure!(
                    *number == place,
                    "{persona}: {number} arrived as number {place}"
                );
            }
        }
        let arrived: usize = entries.arrived.values().map(Vec::len).sum();
        ensure!(
            arrived == requests,
            "{arrived} of {requests} requests arrived"
        );
        Ok(())
    }

    fn report(&self, requests: usize, crossings: usize) -> Result<Report> {
        self.in_order(requests)?;
        let entries = self.lock();
        let (mut calm, mut crossing) = (Vec::new(), Vec::new());
        for (persona, arrived) in &entries.arrived {
            for (number, at) in arrived {
                let sent = entries.sent[&(persona.clone(), *number)];
                let during = |(from, to): &(Instant, Instant)| (*from..*to).contains(&sent);
                let waits = match entries.crossings.iter().any(during) {
                    true => &mut crossing,
                    false => &mut calm,
                };
                waits.push(at.duration_since(sent));
            }
        }
        let took = entries.crossings.iter().map(|(from, to)| *to - *from);
        Ok(Report {
            crossings,
            requests,
            calm: percentiles(calm),
            crossing: percentiles(crossing),
            took: percentiles(took.collect()),
        })
    }
}

fn percentiles(mut values: Vec<Duration>) -> [Duration; 2] {
    values.sort_unstable();
    [50, 99].map(|p| {
        let place = (values.len() * p).div_ceil(100).saturating_sub(1);
        values.get(place).copied().unwrap_or_default()
    })
}
