mod replacing;
mod scene;

use proptest::prelude::*;

use self::scene::Scene;
use super::*;
use crate::controller::pool::observe::PodView;
use crate::controller::pool::status::tests::observed;
use crate::queue::heartbeat::RecycleReason;
use crate::queue::stats::PoolStats;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("in range")
}

fn uids(removals: &[Removal]) -> Vec<(&str, Why)> {
    removals.iter().map(|r| (r.uid.as_str(), r.why)).collect()
}

#[test]
fn demand_brings_all_missing_pods_at_once() {
    let mut scene = Scene::new(serde_json::json!({})).demand(9);
    let plan = scene.visit(0);
    let hash = scene.hash();
    let names: Vec<_> = (0..5).map(|slot| format!("p-{hash}-{slot}")).collect();
    assert_eq!(plan.create, names);
}

#[test]
fn pods_whose_creation_is_not_answered_yet_are_not_asked_for_again() {
    let mut scene = Scene::new(serde_json::json!({})).demand(8);
    let names = scene.visit(0).create;
    assert_eq!(names.len(), 4);
    scene.o.under_way = names[..3].iter().cloned().collect();
    assert_eq!(scene.visit(0).create, names[3..]);
    // More tasks came meanwhile.
    let mut scene = scene.demand(12);
    let more = scene.visit(0).create;
    assert_eq!(more.len(), 3);
    assert!(more.iter().all(|name| !names[..3].contains(name)));
}

#[test]
fn names_of_pods_that_are_still_there_are_not_used_again() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1}));
    let hash = scene.hash();
    scene.add("0", &hash, 0);
    scene.pod("0").deleting = true;
    assert_eq!(scene.visit(0).create, [format!("p-{hash}-1")]);
    scene.o.others = [format!("p-{hash}-1")].into();
    assert_eq!(scene.visit(0).create, [format!("p-{hash}-2")]);
}

#[test]
fn idle_workers_drain_then_go_and_busy_ones_stay() {
    let mut scene = Scene::new(serde_json::json!({}))
        .worker("a", 1)
        .worker("b", 0)
        .worker("c", 0)
        .demand(1);
    assert!(scene.visit(0).drain.is_empty(), "not before the window");
    let plan = scene.visit(31);
    assert_eq!(plan.drain.len(), 2);
    assert!(!plan.drain.contains(&"a".to_owned()));
    assert!(plan.delete.is_empty(), "drained is said by the worker");
    let plan = scene.visit(32);
    let gone = uids(&plan.delete);
    assert_eq!(gone, [("b", Why::Drained), ("c", Why::Drained)]);
}

#[test]
fn a_draining_worker_with_a_request_stays_until_it_ends_or_its_time_is_over() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 0})).worker("a", 1);
    assert_eq!(scene.visit(0).drain, ["a"]);
    let plan = scene.visit(1);
    assert!(plan.delete.is_empty());
    assert_eq!(plan.again_at, Some(at(60)));
    assert_eq!(uids(&scene.visit(60).delete), [("a", Why::TimedOut)]);
}

#[test]
fn load_that_comes_back_calls_draining_workers_back_before_new_ones_are_made() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1}))
        .worker("a", 1)
        .worker("b", 1);
    let drained = scene.visit(0).drain;
    assert_eq!(drained.len(), 1);
    scene.o.pool = observed(serde_json::json!({"replicas": 3, "slotsPerWorker": 2})).pool;
    let plan = scene.visit(1);
    assert_eq!(plan.undrain, drained);
    assert_eq!(plan.create.len(), 1);
}

