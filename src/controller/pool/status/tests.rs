use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::controller::pool::plan::plan;
use crate::controller::pool::template::{Setup, template};
use crate::queue::stats::{PoolStats, ProviderStats, WorkerStats};
use crate::scaling::Reading;

pub fn observed(spec: serde_json::Value) -> Observed {
    let pool: crate::api::WorkerPool = serde_json::from_value(json!({
        "apiVersion": "persona.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3},
        "spec": spec,
    }))
    .expect("a pool");
    let setup = Setup {
        image: "i",
        pull_policy: "Always",
        queue_url: "redis://r",
        queue_prefix: "persona",
        credentials: &BTreeSet::new(),
        serving: None,
        drain_timeout: Span::secs(60),
    };
    Observed {
        now: Timestamp::from_second(1_000_000).expect("in range"),
        template: template(&pool, &setup),
        holds_still: false,
        drain_timeout: Span::secs(60),
        pods: Vec::new(),
        under_way: BTreeSet::new(),
        others: BTreeSet::new(),
        largest_gpu: None,
        concurrency: None,
        external: Vec::new(),
        asked: None,
        is_old: false,
        stats: Ok(Arc::new(PoolStats {
            open: true,
            epoch: Some("e".into()),
            ..PoolStats::default()
        })),
        pool: Arc::new(pool),
    }
}

pub fn pod(o: &mut Observed, uid: &str, ready: bool, running: u32) {
    o.pods.push(PodView {
        name: uid.into(),
        uid: uid.into(),
        hash: o.template.hash.clone(),
        scheduled: true,
        ready,
        ..PodView::default()
    });
    let stats = Arc::make_mut(o.stats.as_mut().expect("fresh"));
    stats.workers.push(WorkerStats {
        uid: uid.into(),
        running,
        ..WorkerStats::default()
    });
}

/// The worker runs that many requests now.
pub fn running(o: &mut Observed, uid: &str, count: u32) {
    let stats = Arc::make_mut(o.stats.as_mut().expect("fresh"));
    for worker in stats.workers.iter_mut().filter(|w| w.uid == uid) {
        worker.running = count;
    }
}

fn stated(o: &Observed) -> WorkerPoolStatus {
    let mut memory = Memory::default();
    let plan = plan(o, &mut memory);
    status(o, &plan, &memory)
}

fn said(status: &WorkerPoolStatus, type_: &str) -> (String, String, String) {
    let conditions = status.conditions.iter();
    let found = conditions.clone().find(|c| c.type_ == type_);
    let found = found.expect("the condition");
    (
        found.status.clone(),
        found.reason.clone(),
        found.message.clone(),
    )
}

#[test]
fn a_pool_says_that_its_provider_bears_no_more() {
    let mut o = observed(json!({}));
    let mut memory = Memory::default();
    let mut said = Vec::new();
    for limited in [0, 1] {
        let stats = Arc::make_mut(o.stats.as_mut().expect("fresh"));
        stats.at_ms += 1000;
        stats.providers = vec![ProviderStats {
            key: "p".into(),
            demand: 9,
            running: 4,
            concurrency: 20,
            limited,
        }];
        o.concurrency = Some(20);
        let plan = plan(&o, &mut memory);
        let status = status(&o, &plan, &memory);
        said.push(self::said(&status, SCALING_ACTIVE).1);
    }
    assert_eq!(said, ["FollowsQueue", "ProviderLimited"]);
}

#[test]
fn a_pool_is_ready_with_the_workers_it_always_has() {
    let mut o = observed(json!({"minReplicas": 2}));
    pod(&mut o, "a", true, 1);
    let (status, reason, message) = said(&stated(&o), READY);
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "WorkersStarting")
    );
    assert_eq!(message, "2 workers are needed, and starting");
    pod(&mut o, "b", true, 0);
    let status = stated(&o);
    assert_eq!(said(&status, READY).1, "WorkersReady");
    assert_eq!((status.busy, status.idle, status.ready_replicas), (1, 1, 2));
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn a_pool_that_may_be_empty_is_ready_empty_unless_it_is_to_be_warm() {
    let empty = stated(&observed(json!({"minReplicas": 0})));
    assert_eq!(said(&empty, READY).1, "ScaledToZero");
    let pinned = stated(&observed(json!({"minReplicas": 0, "replicas": 0})));
    assert_eq!(said(&pinned, READY).1, "PinnedToZero");
    let warm = stated(&observed(json!({"minReplicas": 0, "warmReplicas": 1})));
    assert_eq!(said(&warm, READY).0, "False");
}

#[test]
fn a_pool_that_may_be_empty_is_not_ready_while_its_pods_fail() {
    let mut o = observed(json!({"minReplicas": 0}));
    pod(&mut o, "a", false, 0);
    let stats = Arc::make_mut(o.stats.as_mut().expect("fresh"));
    stats.demand = 1;
    assert_eq!(said(&stated(&o), READY).1, "Starting");
    o.pods[0].waiting = Some(("CrashLoopBackOff".into(), "again in 10 s".into()));
    assert_eq!(said(&stated(&o), READY).1, "WorkersFailing");
}

#[test]
fn what_keeps_workers_from_starting_is_said_in_the_words_of_who_said_it() {
    let mut o = observed(json!({}));
    pod(&mut o, "a", false, 0);
    o.pods[0].waiting = Some(("ImagePullBackOff".into(), "no such image".into()));
    let (_, reason, message) = said(&stated(&o), READY);
    assert_eq!(reason, "WorkersFailing");
    assert!(
        message.contains("ImagePullBackOff: no such image"),
        "{message}"
    );
    o.pods[0].waiting = Some(("ContainerCreating".into(), String::new()));
    assert_eq!(said(&stated(&o), READY).1, "WorkersStarting");
    o.pods[0].unschedulable = Some((o.now, "0/3 nodes have a GPU".into()));
    let status = stated(&o);
    assert_eq!(said(&status, READY).1, "Unschedulable");
    let (schedulable, _, words) = said(&status, SCHEDULABLE);
    assert_eq!(
        (schedulable.as_str(), words.as_str()),
        ("False", "0/3 nodes have a GPU")
    );
}

