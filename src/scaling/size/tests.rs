use proptest::prelude::*;

use super::*;
use crate::api::ScalingFallback;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

/// min 1, max 8, 4 slots a worker, idleTimeout 30 s.
fn spec() -> WorkerPoolSpec {
    WorkerPoolSpec::default()
}

fn load(demand: u64) -> Numbers {
    Numbers::Fresh(Fresh {
        demand,
        queued: demand,
        running: 0,
    })
}

fn blind() -> Numbers {
    Numbers::Blind("Redis is away".into())
}

fn sized(memory: &mut Memory, second: i64, numbers: &Numbers) -> u32 {
    desired(at(second), numbers, &spec(), memory).size
}

#[test]
fn grows_at_once_to_demand_over_slots_and_says_so() {
    let mut memory = Memory::resume(at(0), 1);
    let decision = desired(at(0), &load(14), &spec(), &mut memory);
    assert_eq!((decision.size, decision.cause), (4, Cause::Demand));
    assert_eq!(
        decision.reason,
        "demand 14 (queued 14, running 0) at 4 slots a worker"
    );
    let decision = desired(at(1), &load(100), &spec(), &mut memory);
    assert_eq!(decision.size, 8);
    assert!(
        decision.reason.ends_with("limited by maxReplicas 8"),
        "{}",
        decision.reason
    );
}

#[test]
fn shrinks_only_to_what_was_not_needed_for_the_idle_timeout() {
    let mut memory = Memory::resume(at(-100), 1);
    assert_eq!(sized(&mut memory, 0, &load(32)), 8);
    assert_eq!(sized(&mut memory, 10, &load(12)), 8);
    let waiting = desired(at(20), &load(0), &spec(), &mut memory);
    assert_eq!(
        (waiting.size, waiting.again_at),
        (8, Some(at(40))),
        "8 were needed up to 10 s"
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
        last.reason.contains("no more was needed for 30s"),
        "{}",
        last.reason
    );
    assert!(
        last.reason.ends_with("limited by minReplicas 1"),
        "{}",
        last.reason
    );
}

#[test]
fn zero_only_when_nothing_waits_or_runs() {
    let mut spec = spec();
    spec.min_replicas = 0;
    let mut memory = Memory::resume(at(-100), 2);
    let running = Numbers::Fresh(Fresh {
        demand: 0,
        queued: 0,
        running: 1,
    });
    for second in (0..200).step_by(5) {
        assert!(desired(at(second), &running, &spec, &mut memory).size >= 1);
    }
    for second in (200..225).step_by(5) {
        assert!(desired(at(second), &load(0), &spec, &mut memory).size >= 1);
    }
    assert_eq!(desired(at(230), &load(0), &spec, &mut memory).size, 0);
    assert_eq!(desired(at(231), &load(1), &spec, &mut memory).size, 1);
}

#[test]
fn a_new_process_waits_one_window_before_it_shrinks() {
    let mut memory = Memory::resume(at(0), 6);
    let decision = desired(at(0), &load(0), &spec(), &mut memory);
    assert_eq!((decision.size, decision.again_at), (6, Some(at(30))));
    assert_eq!(sized(&mut memory, 29, &load(0)), 6);
    assert_eq!(sized(&mut memory, 30, &load(0)), 1);
}

#[test]
fn holds_while_blind_and_grows_to_the_fallback() {
    let mut memory = Memory::resume(at(-100), 5);
    let decision = desired(at(0), &blind(), &spec(), &mut memory);
    assert_eq!((decision.size, decision.cause), (5, Cause::Blind));
    assert!(decision.reason.contains("Redis is away"));
    let mut spec = spec();
    spec.scaling.fallback = Some(ScalingFallback { replicas: 7 });
    assert_eq!(desired(at(1), &blind(), &spec, &mut memory).size, 7);
}

