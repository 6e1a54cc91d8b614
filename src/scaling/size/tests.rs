mod properties;

use super::*;
use crate::api::{
    Behavior, PolicyType, ScalingFallback, ScalingPolicy, ScalingRules, SelectPolicy,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("in range")
}

/// min 1, max 8, 4 slots a worker, targetWait 500 ms, idleTimeout 30 s.
fn spec() -> WorkerPoolSpec {
    WorkerPoolSpec::default()
}

fn memory(size: u32) -> Memory {
    Memory::resume(at(-1000), size, &[])
}

fn queue(demand: u64) -> QueueReading {
    QueueReading {
        epoch: "e".into(),
        demand,
        queued: demand,
        runnable: demand,
        ..QueueReading::default()
    }
}

fn load(demand: u64) -> [Reading; 1] {
    [Reading::Queue(queue(demand))]
}

fn blind() -> [Reading; 1] {
    [Reading::no_queue("Redis is away")]
}

fn external(value: f64) -> Reading {
    Reading::External {
        name: "Prometheus jobs".into(),
        value,
        target: 10.0,
    }
}

fn sized(memory: &mut Memory, second: i64, readings: &[Reading]) -> u32 {
    desired(at(second), readings, &spec(), memory).size
}

#[test]
fn a_burst_brings_a_slot_a_task_at_once_and_says_how_that_was_computed() {
    let mut memory = memory(1);
    let decision = desired(at(0), &load(14), &spec(), &mut memory);
    assert_eq!((decision.size, decision.cause), (4, Cause::Demand));
    assert_eq!(
        decision.reason,
        "queued 14, running 0, 0 tasks/s, S 1 s, lead 3 s, 4 slots, target wait 500ms: \
         14 slots for the backlog"
    );
    let decision = desired(at(1), &load(100), &spec(), &mut memory);
    assert_eq!(decision.size, 8);
    assert!(
        decision
            .reason
            .ends_with("100 slots for the backlog; limited by maxReplicas 8"),
        "{}",
        decision.reason
    );
}

#[test]
fn shrinks_only_to_what_was_not_needed_for_the_idle_timeout() {
    let mut memory = memory(1);
    assert_eq!(sized(&mut memory, 0, &load(32)), 8);
    assert_eq!(sized(&mut memory, 10, &load(12)), 8);
    let waiting = desired(at(20), &load(0), &spec(), &mut memory);
    assert_eq!(
        (waiting.size, waiting.again_at),
        (8, Some(at(40))),
        "8 were needed up to 10 s"
    );
    assert!(
        waiting.reason.ends_with("; more was needed within 30s"),
        "{}",
        waiting.reason
    );
    assert_eq!(sized(&mut memory, 39, &load(0)), 8);
    assert_eq!(
        sized(&mut memory, 40, &load(0)),
        3,
        "3 were needed up to 20 s"
    );
    assert_eq!(sized(&mut memory, 49, &load(0)), 3);
    let last = desired(at(50), &load(0), &spec(), &mut memory);
    assert_eq!((last.size, last.cause), (1, Cause::Idle));
    assert!(
        last.reason
            .ends_with("; no more was needed for 30s; limited by minReplicas 1"),
        "{}",
        last.reason
    );
}

#[test]
fn zero_only_after_the_idle_timeout_without_any_work() {
    let mut spec = spec();
    spec.min_replicas = 0;
    // Even where the user lets a pool shrink at once.
    spec.scaling.behavior = Some(Behavior {
        scale_down: Some(ScalingRules {
            stabilization_window_seconds: Some(0),
            ..ScalingRules::default()
        }),
        scale_up: None,
    });
    let mut memory = memory(2);
    let running = [Reading::Queue(QueueReading {
        running: 1,
        ..queue(0)
    })];
    for second in (0..200).step_by(5) {
        assert!(desired(at(second), &running, &spec, &mut memory).size >= 1);
    }
    for second in (200..225).step_by(5) {
        assert!(desired(at(second), &load(0), &spec, &mut memory).size >= 1);
    }
    // One came and went between two looks.
    let passed = [Reading::Queue(QueueReading {
        at_ms: 1,
        arrived: 1,
        completed: 1,
        ..queue(0)
    })];
    assert_eq!(desired(at(224), &passed, &spec, &mut memory).size, 1);
    assert_eq!(desired(at(253), &passed, &spec, &mut memory).size, 1);
    assert_eq!(desired(at(254), &passed, &spec, &mut memory).size, 0);
    let again = [Reading::Queue(QueueReading {
        at_ms: 2,
        arrived: 2,
        completed: 1,
        ..queue(1)
    })];
    assert_eq!(desired(at(260), &again, &spec, &mut memory).size, 1);
}

