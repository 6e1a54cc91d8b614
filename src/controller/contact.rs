//! Upkeep of the queue: functions and users at each new contact, epochs once routes are published,
//! what workers have lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::context::is_paused;
use super::pods::Loss;
use super::routes::Verdict;
use super::{Context, Error, persona, topology};
use crate::api::Phase;
use crate::lock::lock;
use crate::queue::fleet::{Reaped, Sweep};
use crate::queue::task::OutcomeKind;
use crate::queue::work::LEASE;

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Least time between two rounds, whatever is asked for.
const BREATH: Duration = Duration::from_millis(100);
/// How often the server is asked who it is, though nothing looks wrong.
const INSPECT: Duration = Duration::from_secs(10);
/// How often registrations are compared with what exists.
const SWEEP: Duration = Duration::from_secs(60);
/// How long one round may wait for the queue.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tasks a call of reap touches.
const BATCH: u32 = 500;

/// The state of the contact with the queue.
#[derive(Default)]
pub struct Contact {
    state: Mutex<State>,
    losses: Mutex<HashSet<Loss>>,
    removals: Mutex<HashSet<Removal>>,
    /// Namespaces and names of pools that were deleted.
    gone: Mutex<HashSet<(String, String)>>,
    wake: Notify,
}

/// A persona that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Removal {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub persona: String,
    /// Its uid: another persona of that name is not meant.
    pub uid: String,
}

#[derive(Default)]
struct State {
    /// Since when it has been usable without a break; none = it is not.
    since: Option<Instant>,
    run_id: String,
    /// Why it is not usable, or what is risky about it.
    words: Option<String>,
    suspected: bool,
    inspected: Option<Instant>,
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

    /// Something looks wrong: ask the server who it is.
    pub fn suspect(&self) {
        self.state().suspected = true;
    }

    /// A worker was lost; its tasks are given back, as soon as the queue can be reached.
    pub fn lost(&self, loss: Loss) {
        lock(&self.losses).insert(loss);
        self.wake.notify_one();
    }

    /// A persona was deleted; its tasks end, as soon as the queue can be reached.
    pub fn removed(&self, removal: Removal) {
        lock(&self.removals).insert(removal);
        self.wake.notify_one();
    }

    /// A pool was deleted: it is closed, as soon as the queue can be reached. Whoever deleted it may not
    /// have, or somebody who had not heard of it has opened it again since.
    pub fn pool_gone(&self, namespace: &str, pool: &str) {
        lock(&self.gone).insert((namespace.to_owned(), pool.to_owned()));
        self.wake.notify_one();
    }

