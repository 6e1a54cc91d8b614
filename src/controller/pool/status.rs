//! What a pool's status says. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use super::observe::{Observed, PodView};
use super::plan::{Memory, Plan};
use super::template::follows_queue;
use crate::api::condition::{READY, REPLICA_FAILURE, SCALING_ACTIVE, SCHEDULABLE, Verdict, merge};
use crate::api::names::{LABEL_MANAGED_BY, LABEL_POOL, MANAGER};
use crate::api::{ScaleRecord, Sizing, Span, WorkerPoolStatus};
use crate::controller::status::LIVE_NUMBERS;
use crate::scaling::QUEUE;

/// Counts of pods alone are written at most once in this time.
const COUNTS: Duration = Duration::from_millis(250);
/// Changes of size that are kept.
const HISTORY: usize = 10;

/// Workers by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not Ready yet.
    pub starting: usize,
    /// Ready, without a request.
    pub idle: usize,
    /// With a request.
    pub busy: usize,
    /// Told to drain, or being deleted.
    pub draining: usize,
    /// Failed.
    pub failed: usize,
    /// Ready and taking requests.
    pub ready: usize,
    /// Slots of those.
    pub slots: u64,
    /// Slots in use.
    pub busy_slots: u64,
}

/// Counts a pool's workers.
pub fn count(o: &Observed, memory: &Memory) -> Counts {
    let mut counts = Counts::default();
    let worker = |pod: &PodView| {
        let stats = o.stats.as_ref().ok()?;
        stats.workers.iter().find(|worker| worker.uid == pod.uid)
    };
    for pod in &o.pods {
        let running = worker(pod).map_or(0, |worker| worker.running);
        if pod.failed.is_some() {
            counts.failed += 1;
        } else if pod.deleting || memory.draining.contains_key(&pod.uid) {
            counts.draining += 1;
        } else if !pod.ready {
            counts.starting += 1;
        } else {
            counts.ready += 1;
            counts.slots += u64::from(o.pool.spec.slots_per_worker);
            counts.busy_slots += u64::from(running);
            if running > 0 {
                counts.busy += 1;
            } else {
                counts.idle += 1;
            }
        }
    }
    counts
}

/// The status after this visit.
pub fn status(o: &Observed, plan: &Plan, memory: &Memory) -> WorkerPoolStatus {
    let before = o.pool.status.clone().unwrap_or_default();
    let counts = count(o, memory);
    let stats = o.stats.as_deref().ok();
    let generation = o.pool.metadata.generation;
    let there = o.pods.iter().filter(|pod| !pod.deleting).count();
    let oldest = stats.map_or(0, |stats| stats.oldest_wait_ms);
    WorkerPoolStatus {
        sizing: Some(if o.pool.spec.replicas.is_some() {
            Sizing::Pinned
        } else {
            Sizing::Auto
        }),
        replicas: number(there),
        ready_replicas: number(counts.ready),
        desired_replicas: i32::try_from(plan.decision.size).unwrap_or(i32::MAX),
        busy: number(counts.busy),
        idle: number(counts.idle),
        draining: number(counts.draining),
        queued: stats.map_or(before.queued, |s| long(s.queued)),
        running: stats.map_or(before.running, |s| long(s.running)),
        oldest_wait: (oldest >= 100).then(|| Span::millis(oldest / 100 * 100)),
        selector: Some(format!(
            "{LABEL_MANAGED_BY}={MANAGER},{LABEL_POOL}={}",
            o.pool.name_any()
        )),
        history: history(o, plan, before.history),
        observed_generation: generation,
        conditions: merge(
            &before.conditions,
            &verdicts(o, plan, memory, &counts),
            generation,
            o.now,
        ),
    }
}

/// Whether the status is worth a write now, or else when it will be. What only counts waits: of a hundred
/// pods that start in a second, each is news for a moment.
pub fn due(
    before: Option<&WorkerPoolStatus>,
    after: &WorkerPoolStatus,
    written: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), Option<Timestamp>> {
    let Some(before) = before else { return Ok(()) };
    if before == after {
        return Err(None);
    }
    let (before, after) = (still(before), still(after));
    let pause = if before == after {
        LIVE_NUMBERS
    } else if verdict(&before) == verdict(&after) {
        COUNTS
    } else {
        return Ok(());
    };
    match written.and_then(|written| written.checked_add(pause).ok()) {
        Some(again) if now < again => Err(Some(again)),
        _ => Ok(()),
    }
}