#[test]
fn who_was_called_back_is_not_deleted_by_numbers_from_before() {
    let sized =
        |size: u32| observed(serde_json::json!({"replicas": size, "slotsPerWorker": 2})).pool;
    let mut scene = Scene::new(serde_json::json!({"replicas": 1}))
        .worker("a", 0)
        .worker("b", 0);
    let drained = scene.visit(0).drain;
    let (before, asked) = (scene.o.stats.clone(), scene.o.asked);
    scene.o.pool = sized(2);
    assert_eq!(scene.visit(1).undrain, drained);
    // It may have taken requests by now, and the numbers are still those from before.
    (scene.o.stats, scene.o.asked) = (before.clone(), asked);
    scene.o.pool = sized(1);
    let plan = scene.visit(2);
    assert!(plan.delete.is_empty(), "{:?}", plan.delete);
    // Nor when it was told to drain once more since.
    assert_eq!(plan.drain.len(), 1);
    (scene.o.stats, scene.o.asked) = (before, asked);
    let plan = scene.visit(3);
    assert!(plan.delete.is_empty(), "{:?}", plan.delete);
    assert!(plan.again_at.expect("soon") < at(4));
}

#[test]
fn who_is_told_anew_has_its_time_anew() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 0})).worker("a", 1);
    assert_eq!(scene.visit(0).drain, ["a"]);
    let due = i64::try_from(scene.o.drain_timeout.as_millis() / 1000).expect("seconds");
    // The queue has lost that it was told, and it took requests until now.
    scene.worker_stats("a").draining = false;
    let plan = scene.visit(due);
    assert_eq!((plan.drain.len(), plan.delete.len()), (1, 0), "{plan:?}");
    assert!(scene.visit(due + 1).delete.is_empty());
}

#[test]
fn who_goes_anyway_and_may_not_have_heard_is_looked_at_again_soon() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 2}))
        .worker("a", 1)
        .worker("b", 1);
    scene.pod("a").deleting = true;
    let before = (scene.o.stats.clone(), Some(Instant::now()));
    assert_eq!(scene.visit(0).drain, ["a"]);
    // The queue has not answered, and the numbers are those from before.
    (scene.o.stats, scene.o.asked) = before;
    let plan = scene.visit(1);
    assert!(plan.drain.is_empty(), "{:?}", plan.drain);
    assert!(plan.again_at.expect("soon") < at(2));
    scene.worker_stats("a").draining = false;
    assert_eq!(scene.visit(2).drain, ["a"], "it has not heard");
}

#[test]
fn nothing_drains_or_goes_while_the_queue_cannot_be_read() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 0})).worker("a", 0);
    scene.o.stats = Err("away".into());
    let plan = scene.visit(0);
    assert!(plan.drain.is_empty() && plan.delete.is_empty());
    let mut scene = Scene::new(serde_json::json!({}))
        .worker("a", 0)
        .worker("b", 0);
    scene.visit(0);
    scene.o.stats = Err("away".into());
    for second in [40, 400, 4000] {
        let plan = scene.visit(second);
        assert_eq!(plan.decision.size, 2, "it holds");
        assert!(plan.drain.is_empty() && plan.delete.is_empty());
    }
}

#[test]
fn numbers_of_a_while_ago_are_no_reason_to_shrink_but_to_look() {
    let mut scene = Scene::new(serde_json::json!({}))
        .worker("a", 0)
        .worker("b", 0);
    scene.visit(0);
    scene.o.is_old = true;
    let plan = scene.visit(31);
    assert!(plan.drain.is_empty() && plan.decision.awaits_reading);
    assert!(plan.again_at.expect("soon") < at(32));
    let more = scene.stats();
    (more.demand, more.queued, more.runnable) = (90, 90, 90);
    let plan = scene.visit(32);
    assert!(!plan.create.is_empty(), "growing needs no second look");
    let less = scene.stats();
    (less.demand, less.queued, less.runnable) = (0, 0, 0);
    scene.visit(40);
    scene.o.is_old = false;
    let plan = scene.visit(100);
    assert!(plan.decision.size < 8 && !plan.decision.awaits_reading);
}

#[test]
fn a_flushed_queue_is_no_reason_to_shrink() {
    let mut scene = Scene::new(serde_json::json!({}))
        .worker("a", 0)
        .worker("b", 0);
    scene.visit(0);
    scene.stats().epoch = None;
    assert!(scene.visit(100).drain.is_empty());
}

