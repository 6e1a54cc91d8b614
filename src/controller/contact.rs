//! Upkeep of the queue: functions and users at each new contact, epochs once routes are published,
//! what workers have lost.
//!
//! - `chores` what the queue is to be told of deletions and losses
//! - `clock` whether the queue's clock has jumped
//! - `sweep` compares what is registered with what exists, and gives and takes access
//!
//! What is wrong with one namespace, in the queue or at the API server, is that namespace's trouble
//! alone: it is told, and the others go on.

mod chores;
mod clock;
pub mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use self::chores::Removal;
use self::chores::{Chore, reap};
use super::context::is_paused;
use super::pods::Loss;
use super::routes::Verdict;
use super::{Context, Error};
use crate::api::condition::{self, QUEUE_SAFE};
use crate::lock::lock;
use crate::queue::library::{Finding, RISKS};
use crate::queue::work::LEASE;

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Least time between two rounds, whatever is asked for.
const BREATH: Duration = Duration::from_millis(100);
/// How often the server is asked who it is, what it keeps and whom it knows, though nothing looks wrong.
const INSPECT: Duration = Duration::from_secs(10);
/// How long one round may wait for the queue.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tasks a call of reap touches.
const BATCH: u32 = 500;

/// The state of the contact with the queue.
#[derive(Default)]
pub struct Contact {
    state: Mutex<State>,
    chores: Mutex<BTreeSet<Chore>>,
    /// Namespaces whose trouble was told since the last sweep.
    troubled: Mutex<BTreeSet<String>>,
    wake: Notify,
    to_sweep: Notify,
}

#[derive(Default)]
struct State {
    /// Since when it has been usable without a break; none = it is not.
    since: Option<Instant>,
    run_id: String,
    /// Why it is not usable.
    words: Option<String>,
    /// What is risky about it; none = it was not asked yet.
    findings: Option<Vec<Finding>>,
    suspected: bool,
    inspected: Option<Instant>,
    /// The last look at its clock.
    clock: Option<clock::Look>,
}

impl Contact {
    /// Whether the queue can be used, and if not why.
    ///
    /// # Errors
    /// A sentence for a condition's message.
    pub fn usable(&self) -> Result<(), String> {
        let state = self.state();
        match state.since {
            Some(_) => Ok(()),
            None => Err(state
                .words
                .clone()
                .unwrap_or_else(|| "the queue was not reached yet".to_owned())),
        }
    }

    /// Whether the queue's server keeps what it is given, as it was when last asked; none before.
    pub fn safety(&self) -> Option<condition::Verdict> {
        let state = self.state();
        let verdict = match state.findings.as_deref()? {
            [] => {
                let message = "Redis evicts nothing and writes what it is given to disk";
                condition::Verdict::yes(QUEUE_SAFE, "Safe", message)
            }
            [first, others @ ..] => {
                let mut message = first.message.clone();
                for other in others {
                    message.push_str("; ");
                    message.push_str(&other.message);
                }
                condition::Verdict::no(QUEUE_SAFE, first.reason, message)
            }
        };
        Some(verdict)
    }

    /// Something looks wrong: ask the server who it is.
    pub fn suspect(&self) {
        self.state().suspected = true;
    }

    /// A worker was lost. The queue may hear of it long after, when the worker has begun anew: what counts
    /// is what it had taken by now.
    pub fn lost(&self, loss: Loss) {
        let now = Instant::now();
        let at_ms = self.state().clock.map(|look| look.at_most(now));
        self.put(Chore::Lost(loss, at_ms));
    }

    /// A persona was deleted.
    pub fn removed(&self, removal: Removal) {
        self.put(Chore::Removed(removal));
    }

    /// A pool was deleted.
    pub fn pool_gone(&self, namespace: &str, pool: &str) {
        let (namespace, pool) = (namespace.to_owned(), pool.to_owned());
        self.put(Chore::PoolGone { namespace, pool });
    }

    fn put(&self, chore: Chore) {
        lock(&self.chores).insert(chore);
        self.wake.notify_one();
    }

    /// There may be an epoch to set.
    pub fn hurry(&self) {
        self.wake.notify_one();
    }

    /// All objects are known: what the queue has can be compared with them.
    pub fn sweep(&self) {
        self.to_sweep.notify_one();
    }

