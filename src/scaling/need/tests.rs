use proptest::prelude::*;

use super::*;

fn quiet() -> Inputs {
    Inputs {
        service: 1.0,
        lead: 2.0,
        target_wait: 0.5,
        ..Inputs::default()
    }
}

#[test]
fn a_burst_on_an_empty_pool_asks_for_a_slot_a_task() {
    let burst = Inputs {
        demand: 160,
        backlog: 160,
        ..quiet()
    };
    let need = burst.need();
    assert_eq!((need.slots, need.term), (160, Term::Backlog));
    let quick = Inputs {
        service: 0.05,
        ..burst
    };
    assert_eq!(quick.need().slots, 16, "ten of them one after the other");
}

#[test]
fn a_backlog_that_the_workers_finish_before_others_could_help_asks_for_nothing() {
    let short = Inputs {
        demand: 30,
        backlog: 20,
        running: 10,
        ahead: 20.0,
        ..quiet()
    };
    assert_eq!(short.need().term, Term::Running);
    let longer = Inputs {
        demand: 40,
        backlog: 30,
        ..short
    };
    assert_eq!(
        longer.need().slots,
        10,
        "10 left in 2 s, and 10 slots are there"
    );
}

#[test]
fn nothing_above_what_may_run_at_once_and_running_tasks_are_never_left() {
    let limited = Inputs {
        demand: 160,
        backlog: 160,
        concurrency: Some(100),
        provider_limit: Some(30),
        ..quiet()
    };
    let need = limited.need();
    assert_eq!((need.slots, need.term), (30, Term::Provider));
    let running = Inputs {
        running: 50,
        ..limited
    };
    assert_eq!(running.need().slots, 50);
}

#[test]
fn an_even_load_needs_little_more_than_its_own_number_of_slots() {
    let random = Inputs {
        rate: 10.0,
        ..quiet()
    };
    let even = Inputs {
        peakedness: 0.1,
        ..random
    };
    assert_eq!((random.need().slots, even.need().slots), (15, 11));
}

#[test]
fn figures_are_short() {
    for (value, text) in [
        (0.0, "0"),
        (0.0042, "0.0042"),
        (0.9, "0.9"),
        (0.95, "0.95"),
        (12.0, "12"),
        (12.34, "12.3"),
        (160.4, "160"),
    ] {
        assert_eq!(Figure(value).to_string(), text);
    }
}

fn inputs() -> impl Strategy<Value = Inputs> {
    (
        0u64..3000,
        0u64..500,
        0u64..500,
        0.0f64..200.0,
        0.001f64..60.0,
        0.1f64..60.0,
    )
        .prop_map(
            |(backlog, running, ready_slots, rate, service, lead)| Inputs {
                demand: backlog + running,
                backlog,
                running,
                ahead: ready_slots as f64 * lead,
                rate,
                service,
                lead,
                target_wait: 0.5,
                ..Inputs::default()
            },
        )
}

proptest! {
    #[test]
    fn more_that_waits_never_needs_less(inputs in inputs(), more in 0u64..1000) {
        let longer = Inputs { backlog: inputs.backlog + more, demand: inputs.demand + more, ..inputs };
        prop_assert!(longer.need().slots >= inputs.need().slots);
    }

    #[test]
    fn more_workers_that_are_ready_never_need_more(inputs in inputs(), more in 0u64..1000) {
        let richer = Inputs { ahead: inputs.ahead + more as f64, ..inputs };
        prop_assert!(richer.need().slots <= inputs.need().slots);
    }

    #[test]
    fn work_needs_at_least_one(inputs in inputs()) {
        prop_assert!(inputs.need().slots >= u64::from(inputs.demand + inputs.running > 0));
    }
}