#[test]
fn pinned_size_is_taken_as_it_is() {
    let pinned = WorkerPoolSpec {
        replicas: Some(20),
        ..spec()
    };
    let mut memory = Memory::resume(at(0), 3);
    let decision = desired(at(0), &blind(), &pinned, &mut memory);
    assert_eq!((decision.size, decision.cause), (20, Cause::Pinned));
}

#[test]
fn warm_replicas_hold_workers_for_who_moves_in() {
    let mut warm = spec();
    warm.min_replicas = 0;
    warm.warm_replicas = Some(2);
    let mut memory = Memory::resume(at(0), 0);
    let decision = desired(at(0), &load(0), &warm, &mut memory);
    assert_eq!((decision.size, decision.cause), (2, Cause::Bounds));
    assert!(decision.reason.ends_with("limited by warmReplicas 2"));
}

#[test]
fn lowered_maximum_takes_effect_at_once() {
    let mut memory = Memory::resume(at(-100), 1);
    assert_eq!(sized(&mut memory, 0, &load(32)), 8);
    let low = WorkerPoolSpec {
        max_replicas: 3,
        ..spec()
    };
    let decision = desired(at(1), &load(32), &low, &mut memory);
    assert_eq!((decision.size, decision.cause), (3, Cause::Bounds));
}

fn readings() -> impl Strategy<Value = Vec<(u32, Option<u64>)>> {
    proptest::collection::vec((0u32..20, proptest::option::of(0u64..100)), 1..80)
}

proptest! {
    #[test]
    fn stays_within_bounds_and_never_shrinks_blind(
        readings in readings(), min in 0u32..5, extra in 1u32..20, start in 0u32..30
    ) {
        let spec = WorkerPoolSpec { min_replicas: min, max_replicas: min + extra, ..spec() };
        let mut memory = Memory::resume(at(0), start);
        let mut now = 0;
        for (gap, reading) in readings {
            now += i64::from(gap);
            let before = memory.size();
            let numbers = reading.map_or_else(blind, load);
            let size = desired(at(now), &numbers, &spec, &mut memory).size;
            prop_assert!((spec.min_replicas..=spec.max_replicas).contains(&size));
            if reading.is_none() {
                prop_assert!(size >= before.min(spec.max_replicas));
            }
        }
    }

    #[test]
    fn a_shrink_leaves_what_any_reading_of_the_window_needed(readings in readings()) {
        let spec = WorkerPoolSpec { min_replicas: 0, max_replicas: 1000, ..spec() };
        let mut memory = Memory::resume(at(-1000), 0);
        let mut now = 0;
        let mut seen: Vec<(i64, u32)> = Vec::new();
        for (gap, reading) in readings {
            now += i64::from(gap);
            let Some(demand) = reading else { continue };
            let before = memory.size();
            let size = desired(at(now), &load(demand), &spec, &mut memory).size;
            seen.push((now, u32::try_from(demand.div_ceil(4)).expect("small")));
            if size < before {
                let needed = seen.iter().filter(|(when, _)| *when > now - 30).map(|(_, n)| *n).max();
                prop_assert!(Some(size) >= needed, "{size} < {needed:?} in {seen:?}");
            }
        }
    }

    #[test]
    fn more_demand_never_asks_for_less(low in 0u64..200, more in 0u64..200, size in 0u32..10) {
        let mut one = Memory::resume(at(-100), size);
        let mut two = one.clone();
        let small = desired(at(0), &load(low), &spec(), &mut one).size;
        let large = desired(at(0), &load(low + more), &spec(), &mut two).size;
        prop_assert!(large >= small);
    }

    #[test]
    fn constant_demand_settles(demand in 0u64..100, start in 0u32..20) {
        let mut memory = Memory::resume(at(0), start);
        let mut sizes = Vec::new();
        for second in 0..120 {
            sizes.push(sized(&mut memory, second, &load(demand)));
        }
        sizes.dedup();
        prop_assert!(sizes.len() <= 3, "{sizes:?}");
        let expected = u32::try_from(demand.div_ceil(4)).expect("small").clamp(1, 8);
        prop_assert_eq!(memory.size(), expected);
    }
}
