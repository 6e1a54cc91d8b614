//! What holds of all sizes, whatever the readings.

use proptest::prelude::*;

use super::*;

/// Time passes, a reading each: whether the source answers, waiting and running tasks, new arrivals.
#[derive(Clone, Debug)]
struct Step {
    pause: u32,
    answers: bool,
    waiting: u64,
    running: u64,
    arrivals: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u32..20, any::<bool>(), 0u64..100, 0u64..40, 0u64..50).prop_map(
        |(pause, answers, waiting, running, arrivals)| Step {
            pause,
            answers,
            waiting,
            running,
            arrivals,
        },
    );
    proptest::collection::vec(step, 1..80)
}

/// Feeds the steps; for each what was wanted: before, after, and whether it was blind.
fn play(spec: &WorkerPoolSpec, memory: &mut Memory, steps: &[Step]) -> Vec<(i64, u32, Decision)> {
    let (mut second, mut arrived) = (0, 0);
    let mut decisions = Vec::new();
    for step in steps {
        second += i64::from(step.pause);
        arrived += step.arrivals;
        let before = memory.size();
        let readings = if step.answers {
            [Reading::Queue(QueueReading {
                at_ms: u64::try_from(second).expect("positive") * 1000 + 1,
                demand: step.waiting + step.running,
                running: step.running,
                arrived,
                ..queue(step.waiting)
            })]
        } else {
            blind()
        };
        decisions.push((second, before, desired(at(second), &readings, spec, memory)));
    }
    decisions
}

proptest! {
    #[test]
    fn stays_within_bounds_and_never_shrinks_blind(
        steps in steps(), min in 0u32..5, extra in 1u32..20, start in 0u32..30
    ) {
        let spec = WorkerPoolSpec { min_replicas: min, max_replicas: min + extra, ..spec() };
        for (_, before, decision) in play(&spec, &mut memory(start), &steps) {
            prop_assert!((spec.min_replicas..=spec.max_replicas).contains(&decision.size));
            if !decision.blind.is_empty() {
                prop_assert!(decision.size >= before.min(spec.max_replicas));
            }
        }
    }

    #[test]
    fn running_tasks_keep_their_slots(steps in steps()) {
        let spec = WorkerPoolSpec { min_replicas: 0, max_replicas: 1000, ..spec() };
        let mut memory = memory(0);
        let decisions = play(&spec, &mut memory, &steps);
        for (step, (_, _, decision)) in steps.iter().zip(decisions) {
            if step.answers {
                prop_assert!(u64::from(decision.size) * 4 >= step.running);
            }
        }
    }

    #[test]
    fn work_has_a_worker_whatever_the_policies(
        steps in steps(), percent in 1u32..200, pods in 1u32..5, both in any::<bool>(), max in any::<bool>()
    ) {
        let policy = |type_, value| ScalingPolicy { type_, value, period_seconds: 15 };
        let mut policies = vec![policy(PolicyType::Percent, percent)];
        policies.extend(both.then(|| policy(PolicyType::Pods, pods)));
        let select = if max { SelectPolicy::Max } else { SelectPolicy::Min };
        let rules = ScalingRules { policies, select_policy: Some(select), ..ScalingRules::default() };
        let mut spec = WorkerPoolSpec { min_replicas: 0, max_replicas: 1000, ..spec() };
        spec.scaling.behavior = Some(Behavior { scale_up: Some(rules.clone()), scale_down: Some(rules) });
        let decisions = play(&spec, &mut memory(0), &steps);
        for (step, (_, _, decision)) in steps.iter().zip(decisions) {
            prop_assert!(
                !step.answers || decision.size > 0 || step.waiting + step.running == 0,
                "{decision:?}"
            );
        }
    }

    #[test]
    fn a_shrink_leaves_what_any_reading_of_the_window_needed(steps in steps()) {
        let spec = WorkerPoolSpec { min_replicas: 0, max_replicas: 1000, ..spec() };
        let decisions = play(&spec, &mut memory(0), &steps);
        let mut needs: Vec<(i64, u32)> = Vec::new();
        for (second, before, decision) in decisions {
            let Some(inputs) = decision.inputs else { continue };
            needs.push((second, u32::try_from(inputs.need().slots.div_ceil(4)).expect("small")));
            if decision.size < before {
                let recent = needs.iter().filter(|(at, _)| *at > second - 30);
                let most = recent.map(|(_, need)| *need).max();
                // Less only within the tolerance of the size that was there.
                let most = most.map(|most| most.min(before));
                prop_assert!(Some(decision.size) >= most, "{decision:?} {needs:?}");
            }
        }
    }

    #[test]
    fn more_that_waits_never_asks_for_less(
        steps in steps(), waiting in 0u64..200, more in 0u64..200
    ) {
        let mut one = memory(3);
        play(&spec(), &mut one, &steps);
        let mut two = one.clone();
        let last = |waiting| Step { pause: 1, answers: true, waiting, running: 2, arrivals: 0 };
        let wide = WorkerPoolSpec { max_replicas: 100, ..spec() };
        let small = play_once(&wide, &mut one, &last(waiting));
        let large = play_once(&wide, &mut two, &last(waiting + more));
        prop_assert!(large >= small, "{small} {large}");
    }

    #[test]
    fn constant_demand_settles(demand in 0u64..100, start in 0u32..20) {
        let mut memory = Memory::resume(at(0), start, &[]);
        let mut sizes = Vec::new();
        for second in 0..120 {
            sizes.push(sized(&mut memory, second, &load(demand)));
        }
        sizes.dedup();
        prop_assert!(sizes.len() <= 3, "{sizes:?}");
        let expected = u32::try_from(demand.div_ceil(4)).expect("small").clamp(1, 8);
        prop_assert_eq!(memory.size(), expected);
    }

    #[test]
    fn no_policy_is_exceeded_in_any_period(
        steps in steps(), pods in 1u32..5, period in 1u32..60
    ) {
        let rules = ScalingRules {
            policies: vec![ScalingPolicy { type_: PolicyType::Pods, value: pods, period_seconds: period }],
            ..ScalingRules::default()
        };
        let mut spec = WorkerPoolSpec { min_replicas: 0, max_replicas: 1000, ..spec() };
        spec.scaling.behavior = Some(Behavior { scale_up: Some(rules.clone()), scale_down: Some(rules) });
        let decisions = play(&spec, &mut memory(0), &steps);
        for (index, (now, before, decision)) in decisions.iter().enumerate() {
            if decision.size == *before {
                continue;
            }
            let then = decisions[..=index].iter().find(|(at, ..)| now - at < i64::from(period));
            let (_, start, _) = then.expect("this one");
            // As in the HPA, a step is measured from the size at the start of the period that ends
            // with it: who grew by 4 within it may lose these 4 and 4 more.
            if decision.size > *before {
                prop_assert!(decision.size <= start + pods);
            } else {
                prop_assert!(decision.size + pods >= *start);
            }
        }
    }
}

fn play_once(spec: &WorkerPoolSpec, memory: &mut Memory, step: &Step) -> u32 {
    let mut decision = desired(
        at(10_000),
        &[Reading::Queue(QueueReading {
            at_ms: 10_000_000,
            demand: step.waiting + step.running,
            running: step.running,
            arrived: 10_000,
            ..queue(step.waiting)
        })],
        spec,
        memory,
    );
    decision.reason.clear();
    decision.size
}
