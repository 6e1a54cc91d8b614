//! What a pool's reconciler looks at, read from caches that know of our own writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use kube::ResourceExt;
use tokio::time::Instant;

use super::gpu;
use super::is_owned;
use super::members::{Members, Stay};
use super::server::Serving;
use super::template::{Setup, Template, template};
use crate::api::{Persona, SecretKeyRef, Span, WorkerPool};
use crate::controller::Context;
use crate::controller::pods::{server_status, worker_status};
use crate::queue::stats::PoolStats;
use crate::scaling::Reading;

/// Drain timeout of a pool without personas.
const USUAL_DRAIN: Span = Span::secs(60);

/// A worker that was Ready later than this after its container began has been Ready before.
const LONGEST_START: Duration = Duration::from_secs(300);

/// No pool gets smaller by numbers that are older: a queue that hangs or is gone says nothing.
const FRESH: Duration = Duration::from_secs(1);

/// Everything that a pool's plan depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When it was looked at.
    pub now: Timestamp,
    /// The pool.
    pub pool: Arc<WorkerPool>,
    /// What its pods are to be like.
    pub template: Template,
    /// Somebody is served here who belongs elsewhere by now, and what for is not known any more: a worker
    /// that is Ready stays as it is until they have left.
    pub holds_still: bool,
    /// How long a worker may finish its requests.
    pub drain_timeout: Span,
    /// Its pods, also those that are going.
    pub pods: Vec<PodView>,
    /// Names of pods that are being made and were not seen yet.
    pub under_way: BTreeSet<String>,
    /// Names that others have taken: pods of a deleted pool of this name, which go, and copies.
    pub others: BTreeSet<String>,
    /// The largest GPU of any node, in MiB, and its product; none without GPUs, or where not known.
    pub largest_gpu: Option<(u64, String)>,
    /// Most tasks that its personas may run at once; none = not known.
    pub concurrency: Option<u64>,
    /// Its metrics from elsewhere, in the order of its spec.
    pub external: Vec<Reading>,
    /// The queue's numbers, or why there are none.
    pub stats: Result<Arc<PoolStats>, String>,
    /// When those numbers were asked for, or before that.
    pub asked: Option<Instant>,
    /// Those numbers were read a while ago: idle pools are looked at seldom.
    pub is_old: bool,
}

/// A pod, as far as a plan cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The template it was made from.
    pub hash: String,
    /// A node was found for it.
    pub scheduled: bool,
    /// That node loses its pods.
    pub node_going: bool,
    /// Since when the scheduler finds no node for it, and its words.
    pub unschedulable: Option<(Timestamp, String)>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// It can take requests.
    pub ready: bool,
    /// From its creation until it was ready, if it is.
    pub ready_after: Option<Duration>,
    /// It is on its way out.
    pub deleting: bool,
    /// It has ended and will not come back: evicted, or its node failed it. With its words.
    pub failed: Option<String>,
    /// Its model server runs and has not loaded its model yet.
    pub loading: bool,
    /// How its model server last ended, and how often.
    pub server_ended: Option<String>,
    /// Why its container does not run: a reason of the kubelet's, and its words.
    pub waiting: Option<(String, String)>,
}

impl PodView {
    /// A container of it cannot run as it is: no image, a bad configuration, or it ends again and again.
    pub fn is_kept_from_starting(&self) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_some_and(|(reason, _)| is_trouble(reason))
    }
}

/// Whether a container that waits for this reason waits for more than its turn.
fn is_trouble(reason: &str) -> bool {
    !["PodInitializing", "ContainerCreating"].contains(&reason)
}

/// Reads what the plan of `pool` depends on; `members` is what was seen of its personas before.
pub fn observe(
    cx: &Context,
    pool: Arc<WorkerPool>,
    members: &mut Members,
    now: Timestamp,
) -> Observed {
    let namespace = pool.namespace().unwrap_or_default();
    let name = pool.name_any();
    let topology = cx.stores.topology(&namespace);
    let served = |persona: &Persona| {
        let told = cx.routes.of(&namespace, &persona.name_any());
        let told = told.filter(|told| Some(&told.uid) == persona.metadata.uid.as_ref());
        told.map(|told| told.generation)
    };
    let stays = cx
        .stores
        .personas_of(&namespace)
        .filter_map(|persona| Stay::of(persona, &name, topology.as_deref(), served));
    let (local, holds_still) = members.look(stays.collect());
    let mut credentials: BTreeSet<SecretKeyRef> = BTreeSet::new();
    let mut longest = Span::default();
    let mut concurrency = 0;
    for persona in &local {
        credentials.extend(persona.spec.model.api_key_secret_ref.clone());
        longest = longest.max(persona.spec.timeout);
        concurrency += u64::from(persona.spec.queue.max_concurrency);
    }
    let serving = Serving::of(&local, pool.spec.slots_per_worker);
    let drain_timeout = pool
        .spec
        .drain_timeout
        .unwrap_or_else(|| rounded_up(longest));
    // Before the numbers, which may be newer then, and not older.
    let reading = cx.observer.reading(&namespace, &name);
    let options = &cx.options;
    let setup = Setup {
        image: &options.worker_image,
        pull_policy: &options.worker_image_pull_policy,
        queue_url: options
            .worker_queue_url
            .as_deref()
            .unwrap_or(&options.queue_url),
        queue_prefix: &options.queue_prefix,
        credentials: &credentials,
        serving: serving.as_ref(),
        drain_timeout,
    };
    // A label is soon copied; who made a pod is what its owner says.
    let (pods, others): (Vec<_>, Vec<_>) = cx
        .pods
        .of(&namespace, &name)
        .into_iter()
        .partition(|pod| is_owned(&**pod, &pool));
    Observed {
        now,
        template: template(&pool, &setup),
        holds_still,
        drain_timeout,
        pods: pods
            .iter()
            .map(|pod| {
                let mut view = view(pod, |node| cx.nodes.is_going(node));
                let measured = cx.pods.ready_after(&view.uid);
                view.ready_after = view.ready_after.map(|coarse| measured.unwrap_or(coarse));
                view
            })
            .collect(),
        under_way: BTreeSet::new(),
        others: others.iter().map(|pod| pod.name_any()).collect(),
        largest_gpu: largest_gpu(cx, &pool),
        concurrency: Some(concurrency),
        external: cx.sources.readings(&pool),
        asked: reading.as_ref().map(|reading| reading.asked),
        stats: numbers(cx, &namespace, &name),
        is_old: reading.is_some_and(|reading| reading.at.elapsed() > FRESH),
        pool,
    }
}

