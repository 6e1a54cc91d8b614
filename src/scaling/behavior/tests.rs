use proptest::prelude::*;

use super::*;
use crate::api::Scaling;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_000_000_000 + ms).expect("in range")
}

fn spec(rules: ScalingRules) -> WorkerPoolSpec {
    let behavior = Behavior {
        scale_up: Some(rules.clone()),
        scale_down: Some(rules),
    };
    WorkerPoolSpec {
        scaling: Scaling {
            behavior: Some(behavior),
            ..Scaling::default()
        },
        ..WorkerPoolSpec::default()
    }
}

#[test]
fn by_default_a_pool_grows_tenfold_or_by_a_hundred_a_second() {
    let rules = Rules::up(&WorkerPoolSpec::default());
    let mut changes = Changes::default();
    assert_eq!(rules.ceiling(at(0), 0, &changes), 100);
    assert_eq!(rules.ceiling(at(0), 50, &changes), 500);
    changes.note(at(0), 0, 100);
    assert_eq!(rules.ceiling(at(999), 100, &changes), 100);
    assert_eq!(rules.eases_at(at(999), &changes), Some(at(1000)));
    assert_eq!(rules.ceiling(at(1000), 100, &changes), 1000);
}

#[test]
fn of_several_policies_max_takes_the_freest_and_min_the_strictest() {
    let policies = vec![
        policy(PolicyType::Pods, 4, 60),
        policy(PolicyType::Percent, 10, 60),
    ];
    for (select, up, down) in [
        (None, 84, 72),
        (Some(SelectPolicy::Max), 88, 72),
        (Some(SelectPolicy::Min), 84, 76),
        (Some(SelectPolicy::Disabled), 80, 80),
    ] {
        let spec = spec(ScalingRules {
            policies: policies.clone(),
            select_policy: select,
            ..ScalingRules::default()
        });
        let none = Changes::default();
        let up = if select.is_none() { 88 } else { up };
        assert_eq!(Rules::up(&spec).ceiling(at(0), 80, &none), up);
        assert_eq!(Rules::down(&spec).floor(at(0), 80, &none), down);
    }
}

/// The example of the Kubernetes documentation, "Limit scale down rate": 80 pods at 10 percent a
/// minute go down by 8, then 7.2 (here cut to whole pods left), and so on.
#[test]
fn percent_of_scale_down_counts_from_the_size_at_the_beginning_of_the_period() {
    let rules = Rules::down(&spec(ScalingRules {
        policies: vec![policy(PolicyType::Percent, 10, 60)],
        ..ScalingRules::default()
    }));
    let mut changes = Changes::default();
    assert_eq!(rules.floor(at(0), 80, &changes), 72);
    changes.note(at(0), 80, 72);
    assert_eq!(rules.floor(at(59_999), 72, &changes), 72);
    assert_eq!(rules.floor(at(60_000), 72, &changes), 64);
}

/// `getReplicasChangePerPeriod` and the two limits of horizontal.go, word for word.
fn reference(
    up: bool,
    rules: &ScalingRules,
    now: i64,
    size: u32,
    history: &[(i64, u32, u32)],
) -> u32 {
    let change = |period: u32, grown: bool| -> i64 {
        let cutoff = now - i64::from(period) * 1000;
        history
            .iter()
            .filter(|(at, from, to)| *at > cutoff && (to > from) == grown)
            .map(|(_, from, to)| i64::from(from.abs_diff(*to)))
            .sum()
    };
    let select = rules.select_policy.unwrap_or(SelectPolicy::Max);
    if select == SelectPolicy::Disabled {
        return size;
    }
    let proposals = rules.policies.iter().map(|p| {
        let start =
            i64::from(size) - change(p.period_seconds, true) + change(p.period_seconds, false);
        match (up, p.type_) {
            (true, PolicyType::Pods) => start + i64::from(p.value),
            (true, PolicyType::Percent) => {
                (start as f64 * (1.0 + f64::from(p.value) / 100.0)).ceil() as i64
            }
            (false, PolicyType::Pods) => start - i64::from(p.value),
            (false, PolicyType::Percent) => {
                (start as f64 * (1.0 - f64::from(p.value) / 100.0)) as i64
            }
        }
    });
    let widest = (select == SelectPolicy::Max) == up;
    let result = if widest {
        proposals.max()
    } else {
        proposals.min()
    };
    let result = u32::try_from(result.expect("a policy").max(0)).expect("small");
    if up {
        result.max(size)
    } else {
        result.min(size)
    }
}

