//! Workers whose place another one takes: first that one, then they go.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

#[test]
fn a_new_template_rolls_with_surge_and_never_below_the_size() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 4}));
    for uid in ["a", "b", "c", "d"] {
        scene.add(uid, "old", 1);
    }
    let plan = scene.visit(0);
    assert_eq!(plan.create.len(), 1, "a quarter more");
    assert!(plan.drain.is_empty());
    let hash = scene.hash();
    scene.add("e", &hash, 0);
    scene.pod("e").ready = false;
    assert!(scene.visit(1).drain.is_empty(), "the new one is not Ready");
    scene.pod("e").ready = true;
    let plan = scene.visit(2);
    assert_eq!(plan.drain.len(), 1);
    assert!(plan.create.is_empty(), "the old one is still there");
}

#[test]
fn without_room_for_another_pod_a_quarter_of_four_or_more_makes_room() {
    for (size, uids) in [(4, &["a", "b", "c", "d"][..]), (3, &["a", "b", "c"])] {
        for is_refused in [false, true] {
            let mut scene = Scene::new(serde_json::json!({"replicas": size}));
            for uid in uids {
                scene.add(uid, "old", u32::from(*uid != "b"));
            }
            if is_refused {
                scene.memory.refused.fail(at(100), "quota".into(), 1);
            } else {
                let hash = scene.hash();
                scene.add("new", &hash, 0);
                let pod = scene.pod("new");
                (pod.scheduled, pod.ready) = (false, false);
                pod.unschedulable = Some((at(0), "Insufficient memory".into()));
            }
            let expected: &[&str] = if size == 4 { &["b"] } else { &[] };
            assert_eq!(scene.visit(100).drain, expected, "{size} {is_refused}");
            assert!(scene.visit(101).drain.is_empty(), "no more than a quarter");
        }
    }
    let mut scene = Scene::new(serde_json::json!({"replicas": 4}));
    let hash = scene.hash();
    for uid in ["a", "b", "c", "d"] {
        scene.add(uid, &hash, 0);
        scene.pod(uid).node_going = true;
    }
    scene.memory.refused.fail(at(0), "quota".into(), 1);
    assert!(scene.visit(0).drain.is_empty(), "nothing can use that room");
}

#[test]
fn a_new_leader_in_the_middle_of_a_roll_takes_the_surge_for_no_size() {
    let mut scene = Scene::new(serde_json::json!({"maxReplicas": 20}));
    let hash = scene.hash();
    for uid in ["a", "b", "c", "d"] {
        scene.add(uid, "old", 2);
    }
    scene.add("e", &hash, 0);
    let pool = Arc::make_mut(&mut scene.o.pool);
    pool.status = Some(crate::api::WorkerPoolStatus {
        desired_replicas: 4,
        ..Default::default()
    });
    let plan = scene.visit(0);
    assert_eq!(plan.decision.size, 4, "{}", plan.decision.reason);
}

#[test]
fn a_ready_worker_stays_while_somebody_is_served_here_who_belongs_elsewhere() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 2}));
    scene.add("a", "old", 1);
    scene.add("b", "old", 0);
    scene.pod("b").ready = false;
    scene.o.holds_still = true;
    let plan = scene.visit(0);
    assert_eq!(
        plan.create.len(),
        1,
        "in the place of the one that is not Ready"
    );
    assert!(!plan.drain.contains(&"a".to_owned()), "{:?}", plan.drain);
    scene.worker_stats("a").recycle = Some(RecycleReason::Tasks);
    let plan = scene.visit(1);
    assert!(
        !plan.drain.contains(&"a".to_owned()),
        "another would not have what it holds"
    );
    scene.o.holds_still = false;
    let hash = scene.hash();
    scene.add("c", &hash, 0);
    scene.add("d", &hash, 0);
    assert!(scene.visit(2).drain.contains(&"a".to_owned()));
}

#[test]
fn a_worker_on_a_cordoned_node_is_replaced_before_it_goes() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1})).worker("a", 1);
    scene.pod("a").node_going = true;
    let plan = scene.visit(0);
    assert_eq!((plan.create.len(), plan.drain.len()), (1, 0));
    let hash = scene.hash();
    scene.add("b", &hash, 0);
    assert_eq!(scene.visit(1).drain, ["a"]);
    scene.pod("a").node_going = false;
    let plan = scene.visit(2);
    assert!(
        plan.undrain.is_empty() && plan.create.is_empty(),
        "b is enough"
    );
}

#[test]
fn pods_that_cannot_start_make_room_for_those_of_the_corrected_template() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 2}));
    for (uid, reason) in [("a", "ErrImagePull"), ("b", "ContainerCreating")] {
        scene.o.pods.push(PodView {
            name: format!("p-old-{uid}"),
            uid: uid.into(),
            hash: "old".into(),
            scheduled: true,
            waiting: Some((reason.into(), String::new())),
            ..PodView::default()
        });
    }
    let plan = scene.visit(0);
    assert_eq!(
        (plan.create.len(), &*plan.drain),
        (2, &["a".to_owned()][..])
    );
    assert_eq!(
        uids(&scene.visit(0).delete),
        [("a", Why::NeverStarted)],
        "the other one starts"
    );
}

