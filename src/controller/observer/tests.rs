use super::*;
use crate::queue::heartbeat::RecycleReason;
use crate::queue::stats::WorkerStats;

fn stats() -> PoolStats {
    PoolStats {
        namespace: "n".into(),
        pool: "p".into(),
        open: true,
        epoch: Some("e".into()),
        workers: vec![WorkerStats {
            uid: "a".into(),
            lanes: vec!["-".into()],
            ..WorkerStats::default()
        }],
        ..PoolStats::default()
    }
}

#[test]
fn a_heartbeat_alone_wakes_nobody() {
    let mut later = stats();
    later.at_ms = 5000;
    later.workers[0].heartbeat_at_ms = 5000;
    assert_eq!(difference(Some(&stats()), &later), None);
}

#[test]
fn a_worker_that_asks_to_be_replaced_wakes_its_pool() {
    let mut later = stats();
    later.workers[0].recycle = Some(RecycleReason::Age);
    let difference = difference(Some(&stats()), &later).expect("a difference");
    assert!(!difference.personas && !difference.lost);
}

#[test]
fn what_a_worker_says_that_it_runs_counts_until_it_says_otherwise() {
    // A heartbeat was on its way while the last request ended.
    let mut busy = stats();
    busy.workers[0].reported_running = 1;
    assert!(active(&busy), "looked at until it is idle");
    assert!(difference(Some(&busy), &stats()).is_some());
}

#[test]
fn numbers_count_though_the_queues_clock_has_gone_back() {
    let (observer, _looks) = Observer::new();
    let asked = Instant::now();
    let before = PoolStats {
        at_ms: 10_000,
        arrived: 5,
        ..stats()
    };
    let after = PoolStats {
        at_ms: 5_000,
        demand: 1,
        ..before.clone()
    };
    observer.note(asked, vec![before]);
    let differences = observer.note(asked + Duration::from_millis(1), vec![after.clone()]);
    assert_eq!(differences.len(), 1);
    assert_eq!(*observer.stats("n", "p").expect("numbers"), after);
}

#[test]
fn numbers_that_were_asked_for_before_the_known_ones_do_not_count() {
    let (observer, _looks) = Observer::new();
    let asked = Instant::now();
    let known = PoolStats {
        demand: 1,
        ..stats()
    };
    observer.note(asked + Duration::from_millis(1), vec![known.clone()]);
    assert_eq!(observer.note(asked, vec![stats()]), []);
    assert_eq!(*observer.stats("n", "p").expect("numbers"), known);
}

#[test]
fn a_lane_that_appears_concerns_the_personas_too() {
    let mut later = stats();
    later.workers[0].lanes.push("openai/key".into());
    let difference = difference(Some(&stats()), &later).expect("a difference");
    assert!(difference.personas && !difference.lost);
}

#[test]
fn what_a_model_server_holds_or_cannot_load_concerns_the_personas_too() {
    let mut loaded = stats();
    loaded.workers[0].loaded.push("adapter/law".into());
    let mut failed = loaded.clone();
    let words = ("adapter/tax".into(), "no such file".into());
    failed.workers[0].load_failures.push(words);
    for (before, now) in [(stats(), &loaded), (loaded.clone(), &failed)] {
        let difference = difference(Some(&before), now).expect("a difference");
        assert!(difference.personas && !difference.lost);
    }
    assert_eq!(difference(Some(&failed), &failed), None);
}

#[test]
fn a_worker_that_holds_nothing_does_not_concern_the_personas() {
    let mut later = stats();
    later.workers.push(WorkerStats {
        uid: "b".into(),
        lanes: vec!["-".into()],
        ..WorkerStats::default()
    });
    let difference = difference(Some(&stats()), &later).expect("a difference");
    assert!(!difference.personas);
}

#[test]
fn a_flushed_queue_is_noticed_again_and_again() {
    let empty = PoolStats {
        open: false,
        epoch: None,
        workers: Vec::new(),
        ..stats()
    };
    assert!(difference(Some(&stats()), &empty).expect("one").lost);
    assert!(difference(Some(&empty), &empty).expect("one").lost);
}