#[test]
fn a_new_process_waits_one_window_before_it_shrinks() {
    let mut memory = Memory::resume(at(0), 6, &[]);
    let decision = desired(at(0), &load(0), &spec(), &mut memory);
    assert_eq!((decision.size, decision.again_at), (6, Some(at(30))));
    assert_eq!(sized(&mut memory, 29, &load(0)), 6);
    assert_eq!(sized(&mut memory, 30, &load(0)), 1);
}

#[test]
fn a_new_process_goes_on_with_the_speed_limits_of_the_last_one() {
    let mut spec = spec();
    spec.scaling.behavior = Some(Behavior {
        scale_up: Some(ScalingRules {
            policies: vec![ScalingPolicy {
                type_: PolicyType::Pods,
                value: 2,
                period_seconds: 60,
            }],
            ..ScalingRules::default()
        }),
        scale_down: None,
    });
    let history: Vec<crate::api::ScaleRecord> = serde_json::from_value(serde_json::json!([
        {"at": at(-20), "from": 2, "to": 4, "reason": ""},
        {"at": at(-90), "from": 1, "to": 2, "reason": ""},
    ]))
    .expect("a history");
    let mut memory = Memory::resume(at(0), 4, &history);
    let decision = desired(at(0), &load(100), &spec, &mut memory);
    assert_eq!((decision.size, decision.again_at), (4, Some(at(40))));
    assert_eq!(desired(at(40), &load(100), &spec, &mut memory).size, 6);
}

#[test]
fn holds_while_blind_and_grows_to_the_fallback() {
    let mut memory = memory(5);
    let decision = desired(at(0), &blind(), &spec(), &mut memory);
    assert_eq!((decision.size, decision.cause), (5, Cause::Blind));
    assert_eq!(
        decision.blind,
        [("queue".to_owned(), "Redis is away".to_owned())]
    );
    assert!(decision.reason.contains("Redis is away"));
    let mut spec = spec();
    spec.scaling.fallback = Some(ScalingFallback { replicas: 7 });
    assert_eq!(desired(at(1), &blind(), &spec, &mut memory).size, 7);
}

#[test]
fn counters_that_went_back_and_another_epoch_are_stale_and_the_next_reading_counts() {
    let reading = |at_ms: u64, epoch: &str, arrived: u64| {
        [Reading::Queue(QueueReading {
            at_ms,
            arrived,
            epoch: epoch.into(),
            ..queue(0)
        })]
    };
    for (epoch, arrived) in [("e", 0), ("f", 900)] {
        let mut memory = memory(6);
        sized(&mut memory, 0, &reading(1000, "e", 500));
        let lost = desired(
            at(100),
            &reading(2000, epoch, arrived),
            &spec(),
            &mut memory,
        );
        assert_eq!((lost.size, lost.cause), (6, Cause::Blind));
        assert!(lost.again_at.is_some_and(|again| again < at(102)));
        let same = desired(
            at(101),
            &reading(2000, epoch, arrived),
            &spec(),
            &mut memory,
        );
        assert_eq!(same.cause, Cause::Blind, "the same reading");
        assert_eq!(sized(&mut memory, 102, &reading(3000, epoch, arrived)), 1);
    }
}

#[test]
fn of_several_sources_the_largest_wins() {
    let mut memory = memory(1);
    let [queue] = load(8);
    let decision = desired(
        at(0),
        &[queue.clone(), external(45.0)],
        &spec(),
        &mut memory,
    );
    assert_eq!(decision.size, 5);
    assert_eq!(decision.reason, "Prometheus jobs: 45, 10 a worker");
    let less = [queue, external(0.0)];
    assert_eq!(desired(at(1), &less, &spec(), &mut memory).size, 5);
    assert_eq!(desired(at(31), &less, &spec(), &mut memory).size, 2);
}

#[test]
fn a_source_that_fails_keeps_the_size_and_the_others_may_grow_it() {
    let mut memory = memory(4);
    let failed = Reading::Failed {
        name: "Prometheus jobs".into(),
        why: "it does not answer".into(),
    };
    let [none] = load(0);
    let [much] = load(32);
    for second in 0..10 {
        let readings = [none.clone(), failed.clone()];
        assert_eq!(sized(&mut memory, second * 100, &readings), 4);
    }
    let grown = desired(at(1000), &[much, failed], &spec(), &mut memory);
    assert_eq!((grown.size, grown.cause), (8, Cause::Demand));
    let nonsense = desired(at(2000), &[external(f64::NAN)], &spec(), &mut memory);
    assert_eq!((nonsense.size, nonsense.cause), (8, Cause::Blind));
}

