//! Workers come, are replaced, go.

use persona_operator::queue::QueueError;
use persona_operator::queue::fleet::Fate;
use persona_operator::queue::work::Fenced;

use crate::fence::changes_nothing;
use crate::support::{fixture, numbered, persona, until};

#[tokio::test]
async fn a_new_instance_of_a_pod_frees_what_the_old_one_held_and_shuts_it_out() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let old = q.worker("w", "pool", 4).await;
    let held = old.takes(4, &["t0", "t1"]).await;
    let new = old.clone().instance("w-2");
    assert_eq!(new.register().await, 2);
    for task in &held {
        assert_eq!(old.try_finish(task).await, Fenced::Lost);
    }
    let superseded = |error| matches!(error, QueueError::Superseded);
    assert!(superseded(old.try_take(4).await.expect_err("shut out")));
    assert!(superseded(old.renew(&[]).await.expect_err("shut out")));
    // Both were lost with others, so each runs alone now.
    let first = new.takes(4, &["t0"]).await;
    new.finish(&first[0]).await;
    new.takes(4, &["t1"]).await;
}

#[tokio::test]
async fn registering_again_frees_nothing() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 4).await;
    let task = w.take_one().await;
    assert_eq!(w.register().await, 0);
    w.finish(&task).await;
}

#[tokio::test]
async fn a_worker_that_goes_is_no_capacity_and_keeps_what_it_holds_until_it_is_reaped() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 4).await;
    let task = w.take_one().await;
    q.ns.deregister("pool", "w").await.expect("an answer");
    assert_eq!(q.stats("pool").await.workers, []);
    assert_eq!(q.stats("pool").await.running, 1);
    let reaped = q.ns.reap_worker("w").await.expect("an answer");
    assert_eq!(reaped.len(), 1);
    changes_nothing(&q, &w, &task).await;
}

#[tokio::test]
async fn a_late_word_of_a_workers_end_leaves_what_it_has_taken_since() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").length(4)).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let w = q.worker("w", "pool", 2).await;
    w.take_one().await;
    let lost_ms = q.queue.now_ms().await.expect("an answer");
    let ticks = async || q.queue.now_ms().await.expect("an answer") > lost_ms;
    until(ticks).await;
    let since = w.take_one().await;
    let reaped = q.ns.reap_worker_as_of("w", lost_ms).await;
    let reaped: Vec<_> = reaped
        .expect("reaped")
        .into_iter()
        .map(|r| r.task)
        .collect();
    assert_eq!(reaped, ["t0"]);
    w.finish(&since).await;
}

#[tokio::test]
async fn reap_finds_the_leases_of_a_worker_that_never_registered_or_went() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let stranger = q.unregistered("stranger", "pool", 1).dying();
    stranger.takes(1, &["t0"]).await;
    let gone = q.unregistered("gone", "pool", 1).dying();
    gone.register().await;
    gone.takes(1, &["t1"]).await;
    q.ns.deregister("pool", "gone").await.expect("an answer");
    let mut tasks: Vec<_> = q.reap().await.into_iter().map(|it| it.task).collect();
    tasks.sort();
    assert_eq!(tasks, ["t0", "t1"]);
}

#[tokio::test]
async fn a_worker_that_is_forgotten_leaves_nothing() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 4).await;
    w.take_one().await;
    q.ns.drain("w", true).await.expect("an answer");
    let reaped = q.ns.forget_worker("w").await.expect("an answer");
    assert_eq!((reaped.len(), reaped[0].fate), (1, Fate::Requeued));
    let prefix = q.ns.keys().prefix();
    for key in ["w:w", "lease:w", "workers", "workers:pool"] {
        let mut cmd = redis::cmd("EXISTS");
        let there: bool = q.redis(cmd.arg(format!("{prefix}{key}"))).await;
        assert!(!there, "{key}");
    }
    assert!(q.ns.forget_worker("w").await.expect("an answer").is_empty());
}