    /// What the queue or the API server refuses one namespace is no trouble of the others: it is told
    /// once until the next sweep, and counted, and there is no value.
    ///
    /// # Errors
    /// The one that is about the queue as a whole.
    fn apart<T>(
        &self,
        cx: &Context,
        namespace: &str,
        result: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) if error.is_of_queue() => return Err(error),
            Err(error) => error,
        };
        let labels = ["Namespace", error.reason()];
        cx.metrics.errors.with_label_values(&labels).inc();
        if lock(&self.troubled).insert(namespace.to_owned()) {
            tracing::warn!(namespace, %error, "a namespace cannot be kept in order");
        }
        Ok(None)
    }

    fn forget_troubles(&self) {
        lock(&self.troubled).clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn due(&self) -> bool {
        let mut state = self.state();
        let asked = std::mem::take(&mut state.suspected);
        asked || state.since.is_none() || state.inspected.is_none_or(|at| at.elapsed() >= INSPECT)
    }

    fn broken(&self, words: String) {
        let mut state = self.state();
        if state.since.take().is_some() || state.words.is_none() {
            tracing::warn!(reason = words, "the queue is not usable");
        }
        state.words = Some(words);
        state.suspected = true;
    }

    /// A clock that has jumped makes leases look over that are not: as after an outage, each worker is to
    /// have had the time to renew its own.
    fn saw_clock(&self, look: clock::Look) {
        let mut state = self.state();
        let before = state.clock.replace(look);
        if let Some(jump) = before.and_then(|before| look.jump_since(&before)) {
            tracing::warn!(
                jump_ms = jump,
                "the clock of the queue's server has jumped: lost workers are not looked for before {LEASE:?} have passed; keep it in step by a service that corrects it gradually"
            );
            state.since = state.since.map(|_| look.answered);
        }
    }

    /// Leases are reaped only after one of uninterrupted contact: workers that could not renew theirs
    /// had no chance to.
    fn reaps(&self, now: Instant) -> bool {
        let state = self.state();
        let since = state.since.filter(|_| !state.suspected);
        since.is_some_and(|since| now.saturating_duration_since(since) >= LEASE)
    }
}

/// Keeps the queue in order until `stop`.
pub async fn run(cx: Arc<Context>, stop: CancellationToken) {
    let pulse = cx.health.pulse("queue upkeep", Duration::from_secs(60));
    loop {
        pulse.beat();
        match timeout(PATIENCE, round(&cx)).await {
            Ok(Ok(())) => cx.metrics.queue_is_up(true),
            Ok(Err(error)) => broken(&cx, error.to_string()),
            Err(_) => broken(&cx, format!("the queue did not answer within {PATIENCE:?}")),
        }
        sleep(BREATH).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(ROUND.mul_f64(rand::random_range(0.9..1.1))) => {}
            () = cx.contact.wake.notified() => {}
        }
    }
}

fn broken(cx: &Context, words: String) {
    cx.metrics.queue_is_up(false);
    cx.contact.broken(words);
}

async fn round(cx: &Context) -> Result<(), Error> {
    if cx.contact.due() {
        inspect(cx, &namespaces(cx)).await?;
    }
    let chores = lock(&cx.contact.chores).clone();
    for chore in &chores {
        // What a namespace refuses is not tried again here: a sweep, or a lease that ends, comes to it.
        let done = chore.run(cx).await;
        if cx.contact.apart(cx, chore.namespace(), done)? != Some(false) {
            lock(&cx.contact.chores).remove(chore);
        }
    }
    let namespaces = namespaces(cx);
    let is_left =
        |namespace: &str| !namespaces.contains_key(namespace) && !cx.pods.are_in(namespace);
    if chores.iter().any(|chore| is_left(chore.namespace())) {
        cx.contact.sweep();
    }
    for namespace in cx.routes.doubted() {
        let none = BTreeSet::new();
        let personas = namespaces.get(&namespace).unwrap_or(&none);
        let settled = settle(cx, &namespace, personas).await;
        cx.contact.apart(cx, &namespace, settled)?;
    }
    let seen = clock::look(cx).await?;
    if cx.contact.reaps(Instant::now()) {
        for namespace in namespaces.keys() {
            let reaped = reap(cx, namespace, BATCH, seen).await;
            cx.contact.apart(cx, namespace, reaped)?;
        }
    }
    Ok(())
}