#[test]
fn while_a_source_fails_the_others_and_the_fallback_keep_to_the_behavior_of_growth() {
    let failed = || Reading::Failed {
        name: "Prometheus jobs".into(),
        why: "it does not answer".into(),
    };
    let growth = |rules: serde_json::Value| {
        let mut spec = spec();
        let behavior = serde_json::json!({"scaleUp": rules});
        spec.scaling.behavior = Some(serde_json::from_value(behavior).expect("a behavior"));
        spec
    };
    let policies = serde_json::json!([{"type": "Pods", "value": 2, "periodSeconds": 60}]);
    let mut two_a_minute = growth(serde_json::json!({"policies": policies}));
    let [much] = load(32);
    let mut asked = memory(1);
    for (second, size) in [(0, 3), (1, 3), (59, 3), (60, 5)] {
        let readings = [much.clone(), failed()];
        let decision = desired(at(second), &readings, &two_a_minute, &mut asked);
        assert_eq!(decision.size, size, "{}", decision.reason);
    }
    two_a_minute.scaling.fallback = Some(ScalingFallback { replicas: 7 });
    assert_eq!(
        desired(at(0), &blind(), &two_a_minute, &mut memory(1)).size,
        3
    );

    let frozen = growth(serde_json::json!({"selectPolicy": "Disabled"}));
    let readings = [much.clone(), failed()];
    assert_eq!(desired(at(0), &readings, &frozen, &mut memory(2)).size, 2);

    let patient = growth(serde_json::json!({"stabilizationWindowSeconds": 30}));
    let mut waits = memory(2);
    for (second, size) in [(0, 2), (29, 2), (30, 8)] {
        let readings = [much.clone(), failed()];
        let decision = desired(at(second), &readings, &patient, &mut waits);
        assert_eq!(decision.size, size, "{second}: {}", decision.reason);
    }
}

#[test]
fn pinned_size_is_taken_as_it_is() {
    let pinned = WorkerPoolSpec {
        replicas: Some(20),
        ..spec()
    };
    let mut memory = memory(3);
    let decision = desired(at(0), &blind(), &pinned, &mut memory);
    assert_eq!((decision.size, decision.cause), (20, Cause::Pinned));
}

#[test]
fn warm_replicas_hold_workers_for_who_moves_in() {
    let mut warm = spec();
    warm.min_replicas = 0;
    warm.warm_replicas = Some(2);
    let mut memory = memory(0);
    let decision = desired(at(0), &load(0), &warm, &mut memory);
    assert_eq!((decision.size, decision.cause), (2, Cause::Bounds));
    assert!(
        decision.reason.ends_with("limited by warmReplicas 2"),
        "{}",
        decision.reason
    );
}

#[test]
fn lowered_maximum_takes_effect_at_once() {
    let mut memory = memory(1);
    assert_eq!(sized(&mut memory, 0, &load(32)), 8);
    let low = WorkerPoolSpec {
        max_replicas: 3,
        ..spec()
    };
    let mut idle = memory.clone();
    let decision = desired(at(1), &load(32), &low, &mut memory);
    assert_eq!((decision.size, decision.cause), (3, Cause::Bounds));
    let decision = desired(at(1), &load(0), &low, &mut idle);
    assert_eq!((decision.size, decision.cause), (3, Cause::Bounds));
    let why = &decision.reason;
    assert!(why.ends_with("limited by maxReplicas 3"), "{why}");
    assert!(!why.contains("needed within"), "{why}");
}

#[test]
fn the_tolerance_keeps_small_changes_out() {
    let large = WorkerPoolSpec {
        max_replicas: 100,
        ..spec()
    };
    let mut memory = memory(40);
    for (second, value, size) in [
        (0, 361.0, 40),
        (100, 359.0, 40),
        (189, 359.0, 40),
        (190, 359.0, 36),
        (200, 361.0, 37),
        (300, 362.0, 37),
    ] {
        let decision = desired(at(second), &[external(value)], &large, &mut memory);
        assert_eq!(decision.size, size, "{}", decision.reason);
    }
}

#[test]
fn a_small_shrink_waits_three_times_as_long_unless_the_window_is_the_users_own() {
    let own = WorkerPoolSpec {
        scaling: crate::api::Scaling {
            behavior: Some(Behavior {
                scale_down: Some(ScalingRules {
                    stabilization_window_seconds: Some(30),
                    ..ScalingRules::default()
                }),
                ..Behavior::default()
            }),
            ..spec().scaling
        },
        ..spec()
    };
    for (spec, value, second, size) in [
        // A quarter less.
        (spec(), 60.0, 31, 8),
        (spec(), 60.0, 89, 8),
        (spec(), 60.0, 91, 6),
        (own, 60.0, 31, 6),
        // More than that.
        (spec(), 50.0, 31, 5),
    ] {
        let mut memory = memory(8);
        desired(at(-1), &[external(80.0)], &spec, &mut memory);
        desired(at(0), &[external(value)], &spec, &mut memory);
        let decision = desired(at(second), &[external(value)], &spec, &mut memory);
        assert_eq!(
            decision.size, size,
            "{value} at {second}: {}",
            decision.reason
        );
    }
}