/// The status without its live numbers.
fn still(status: &WorkerPoolStatus) -> WorkerPoolStatus {
    WorkerPoolStatus {
        busy: 0,
        idle: 0,
        queued: 0,
        running: 0,
        oldest_wait: None,
        ..status.clone()
    }
}

/// The status without counts of pods, and without messages, which have them too.
fn verdict(status: &WorkerPoolStatus) -> WorkerPoolStatus {
    let mut verdict = WorkerPoolStatus {
        replicas: 0,
        ready_replicas: 0,
        draining: 0,
        ..status.clone()
    };
    for condition in &mut verdict.conditions {
        condition.message.clear();
    }
    verdict
}

fn history(o: &Observed, plan: &Plan, mut history: Vec<ScaleRecord>) -> Vec<ScaleRecord> {
    let from = o.pool.status.as_ref().map_or(0, |s| s.desired_replicas);
    let to = i32::try_from(plan.decision.size).unwrap_or(i32::MAX);
    if from != to {
        let record = ScaleRecord {
            at: Time(o.now),
            from,
            to,
            reason: plan.decision.reason.chars().take(1024).collect(),
        };
        history.insert(0, record);
        history.truncate(HISTORY);
    }
    history
}

/// What is known of a pool that its owner has paused: nothing that was known before still has to hold.
pub fn paused(before: &[Condition]) -> Vec<Verdict> {
    let message = "the annotation persona.dev/paused keeps the operator from touching this pool";
    let there = |type_: &&str| *type_ == READY || before.iter().any(|c| c.type_ == *type_);
    [READY, SCALING_ACTIVE, SCHEDULABLE, REPLICA_FAILURE]
        .into_iter()
        .filter(there)
        .map(|type_| Verdict::unknown(type_, "Paused", message))
        .collect()
}

fn verdicts(o: &Observed, plan: &Plan, memory: &Memory, counts: &Counts) -> Vec<Verdict> {
    let mut verdicts = vec![
        ready(o, plan, memory, counts),
        scaling_active(o, plan),
        schedulable(o),
    ];
    if memory.refused.failures > 0 {
        let words = &*memory.refused.words;
        verdicts.push(Verdict::yes(REPLICA_FAILURE, "CreateFailed", words));
    } else if memory.lost.failures > 0 {
        let words = &*memory.lost.words;
        verdicts.push(Verdict::yes(REPLICA_FAILURE, "PodsFailed", words));
    }
    verdicts
}

/// Ready: as many workers are there as the pool always has. One that may be empty is ready empty.
fn ready(o: &Observed, plan: &Plan, memory: &Memory, counts: &Counts) -> Verdict {
    let spec = &o.pool.spec;
    let warm = spec.min_replicas.max(spec.warm_replicas.unwrap_or(0));
    let floor = spec.replicas.unwrap_or_else(|| warm.min(spec.max_replicas));
    let floor = usize::try_from(floor).unwrap_or(usize::MAX);
    let trouble = trouble(o, memory);
    if counts.ready >= floor && (counts.ready > 0 || trouble.is_none()) {
        return match (plan.decision.size, counts.ready) {
            (0, _) => asleep(o),
            (_, 0) => Verdict::yes(READY, "Starting", "the first worker is starting"),
            _ => Verdict::yes(READY, "WorkersReady", "workers take requests"),
        };
    }
    let needed = match floor {
        0 | 1 => "one worker is needed".to_owned(),
        _ => format!("{floor} workers are needed"),
    };
    match trouble {
        Some((reason, words)) => Verdict::no(READY, reason, format!("{needed}, but {words}")),
        None => starting(o, &needed),
    }
}

/// It needs no worker and has none.
fn asleep(o: &Observed) -> Verdict {
    if o.pool.spec.replicas.is_some() {
        let message = "spec.replicas is 0: no request is taken until it is raised or removed";
        return Verdict::yes(READY, "PinnedToZero", message);
    }
    let message = if follows_queue(&o.pool) {
        "a request brings the first worker"
    } else {
        "its metrics bring the first worker"
    };
    Verdict::yes(READY, "ScaledToZero", message)
}

/// What a pod that is not ready is at.
fn starting(o: &Observed, needed: &str) -> Verdict {
    let staying = || o.pods.iter().filter(|pod| !pod.deleting && !pod.ready);
    let ended = staying().find_map(|pod| pod.server_ended.clone());
    let ended = ended.map_or_else(String::new, |ended| format!("; {ended}"));
    if staying().any(|pod| pod.loading) {
        let message = format!("{needed}, and its model server loads its model{ended}");
        return Verdict::no(READY, "ModelLoading", message);
    }
    let message = format!("{needed}, and starting{ended}");
    Verdict::no(READY, "WorkersStarting", message)
}