#[test]
fn a_pod_that_never_began_goes_as_soon_as_it_is_marked() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1})).worker("a", 1);
    let hash = scene.hash();
    scene.o.pods.push(PodView {
        name: format!("p-{hash}-9"),
        uid: "pending".into(),
        hash,
        ..PodView::default()
    });
    assert_eq!(scene.visit(0).drain, ["pending"]);
    assert_eq!(
        uids(&scene.visit(0).delete),
        [("pending", Why::NeverStarted)]
    );
}

#[test]
fn failed_pods_are_replaced_with_growing_pauses() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1})).worker("a", 0);
    scene.pod("a").failed = Some("Evicted: low on memory".into());
    let first = scene.visit(0);
    assert_eq!(uids(&first.delete), [("a", Why::Failed)]);
    assert_eq!(first.create.len(), 1);
    assert_eq!(first.again_at, Some(at(1)));
    scene.pod("a").uid = "b".into();
    scene.visit(1);
    scene.pod("b").uid = "c".into();
    assert!(scene.visit(2).create.is_empty(), "2 s after the second");
    assert_eq!(scene.visit(20).create.len(), 1);
}

#[test]
fn pods_that_a_node_loses_together_are_one_failure() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 10}));
    let uids: Vec<String> = (0..10).map(|number| format!("w{number}")).collect();
    let hash = scene.hash();
    for uid in &uids {
        scene.add(uid, &hash, 0);
    }
    scene.pod("w0").failed = Some("Evicted: low on memory".into());
    assert_eq!(scene.visit(0).create.len(), 1);
    for uid in &uids {
        scene.pod(uid).failed = Some("Evicted: low on memory".into());
    }
    assert!(scene.visit(0).create.is_empty(), "within the pause");
    assert_eq!(scene.visit(1).create.len(), 10);
}

#[test]
fn a_refusal_halves_what_is_made_at_once() {
    let mut refused = Backoff::default();
    refused.fail(at(0), "quota".into(), 40);
    assert_eq!(refused.allowed(at(0), 40), 0);
    assert_eq!(refused.allowed(at(1), 40), 20);
    refused.fail(at(1), "quota".into(), 20);
    assert_eq!(refused.allowed(at(3), 40), 10);
    refused.succeed(10);
    assert_eq!(refused.allowed(at(3), 40), 20);
    assert_eq!(refused.failures, 0);
}

#[test]
fn a_refusal_is_forgotten_once_its_pause_is_over_and_nothing_is_missing() {
    let mut scene = Scene::new(serde_json::json!({"minReplicas": 0})).demand(8);
    scene.visit(0);
    scene.memory.refused.fail(at(0), "quota".into(), 4);
    assert!(scene.visit(0).create.is_empty());
    // Whoever asked has gone.
    let mut quiet = scene.demand(0);
    quiet.o.pods.clear();
    quiet.memory.size = Some(scaling::Memory::resume(at(0), 0, &[]));
    let plan = quiet.visit(0);
    assert_eq!(plan.again_at, Some(at(1)), "the pause");
    assert_eq!(quiet.memory.refused.failures, 1);
    let plan = quiet.visit(1);
    assert_eq!(quiet.memory.refused, Backoff::default());
    assert!(plan.again_at.is_none_or(|again| again > at(1)));
    let mut more = quiet.demand(8);
    assert_eq!(more.visit(2).create.len(), 4, "and not half as many");
}

#[test]
fn who_is_called_back_is_missed_most_and_can_start() {
    let mut scene = Scene::new(serde_json::json!({}))
        .worker("idle", 0)
        .worker("busy", 2)
        .worker("broken", 0);
    let broken = scene.pod("broken");
    broken.ready = false;
    broken.waiting = Some(("ErrImagePull".into(), String::new()));
    for uid in ["idle", "busy", "broken"] {
        scene.memory.draining.insert(uid.into(), at(0));
        scene.worker_stats(uid).draining = true;
    }
    scene.memory.size = Some(scaling::Memory::resume(at(0), 1, &[]));
    assert_eq!(scene.visit(0).undrain, ["busy"]);
    scene.memory.size = Some(scaling::Memory::resume(at(0), 3, &[]));
    let plan = scene.visit(0);
    assert_eq!(
        (&*plan.undrain, plan.create.len()),
        (&["idle".to_owned()][..], 1)
    );
}