#[test]
fn a_model_that_loads_and_a_server_that_crashed_are_said() {
    let mut o = observed(json!({}));
    pod(&mut o, "a", false, 0);
    o.pods[0].loading = true;
    let (_, reason, message) = said(&stated(&o), READY);
    assert_eq!(reason, "ModelLoading");
    assert!(message.ends_with("loads its model"), "{message}");
    o.pods[0].server_ended = Some("its model server ended 2 times".into());
    let (_, _, message) = said(&stated(&o), READY);
    assert!(message.ends_with("ended 2 times"), "{message}");
    o.pods[0].ready = true;
    assert_eq!(said(&stated(&o), READY).1, "WorkersReady");
}

#[test]
fn a_pinned_size_and_a_blind_pool_are_said() {
    let pinned = stated(&observed(json!({"replicas": 5})));
    assert_eq!(pinned.sizing, Some(Sizing::Pinned));
    assert_eq!(said(&pinned, SCALING_ACTIVE).1, "Pinned");
    let mut o = observed(json!({}));
    o.stats = Err("the queue does not answer".into());
    let (status, _, message) = said(&stated(&o), SCALING_ACTIVE);
    assert_eq!(
        (status.as_str(), message.as_str()),
        ("False", "the queue does not answer")
    );
}

#[test]
fn a_metric_from_elsewhere_that_fails_is_said_by_name() {
    let metric = json!({"type": "Prometheus", "prometheus": {
        "serverAddress": "http://p:9090", "query": "up", "target": 1.0,
    }});
    let mut o = observed(json!({"scaling": {"metrics": [metric]}}));
    o.external = vec![Reading::Failed {
        name: "Prometheus up".into(),
        why: "cannot be reached".into(),
    }];
    let (_, reason, message) = said(&stated(&o), SCALING_ACTIVE);
    assert_eq!(reason, "MetricUnavailable");
    assert_eq!(message, "Prometheus up: cannot be reached");
    o.external = vec![Reading::External {
        name: "Prometheus up".into(),
        value: 3.0,
        target: 1.0,
    }];
    let status = stated(&o);
    assert_eq!(said(&status, SCALING_ACTIVE).1, "FollowsMetrics");
    assert_eq!(status.desired_replicas, 3);
}

#[test]
fn a_pool_that_no_gpu_fits_says_what_it_needs_and_what_there_is() {
    let gpu = json!({"device": "gpu", "gpu": {"count": 2, "memory": "80Gi"}});
    let mut o = observed(json!({"placement": gpu}));
    pod(&mut o, "a", false, 0);
    o.pods[0].unschedulable = Some((o.now, "0/3 nodes are available".into()));
    o.largest_gpu = Some((23_034, "NVIDIA-L4".into()));
    assert_eq!(
        said(&stated(&o), SCHEDULABLE).2,
        "0/3 nodes are available; a pod needs 2 nvidia.com/gpu of 80Gi on one node; the largest GPU \
         that nodes' labels tell of has 23034 MiB (NVIDIA-L4)"
    );
    o.pods[0].unschedulable = None;
    assert_eq!(said(&stated(&o), SCHEDULABLE).0, "True");
}

#[test]
fn history_keeps_the_last_changes_in_words() {
    let mut o = observed(json!({"minReplicas": 0, "maxReplicas": 100}));
    for round in 0..12u64 {
        let stats = Arc::make_mut(o.stats.as_mut().expect("fresh"));
        let demand = 4 * (round + 1);
        (stats.demand, stats.queued, stats.runnable) = (demand, demand, demand);
        let status = stated(&o);
        Arc::make_mut(&mut o.pool).status = Some(status);
    }
    let history = o.pool.status.clone().expect("a status").history;
    assert_eq!(history.len(), HISTORY);
    assert_eq!((history[0].from, history[0].to), (11, 12));
    assert!(
        history[0].reason.starts_with("queued 48, running 0"),
        "{}",
        history[0].reason
    );
}

#[test]
fn live_numbers_are_written_every_ten_seconds_and_counts_four_times_a_second_at_most() {
    let mut o = observed(json!({"minReplicas": 4}));
    pod(&mut o, "a", true, 0);
    pod(&mut o, "b", false, 0);
    let before = stated(&o);
    assert_eq!(due(Some(&before), &before, None, o.now), Err(None));
    Arc::make_mut(&mut o.pool).status = Some(before.clone());
    let is_due_after = |o: &Observed, pause: Duration| {
        let after = stated(o);
        let again = o.now.checked_add(pause).expect("in range");
        let now = due(Some(&before), &after, Some(o.now), o.now);
        assert_eq!(now, Err(Some(again)));
        assert_eq!(due(Some(&before), &after, Some(o.now), again), Ok(()));
    };
    Arc::make_mut(o.stats.as_mut().expect("fresh")).queued = 3;
    is_due_after(&o, LIVE_NUMBERS);
    pod(&mut o, "c", false, 0);
    is_due_after(&o, COUNTS);
    pod(&mut o, "d", true, 0);
    is_due_after(&o, COUNTS);
    o.stats = Err("nobody answers".into());
    assert_eq!(due(Some(&before), &stated(&o), Some(o.now), o.now), Ok(()));
}
