//! A persona whose tasks take workers along, one after the other, must not take down a shared pool, nor
//! by their help those of others.

use persona_operator::queue::fleet::Fate;
use persona_operator::queue::submit::Enqueue;

use crate::support::{Fixture, PAYLOAD, fixture, numbered, persona};
use crate::worker::Worker;

/// A pool that `bad`, with many tasks, shares with `good`; its one worker runs everything alone.
async fn shared() -> (Fixture, Worker) {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("bad").attempts(100).concurrency(1)).await;
    q.route(&persona("good")).await;
    q.enqueue_all("bad", numbered("b", 9)).await;
    let worker = q.worker("w", "pool", 1).await;
    (q, worker)
}

/// The worker takes the first task of `bad`, and dies of it.
async fn dies_of_it(q: &Fixture, worker: &Worker) {
    let task = worker.take_one().await;
    assert_eq!(task.persona, "bad");
    let reaped = q.ns.reap_worker(&worker.uid).await.expect("reaped");
    assert_eq!(reaped[0].fate, Fate::Requeued);
}

/// How long the persona is still kept from running anything.
async fn held_for_ms(q: &Fixture) -> Option<u64> {
    let stats = q.ns.persona_stats(&["bad".to_owned()]).await;
    let until = stats.expect("numbers")[0].quarantined_until_ms?;
    Some(until.saturating_sub(q.now_ms().await))
}

#[tokio::test]
async fn after_three_workers_a_persona_waits_and_the_others_go_on() {
    let (q, w) = shared().await;
    for _ in 0..2 {
        dies_of_it(&q, &w).await;
        assert_eq!(held_for_ms(&q).await, None);
    }
    dies_of_it(&q, &w).await;
    let pause = held_for_ms(&q).await.expect("in quarantine");
    assert!((25_000..=30_000).contains(&pause), "{pause}");
    w.takes(1, &[]).await;
    q.enqueue("good", "g").await;
    let task = w.takes(1, &["g"]).await;
    w.finish(&task[0]).await;
    q.enqueue("bad", "accepted").await;
    assert_eq!(q.stats("pool").await.suspects, 1);
}

#[tokio::test]
async fn each_further_worker_doubles_the_pause() {
    let (q, w) = shared().await;
    for _ in 0..3 {
        dies_of_it(&q, &w).await;
    }
    for seconds in [60, 120, 240] {
        q.let_go("pool", "bad").await;
        dies_of_it(&q, &w).await;
        let pause = held_for_ms(&q).await.expect("in quarantine");
        let longest = seconds * 1000;
        assert!((longest - 5000..=longest).contains(&pause), "{pause}");
    }
}

#[tokio::test]
async fn after_the_pause_its_tasks_run_alone_until_one_ends() {
    let (q, w) = shared().await;
    for _ in 0..3 {
        dies_of_it(&q, &w).await;
    }
    q.ns.cancel("b0").await.expect("cancelled");
    q.let_go("pool", "bad").await;
    let wide = q.worker("wide", "pool", 4).await;
    let first = wide.takes(4, &["b1"]).await;
    assert!(first[0].solo, "though it was never lost itself");
    q.enqueue("good", "g").await;
    wide.takes(3, &[]).await;
    wide.finish(&first[0]).await;
    assert_eq!(held_for_ms(&q).await, None);
    let mut both = wide.take(4).await;
    both.sort_by(|a, b| a.task.cmp(&b.task));
    let solo: Vec<_> = both.iter().map(|t| (t.task.as_str(), t.solo)).collect();
    assert_eq!(solo, [("b2", false), ("g", false)]);
}

#[tokio::test]
async fn another_configuration_is_tried_at_once() {
    let (q, w) = shared().await;
    for _ in 0..3 {
        dies_of_it(&q, &w).await;
    }
    w.takes(1, &[]).await;
    q.route(&persona("bad").attempts(100).generation(2)).await;
    assert_eq!(held_for_ms(&q).await, None);
    w.takes(1, &["b0"]).await;
}

#[tokio::test]
async fn who_shares_its_pool_with_nobody_is_not_held() {
    let (q, w) = shared().await;
    q.open(&["own"]).await;
    q.route(&persona("good").pool("own")).await;
    for _ in 0..5 {
        dies_of_it(&q, &w).await;
    }
    assert_eq!(held_for_ms(&q).await, None);
}

#[tokio::test]
async fn who_is_alone_in_its_pool_takes_no_worker_of_another_pool_along() {
    let (q, own) = shared().await;
    q.open(&["other"]).await;
    q.route(&persona("good").pool("other")).await;
    let thief = q.unregistered("thief", "other", 4).stealing(&["pool"]);
    thief.register().await;
    // Nobody knows it yet: the worker that helps is the first one.
    thief.takes(4, &["b0"]).await;
    let lost = q.ns.reap_worker("thief").await.expect("reaped");
    assert_eq!(lost[0].fate, Fate::Requeued);
    for _ in 0..5 {
        thief.takes(4, &[]).await;
        dies_of_it(&q, &own).await;
    }
    // Nor is it helped with a task that was never lost, and goes before the others.
    for task in ["b0", "b1"] {
        q.ns.cancel(task).await.expect("cancelled");
    }
    let urgent = Enqueue {
        priority: 50,
        ..Enqueue::new("bad", "urgent", PAYLOAD)
    };
    q.submit(&urgent).await;
    thief.takes(4, &[]).await;
    assert_eq!(
        held_for_ms(&q).await,
        None,
        "its own pool is its own matter"
    );
    let survived = own.takes(1, &["urgent"]).await;
    own.finish(&survived[0]).await;
    thief.takes(4, &["b2"]).await;
}

#[tokio::test]
async fn losses_together_with_others_do_not_count() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for name in ["bad", "good"] {
        q.route(&persona(name)).await;
    }
    for round in 0..4 {
        for name in ["bad", "good"] {
            q.enqueue(name, &format!("{name}{round}")).await;
        }
        let w = q.worker(&format!("w{round}"), "pool", 4).await;
        assert_eq!(w.take(4).await.len(), 2);
        q.ns.reap_worker(&w.uid).await.expect("reaped");
        for name in ["bad", "good"] {
            let task = format!("{name}{round}");
            q.ns.cancel(&task).await.expect("cancelled");
        }
    }
    assert_eq!(held_for_ms(&q).await, None);
}

#[tokio::test]
async fn a_persona_that_comes_again_under_the_name_begins_anew() {
    let (q, w) = shared().await;
    for _ in 0..3 {
        dies_of_it(&q, &w).await;
    }
    q.ns.remove("bad", "bad-uid", "deleted")
        .await
        .expect("removed");
    assert_eq!(held_for_ms(&q).await, None);
    q.route(&persona("bad").uid("another")).await;
    q.enqueue("bad", "fresh").await;
    w.takes(1, &["fresh"]).await;
}