#[test]
fn pods_that_find_no_node_are_not_joined_by_more() {
    let mut scene = Scene::new(serde_json::json!({})).demand(2);
    let hash = scene.hash();
    scene.o.pods.push(PodView {
        name: format!("p-{hash}-0"),
        uid: "a".into(),
        hash,
        unschedulable: Some((at(0), "no GPU".into())),
        ..PodView::default()
    });
    let mut more = scene.demand(8);
    assert_eq!(more.visit(30).create.len(), 3);
    assert!(more.visit(60).create.is_empty());
}

#[test]
fn a_controller_that_comes_anew_takes_up_what_drains() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1}))
        .worker("a", 1)
        .worker("b", 1);
    scene.worker_stats("b").draining = true;
    let plan = scene.visit(0);
    assert!(plan.drain.is_empty() && plan.create.is_empty());
    scene.worker_stats("b").drained = true;
    assert_eq!(uids(&scene.visit(1).delete), [("b", Why::Drained)]);
}

#[test]
fn a_busy_worker_that_the_queue_has_forgotten_is_not_deleted_and_drains_when_it_tells_of_itself() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1}))
        .worker("a", 1)
        .worker("b", 1);
    assert_eq!(scene.visit(0).drain.len(), 1);
    let uid = scene.memory.draining.keys().next().expect("one").clone();
    let mut forgotten = std::mem::take(&mut scene.stats().workers);
    assert!(scene.visit(1).delete.is_empty(), "it may be busy");
    for worker in &mut forgotten {
        worker.draining = false;
    }
    scene.stats().workers = forgotten;
    let plan = scene.visit(6);
    assert_eq!((plan.drain, plan.delete), (vec![uid.clone()], vec![]));
    scene.worker_stats(&uid).drained = true;
    assert_eq!(uids(&scene.visit(7).delete), [(&*uid, Why::Drained)]);
}

#[test]
fn nothing_drains_while_the_queue_lacks_what_it_should_know() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1}))
        .worker("a", 0)
        .worker("b", 0);
    for what in [
        |stats: &mut PoolStats| stats.open = false,
        |stats: &mut PoolStats| stats.epoch = None,
    ] {
        let before = scene.stats().clone();
        what(scene.stats());
        assert!(scene.visit(0).drain.is_empty());
        *scene.stats() = before;
    }
    assert_eq!(scene.visit(0).drain.len(), 1);
}

proptest! {
    /// Whatever is there, no visit drains or deletes a busy worker while an idle one of the same
    /// template would do, deletes one that has not drained, or makes more than maxReplicas.
    #[test]
    fn busy_workers_are_never_cut_short(
        loads in proptest::collection::vec(0u32..3, 0..12),
        demand in 0u64..40,
        seconds in proptest::collection::vec(0i64..40, 1..8),
    ) {
        let mut scene = Scene::new(serde_json::json!({})).demand(demand);
        let hash = scene.hash();
        for (n, running) in loads.iter().enumerate() {
            scene.add(&n.to_string(), &hash, *running);
        }
        let mut second = 0;
        for step in seconds {
            second += step;
            let before = scene.memory.draining.clone();
            let running = scene.stats().workers.clone();
            let busy = |uid: &str| running.iter().any(|w| w.uid == uid && w.running > 0);
            let plan = scene.visit(second);
            let active = scene.o.pods.iter().filter(|p| !before.contains_key(&p.uid)).count();
            prop_assert!(plan.create.len() + active <= 8.max(active));
            for removal in &plan.delete {
                prop_assert!(before.contains_key(&removal.uid), "deleted without a drain");
                prop_assert!(!busy(&removal.uid) || removal.why == Why::TimedOut);
            }
            let spared_idle = scene.o.pods.iter().any(|p| {
                !scene.memory.draining.contains_key(&p.uid) && !busy(&p.uid)
            });
            prop_assert!(!(spared_idle && plan.drain.iter().any(|uid| busy(uid))));
            scene.o.pods.retain(|p| !plan.delete.iter().any(|r| r.uid == p.uid));
        }
    }
}