/// What keeps workers from starting, for a condition's reason and message.
fn trouble(o: &Observed, memory: &Memory) -> Option<(&'static str, String)> {
    if let Some((reason, words)) = o.pods.iter().find_map(failing) {
        return Some(("WorkersFailing", format!("a pod waits: {reason}: {words}")));
    }
    if memory.refused.failures > 0 {
        let words = &memory.refused.words;
        return Some(("CreateFailed", format!("pods cannot be made: {words}")));
    }
    let (_, words) = unschedulable(o)?;
    Some(("Unschedulable", format!("no node takes its pods: {words}")))
}

/// Why a container waits that does not start by itself.
fn failing(pod: &PodView) -> Option<(String, String)> {
    pod.waiting.clone().filter(|_| pod.is_kept_from_starting())
}

fn scaling_active(o: &Observed, plan: &Plan) -> Verdict {
    let elsewhere = plan.decision.blind.iter().find(|(name, _)| name != QUEUE);
    if o.pool.spec.replicas.is_some() {
        Verdict::no(
            SCALING_ACTIVE,
            "Pinned",
            "spec.replicas pins the size; remove it to scale again",
        )
    } else if let Some((name, why)) = elsewhere {
        Verdict::no(
            SCALING_ACTIVE,
            "MetricUnavailable",
            format!("{name}: {why}"),
        )
    } else if !follows_queue(&o.pool) {
        Verdict::yes(
            SCALING_ACTIVE,
            "FollowsMetrics",
            "the size follows its metrics",
        )
    } else {
        match &o.stats {
            Err(why) => Verdict::no(SCALING_ACTIVE, "QueueUnreachable", &**why),
            Ok(stats) if !stats.open || stats.epoch.is_none() => Verdict::unknown(
                SCALING_ACTIVE,
                "Publishing",
                "personas are being published to the queue",
            ),
            Ok(_) if !plan.decision.blind.is_empty() => {
                let (_, why) = &plan.decision.blind[0];
                Verdict::no(SCALING_ACTIVE, "StaleNumbers", &**why)
            }
            Ok(_) if is_limited(plan) => Verdict::yes(
                SCALING_ACTIVE,
                "ProviderLimited",
                "the size follows the queue as far as its providers bear it: one has refused requests (429)",
            ),
            Ok(_) => Verdict::yes(SCALING_ACTIVE, "FollowsQueue", "the size follows the queue"),
        }
    }
}

/// A provider has said that it was too much, and nothing has shown since that it bears all.
fn is_limited(plan: &Plan) -> bool {
    let inputs = plan.decision.inputs;
    inputs.is_some_and(|inputs| inputs.provider_limit.is_some())
}

fn schedulable(o: &Observed) -> Verdict {
    match unschedulable(o) {
        Some((_, words)) => Verdict::no(SCHEDULABLE, "Unschedulable", words),
        None => Verdict::yes(SCHEDULABLE, "Schedulable", "no pod waits for a node"),
    }
}

fn unschedulable(o: &Observed) -> Option<(Timestamp, String)> {
    let waiting = o.pods.iter().filter(|pod| !pod.deleting);
    let (since, words) = waiting.filter_map(|pod| pod.unschedulable.clone()).min()?;
    Some((since, format!("{words}{}", gpus(o))))
}

/// What the pool asks for and what there is, where the scheduler only says that a node does not match.
fn gpus(o: &Observed) -> String {
    let Some(gpu) = &o.pool.spec.placement.gpu else {
        return String::new();
    };
    let count = gpu.count;
    let size = gpu.memory.as_ref();
    let size = size.map_or_else(String::new, |size| format!(" of {size}"));
    let (what, telling) = match &gpu.device_class_name {
        Some(class) => (format!("device class {class}"), "its driver publishes"),
        None => (gpu.resource_name.clone(), "nodes' labels tell of"),
    };
    let wanted = format!("; a pod needs {count} {what}{size} on one node");
    match &o.largest_gpu {
        Some((mib, product)) => {
            format!("{wanted}; the largest GPU that {telling} has {mib} MiB ({product})")
        }
        None => format!("{wanted}; there is none that {telling}"),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn long(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub mod tests;