    /// There may be an epoch to set.
    pub fn hurry(&self) {
        self.wake.notify_one();
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

    /// Leases are reaped only after one of uninterrupted contact: workers that could not renew theirs
    /// had no chance to.
    fn reaps(&self) -> bool {
        let state = self.state();
        let since = state.since.filter(|_| !state.suspected);
        since.is_some_and(|since| since.elapsed() >= LEASE)
    }
}

/// Keeps the queue in order until `stop`.
pub async fn run(cx: Arc<Context>, stop: CancellationToken) {
    let pulse = cx.health.pulse("queue upkeep", Duration::from_secs(60));
    // What was deleted before this process led has nobody else to tell it.
    let mut swept = None;
    loop {
        pulse.beat();
        match timeout(PATIENCE, round(&cx, &mut swept)).await {
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

async fn round(cx: &Context, swept: &mut Option<Instant>) -> Result<(), Error> {
    if cx.contact.due() {
        inspect(cx).await?;
    }
    let losses: Vec<Loss> = lock(&cx.contact.losses).iter().cloned().collect();
    for loss in losses {
        give_back(cx, &loss).await?;
        lock(&cx.contact.losses).remove(&loss);
    }
    let removals: Vec<Removal> = lock(&cx.contact.removals).iter().cloned().collect();
    for removal in removals {
        persona::removed(cx, &removal).await?;
        lock(&cx.contact.removals).remove(&removal);
    }
    let gone: Vec<_> = lock(&cx.contact.gone).iter().cloned().collect();
    for key in gone {
        // What still runs there keeps it open until a sweep finds it empty.
        close_pool(cx, &key.0, &key.1).await?;
        lock(&cx.contact.gone).remove(&key);
    }
    let namespaces = namespaces(cx);
    for namespace in cx.routes.doubted() {
        let none = BTreeSet::new();
        settle(cx, &namespace, namespaces.get(&namespace).unwrap_or(&none)).await?;
    }
    if cx.contact.reaps() {
        for namespace in namespaces.keys() {
            let Sweep { tasks, ended } = cx.queue.namespace(namespace)?.reap(BATCH).await?;
            count(cx, namespace, &ended);
            look_at(cx, namespace, &tasks).await;
            if !tasks.is_empty() {
                tracing::info!(namespace, tasks = tasks.len(), "gave back what had expired");
            }
        }
    }
    if swept.is_none_or(|at| at.elapsed() >= SWEEP) && cx.stores.synced() {
        sweep(cx, &namespaces).await?;
        *swept = Some(Instant::now());
    }
    Ok(())
}

/// Loads functions and sets users where the server is new, or has become another one.
async fn inspect(cx: &Context) -> Result<(), Error> {
    let installed = cx.queue.install(&cx.cluster_id).await?;
    if let Some(fatal) = installed.findings.iter().find(|finding| finding.fatal) {
        return Err(Error::QueueUnfit(fatal.message.clone()));
    }
    let is_new = {
        let state = cx.contact.state();
        state.since.is_none() || state.run_id != installed.run_id
    };
    if is_new {
        for finding in &installed.findings {
            tracing::warn!(reason = finding.reason, "{}", finding.message);
        }
        cx.access.forget_all();
        cx.access.ensure_gateway(cx).await?;
        let namespaces = namespaces(cx);
        for namespace in namespaces.keys() {
            // A namespace that is being deleted must not keep the others waiting.
            if let Err(error) = cx.access.ensure(cx, namespace).await {
                tracing::warn!(namespace, %error, "cannot give access to the queue");
            }
            cx.routes.check(namespace);
        }
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
        cx.wake_all().await;
    }
    Ok(())
}

async fn give_back(cx: &Context, loss: &Loss) -> Result<(), Error> {
    let (namespace, uid, reaped) = match loss {
        Loss::Ended { namespace, uid } => {
            let queue = cx.queue.namespace(namespace)?;
            (namespace, uid, queue.reap_worker(uid).await?)
        }
        Loss::Gone { namespace, uid } => {
            let queue = cx.queue.namespace(namespace)?;
            (namespace, uid, queue.forget_worker(uid).await?)
        }
    };
    look_at(cx, namespace, &reaped).await;
    if !reaped.is_empty() {
        tracing::info!(
            namespace,
            worker = uid,
            tasks = reaped.len(),
            "gave back what a worker lost"
        );
    }
    Ok(())
}

/// Counts tasks that ended without a worker's word; workers count the others.
fn count(cx: &Context, namespace: &str, ended: &[(OutcomeKind, u64)]) {
    let topology = cx.stores.topology(namespace);
    let phase = topology.and_then(|t| t.status.as_ref()?.phase);
    let phase = phase.map_or("Own", Phase::as_str);
    for (outcome, count) in ended {
        cx.metrics
            .tasks
            .with_label_values(&[namespace, phase, outcome.as_str()])
            .inc_by(*count);
    }
}

/// Personas that have lost workers may be in quarantine now, and say so.
async fn look_at(cx: &Context, namespace: &str, reaped: &[Reaped]) {
    let personas: BTreeSet<&str> = reaped.iter().map(|r| r.persona.as_str()).collect();
    for persona in personas {
        cx.bells.persona(namespace, persona).await;
    }
}

/// Compares a namespace's epoch, and sets one once all its personas are published.
async fn settle(cx: &Context, namespace: &str, personas: &BTreeSet<String>) -> Result<(), Error> {
    let queue = cx.queue.namespace(namespace)?;
    let found = queue.epoch().await?;
    match cx.routes.compare(namespace, personas, found.as_deref()) {
        Verdict::Settled | Verdict::Unfinished => {}
        Verdict::Complete => {
            let epoch = format!("{:032x}", rand::random::<u128>());
            queue.set_epoch(Some(&epoch)).await?;
            cx.routes.compare(namespace, personas, Some(&epoch));
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

/// Takes out of the queue what exists no more and nobody told us of.
async fn sweep(cx: &Context, namespaces: &BTreeMap<String, BTreeSet<String>>) -> Result<(), Error> {
    for namespace in cx.queue.namespaces().await? {
        if cx.watches(&namespace) {
            let dead = cx.queue.namespace(&namespace)?.dead_letters().await?;
            cx.metrics
                .dead
                .with_label_values(&[&namespace])
                .set(i64::try_from(dead).unwrap_or(i64::MAX));
            persona::sweep(cx, &namespace).await?;
            close_pools(cx, &namespace).await?;
        }
    }
    for namespace in namespaces.keys() {
        topology::tidy(cx, namespace).await?;
    }
    for namespace in cx.access.namespaces() {
        let has_pools = cx.stores.pools_of(&namespace).next().is_some();
        if !namespaces.contains_key(&namespace) && !has_pools {
            cx.access.withdraw(cx, &namespace).await?;
            cx.metrics.dead.remove_label_values(&[&namespace]).ok();
        }
    }
    Ok(())
}

/// Closes what is open in the queue and exists no more.
async fn close_pools(cx: &Context, namespace: &str) -> Result<(), Error> {
    for pool in cx.queue.namespace(namespace)?.pools().await? {
        close_pool(cx, namespace, &pool).await?;
    }
    Ok(())
}

/// Closes a pool in the queue unless it exists.
async fn close_pool(cx: &Context, namespace: &str, pool: &str) -> Result<(), Error> {
    if cx.stores.pool(namespace, pool).is_none() {
        let answer = cx.queue.namespace(namespace)?.close(pool, 0).await?;
        tracing::info!(namespace, pool, ?answer, "closed a pool that is gone");
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