#[test]
fn workers_of_a_node_out_of_reach_are_all_replaced_at_once() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 8}));
    let hash = scene.hash();
    let uids = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for uid in uids {
        scene.add(uid, &hash, 1);
    }
    scene.visit(0);
    for uid in uids {
        scene.pod(uid).node_going = true;
        scene.pod(uid).ready = false;
    }
    assert_eq!(scene.visit(1).create.len(), 2, "they may still serve");
    scene.stats().workers.clear();
    let plan = scene.visit(16);
    assert_eq!((plan.create.len(), plan.drain.len()), (8, 8));
    assert!(scene.visit(17).delete.is_empty(), "they may come back");
}

#[test]
fn a_worker_that_asks_to_be_replaced_serves_until_another_is_ready() {
    let mut scene = Scene::new(serde_json::json!({"minReplicas": 1})).worker("a", 1);
    assert!(scene.visit(0).create.is_empty());
    scene.worker_stats("a").recycle = Some(RecycleReason::Tasks);
    let plan = scene.visit(1);
    assert_eq!((plan.create.len(), plan.drain.len()), (1, 0));
    let hash = scene.hash();
    scene.add("b", &hash, 0);
    scene.pod("b").ready = false;
    let plan = scene.visit(2);
    assert_eq!((plan.create.len(), plan.drain.len()), (0, 0), "it starts");
    scene.pod("b").ready = true;
    assert_eq!(scene.visit(3).drain, ["a"]);
    assert!(scene.visit(4).delete.is_empty(), "it has a request");
    scene.worker_stats("a").drained = true;
    assert_eq!(uids(&scene.visit(5).delete), [("a", Why::Drained)]);
}

#[test]
fn workers_that_ask_together_are_replaced_a_quarter_at_a_time() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 8}));
    let (hash, uids) = (scene.hash(), ["a", "b", "c", "d", "e", "f", "g", "h"]);
    for uid in uids {
        scene.add(uid, &hash, 1);
        scene.worker_stats(uid).recycle = Some(RecycleReason::Age);
    }
    let plan = scene.visit(0);
    assert_eq!((plan.create.len(), plan.drain.len()), (2, 0));
    scene.add("x", &hash, 0);
    scene.add("y", &hash, 0);
    let plan = scene.visit(1);
    assert_eq!((plan.create.len(), plan.drain.len()), (0, 2));
}

#[test]
fn a_worker_that_asked_to_be_replaced_is_not_called_back_when_load_returns() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1})).worker("a", 1);
    scene.worker_stats("a").recycle = Some(RecycleReason::Memory);
    let hash = scene.hash();
    scene.add("b", &hash, 0);
    assert_eq!(scene.visit(0).drain, ["a"]);
    let spec = serde_json::json!({"replicas": 2, "slotsPerWorker": 2});
    scene.o.pool = observed(spec).pool;
    let plan = scene.visit(1);
    assert_eq!((plan.undrain.len(), plan.create.len()), (0, 1));
}

#[test]
fn an_evicted_worker_takes_no_more_at_once_and_is_replaced() {
    let mut scene = Scene::new(serde_json::json!({"replicas": 1})).worker("a", 1);
    scene.pod("a").deleting = true;
    let plan = scene.visit(0);
    assert_eq!(plan.drain, ["a"]);
    assert_eq!(plan.create.len(), 1);
    assert!(scene.visit(1).drain.is_empty(), "once");
}

proptest! {
    /// Whichever workers ask to be replaced, and however long others take to start: of as many as the pool
    /// wants none is drained before another one is Ready, and all that asked are gone in the end.
    #[test]
    fn recycling_leaves_no_gap(
        size in 1usize..6,
        steps in proptest::collection::vec((0usize..8, proptest::bool::ANY, proptest::bool::ANY), 1..40),
    ) {
        let mut scene = Scene::new(serde_json::json!({"replicas": size}));
        let hash = scene.hash();
        for n in 0..size {
            scene.add(&n.to_string(), &hash, 0);
        }
        let (mut made, mut second) = (size, 0);
        let calm = std::iter::repeat_n((0, false, true), 60);
        for (chosen, asks, starts) in steps.into_iter().chain(calm) {
            second += 1;
            let pods = scene.o.pods.clone();
            if let Some(pod) = pods.get(chosen).filter(|pod| asks && pod.ready) {
                scene.worker_stats(&pod.uid).recycle = Some(RecycleReason::Tasks);
            }
            if let Some(pod) = pods.iter().find(|pod| starts && !pod.ready) {
                scene.pod(&pod.uid).ready = true;
            }
            let plan = scene.visit(second);
            let serving = |p: &&PodView| p.ready && !scene.memory.draining.contains_key(&p.uid);
            prop_assert!(scene.o.pods.iter().filter(serving).count() >= size);
            prop_assert!(scene.o.pods.len() <= size + 2 * (size / 4).max(1));
            let deleted = |uid: &str| plan.delete.iter().any(|removal| removal.uid == uid);
            scene.o.pods.retain(|pod| !deleted(&pod.uid));
            scene.stats().workers.retain(|worker| !deleted(&worker.uid));
            for name in plan.create {
                scene.add(&made.to_string(), &hash, 0);
                let pod = scene.pod(&made.to_string());
                (pod.name, pod.ready) = (name, false);
                made += 1;
            }
        }
        prop_assert!(scene.stats().workers.iter().all(|worker| worker.recycle.is_none()));
        prop_assert_eq!(scene.o.pods.len(), size);
    }
}
