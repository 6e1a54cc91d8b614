use super::*;
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
fn what_a_worker_says_that_it_runs_counts_until_it_says_otherwise() {
    // A heartbeat was on its way while the last request ended.
    let mut busy = stats();
    busy.workers[0].reported_running = 1;
    assert!(active(&busy), "looked at until it is idle");
    assert!(difference(Some(&busy), &stats()).is_some());
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