fn largest_gpu(cx: &Context, pool: &WorkerPool) -> Option<(u64, String)> {
    let gpu = pool.spec.placement.gpu.as_ref()?;
    if let Some((driver, type_)) = gpu::claim::devices(gpu) {
        return cx.slices.largest(driver, type_);
    }
    let labels = gpu::Labels::of(gpu);
    cx.nodes.largest_gpu(|node| labels.read(node))
}

/// Fresh numbers that mean something: the pool is open, and all routes are published.
fn numbers(cx: &Context, namespace: &str, pool: &str) -> Result<Arc<PoolStats>, String> {
    cx.contact.usable()?;
    cx.observer.stats(namespace, pool)
}

/// The grace period of a pod cannot be changed, so that each other timeout makes another template:
/// steps keep a small change of one persona from replacing all workers.
fn rounded_up(timeout: Span) -> Span {
    let mut step = USUAL_DRAIN;
    while step < timeout {
        step = Span::millis(step.as_millis().saturating_mul(2));
    }
    step
}

fn view(pod: &Pod, is_going: impl Fn(&str) -> bool) -> PodView {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    let status = pod.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_ref());
    let condition = |name: &str| conditions?.iter().find(|c| c.type_ == name);
    let scheduled = condition("PodScheduled");
    let ready = condition("Ready").filter(|c| c.status == "True");
    let unschedulable = scheduled
        .filter(|c| c.status == "False" && c.reason.as_deref() == Some("Unschedulable"))
        .map(|c| {
            let since = c.last_transition_time.as_ref().map(|time| time.0);
            (
                since.unwrap_or(Timestamp::UNIX_EPOCH),
                c.message.clone().unwrap_or_default(),
            )
        });
    let phase = status.and_then(|s| s.phase.as_deref());
    let deleting = pod.metadata.deletion_timestamp.is_some();
    let server = server_status(pod);
    let trouble = |status: &&ContainerStatus| {
        let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        reason.is_some_and(is_trouble)
    };
    let waiting = server
        .filter(trouble)
        .or_else(|| worker_status(pod))
        .and_then(|s| s.state.as_ref()?.waiting.as_ref())
        .and_then(|waiting| {
            Some((
                waiting.reason.clone()?,
                waiting.message.clone().unwrap_or_default(),
            ))
        });
    PodView {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        hash: pod
            .labels()
            .get(crate::api::names::LABEL_TEMPLATE)
            .cloned()
            .unwrap_or_default(),
        scheduled: node.is_some(),
        node_going: node.is_some_and(is_going),
        unschedulable,
        created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ready: ready.is_some(),
        ready_after: ready_after(pod, ready),
        deleting,
        loading: server.is_some_and(|s| {
            s.state.as_ref().is_some_and(|s| s.running.is_some()) && s.started != Some(true)
        }),
        server_ended: server.and_then(ended),
        // A pod that is being deleted ends in one of these phases when its containers have stopped.
        failed: (!deleting && matches!(phase, Some("Failed" | "Succeeded"))).then(|| {
            let words = |s: &k8s_openapi::api::core::v1::PodStatus| {
                let reason = s.reason.clone().unwrap_or_else(|| "Failed".to_owned());
                let message = s.message.clone().unwrap_or_default();
                format!("{reason}: {message}")
            };
            status.map(words).unwrap_or_default()
        }),
        waiting,
    }
}

/// How a container last ended, in words.
fn ended(status: &ContainerStatus) -> Option<String> {
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    let reason = last.reason.as_deref().unwrap_or("Ended");
    Some(format!(
        "its model server ended {} times, last with code {} ({reason})",
        status.restart_count, last.exit_code
    ))
}

/// From creation until it was Ready, in whole seconds: by its own words, if it was Ready only once.
fn ready_after(pod: &Pod, ready: Option<&PodCondition>) -> Option<Duration> {
    let created = pod.metadata.creation_timestamp.as_ref()?;
    let since = ready?.last_transition_time.as_ref()?;
    let worker = worker_status(pod)?;
    let running = worker.state.as_ref()?.running.as_ref()?;
    let began = running.started_at.as_ref()?;
    // A pod that was not Ready for a while, as when the queue was away, tells when that ended.
    let start = Duration::try_from(since.0.duration_since(began.0)).ok()?;
    if worker.restart_count > 0 || start > LONGEST_START {
        return None;
    }
    Duration::try_from(since.0.duration_since(created.0)).ok()
}

#[cfg(test)]
mod tests;