fn rules() -> impl Strategy<Value = ScalingRules> {
    let policy = (any::<bool>(), 1u32..100, 1u32..60).prop_map(|(pods, value, seconds)| {
        policy(
            if pods {
                PolicyType::Pods
            } else {
                PolicyType::Percent
            },
            value,
            seconds,
        )
    });
    let select = prop_oneof![
        Just(None),
        Just(Some(SelectPolicy::Max)),
        Just(Some(SelectPolicy::Min)),
        Just(Some(SelectPolicy::Disabled)),
    ];
    (proptest::collection::vec(policy, 1..4), select).prop_map(|(policies, select_policy)| {
        ScalingRules {
            policies,
            select_policy,
            ..ScalingRules::default()
        }
    })
}

proptest! {
    #[test]
    fn policies_limit_as_those_of_the_hpa(
        rules in rules(),
        steps in proptest::collection::vec((0i64..40_000, 0u32..200), 1..30),
    ) {
        let spec = spec(rules.clone());
        let (mut now, mut size) = (0, 10);
        let (mut changes, mut history) = (Changes::default(), Vec::new());
        for (pause, wanted) in steps {
            now += pause;
            let ceiling = Rules::up(&spec).ceiling(at(now), size, &changes);
            let floor = Rules::down(&spec).floor(at(now), size, &changes);
            // The HPA does not look at a target of size 0: the first worker comes whatever the policies.
            let disabled = rules.select_policy == Some(SelectPolicy::Disabled);
            let first = u32::from(size == 0 && !disabled);
            let limit = reference(true, &rules, now, size, &history).max(first);
            prop_assert_eq!(ceiling, limit);
            prop_assert_eq!(floor, reference(false, &rules, now, size, &history));
            let next = wanted.clamp(floor, ceiling);
            changes.note(at(now), size, next);
            if next != size {
                history.push((now, size, next));
            }
            size = next;
        }
    }

    /// The HPA's windows, on a recommendation that holds until the next: the most, and the least, of
    /// all that held at any moment of the window.
    #[test]
    fn windows_look_back_as_those_of_the_hpa(
        readings in proptest::collection::vec((1i64..20_000, 0u32..50), 1..60),
        seconds in 0u64..60,
    ) {
        let window = Duration::from_secs(seconds);
        let (mut highest, mut lowest) = (Window::new(at(0), 7), Window::new(at(0), Reverse(7)));
        let mut held = vec![(0, 7)];
        let mut now = 0;
        for (pause, wanted) in readings {
            now += pause;
            // It held until now.
            let before = held.last().expect("one").1;
            held.push((now, before));
            held.push((now, wanted));
            highest.note(at(now), wanted);
            lowest.note(at(now), Reverse(wanted));
            let start = now - i64::try_from(seconds).expect("small") * 1000;
            let recent = held.iter().filter(|(at, _)| *at > start).map(|(_, size)| *size);
            let recent: Vec<u32> = recent.chain([wanted]).collect();
            let high = highest.extreme(at(now), window).expect("one").0;
            let low = lowest.extreme(at(now), window).expect("one").0.0;
            prop_assert_eq!(Some(high), recent.iter().copied().max());
            prop_assert_eq!(Some(low), recent.iter().copied().min());
            highest.forget(at(now), window);
            lowest.forget(at(now), window);
        }
    }
}