/// Loads functions and sets users where the server is new, has become another one, or has lost them.
async fn inspect(
    cx: &Context,
    namespaces: &BTreeMap<String, BTreeSet<String>>,
) -> Result<(), Error> {
    let installed = cx.queue.install(&cx.cluster_id).await?;
    let news = judge(cx, &installed.findings);
    if let Some(fatal) = installed.findings.iter().find(|finding| finding.fatal) {
        return Err(Error::QueueUnfit(fatal.message.clone()));
    }
    let is_new = {
        let state = cx.contact.state();
        state.since.is_none() || state.run_id != installed.run_id
    };
    if is_new {
        cx.access.forget_users();
    } else {
        cx.access.found_users(&cx.queue.users().await?);
    }
    cx.access.ensure_gateway(cx).await?;
    for namespace in namespaces.keys() {
        let given = cx.access.ensure_user(cx, namespace).await;
        cx.contact.apart(cx, namespace, given)?;
        if is_new {
            cx.routes.check(namespace);
        }
    }
    if is_new {
        tracing::info!(run_id = installed.run_id, "the queue is usable");
    }
    {
        let mut state = cx.contact.state();
        if is_new {
            state.since = Some(Instant::now());
            state.run_id = installed.run_id;
            state.words = None;
        }
        state.inspected = Some(Instant::now());
    }
    if is_new {
        cx.contact.sweep();
    }
    if is_new || news {
        cx.wake_all().await;
    }
    Ok(())
}

/// Tells of what is risky about the server where that is new; whether it is.
fn judge(cx: &Context, findings: &[Finding]) -> bool {
    let risks: Vec<Finding> = findings.iter().filter(|f| !f.fatal).cloned().collect();
    for reason in RISKS {
        let is = risks.iter().any(|finding| finding.reason == reason);
        let gauge = cx.metrics.queue_risk.with_label_values(&[reason]);
        gauge.set(i64::from(is));
    }
    let mut state = cx.contact.state();
    let before = state.findings.replace(risks.clone());
    for finding in &risks {
        if !before
            .as_ref()
            .is_some_and(|before| before.contains(finding))
        {
            tracing::warn!(reason = finding.reason, "{}", finding.message);
        }
    }
    before.as_ref() != Some(&risks)
}

/// Compares a namespace's epoch, and sets one once all its personas are published.
async fn settle(cx: &Context, namespace: &str, personas: &BTreeSet<String>) -> Result<(), Error> {
    let queue = cx.queue.namespace(namespace)?;
    let found = queue.epoch().await?;
    let registered = match found {
        Some(_) => BTreeSet::new(),
        None => queue.personas().await?.into_iter().collect(),
    };
    let found = found.as_deref().ok_or(&registered);
    match cx.routes.compare(namespace, personas, found) {
        Verdict::Settled | Verdict::Unfinished => {}
        Verdict::Complete => {
            let epoch = format!("{:032x}", rand::random::<u128>());
            queue.set_epoch(Some(&epoch)).await?;
            cx.routes.compare(namespace, personas, Ok(&epoch));
            cx.look_at_pools(namespace);
        }
        Verdict::Lost => {
            tracing::warn!(
                namespace,
                "the queue has lost its data: publishing all again"
            );
            cx.wake_namespace(namespace).await;
        }
    }
    Ok(())
}

/// Namespaces with personas or pools, and the names of the personas that are published: all but those
/// that nobody may touch.
fn namespaces(cx: &Context) -> BTreeMap<String, BTreeSet<String>> {
    let mut namespaces: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for persona in cx.stores.personas.state() {
        if let (Some(namespace), Some(name)) = (
            persona.metadata.namespace.clone(),
            persona.metadata.name.clone(),
        ) {
            let names = namespaces.entry(namespace).or_default();
            if !is_paused(&*persona) && persona.metadata.deletion_timestamp.is_none() {
                names.insert(name);
            }
        }
    }
    for pool in cx.stores.pools.state() {
        if let Some(namespace) = pool.metadata.namespace.clone() {
            namespaces.entry(namespace).or_default();
        }
    }
    namespaces
}
