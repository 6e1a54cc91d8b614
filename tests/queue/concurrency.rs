//! maxConcurrency of a persona.

use std::time::Duration;

use persona_operator::queue::submit::CancelAnswer;
use persona_operator::queue::work::ReleaseReason;

use crate::support::{fixture, numbered, persona, soon};

#[tokio::test]
async fn an_actor_answers_one_at_a_time() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(1)).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    let (a, b) = (
        q.worker("a", "pool", 4).await,
        q.worker("b", "pool", 4).await,
    );
    let first = a.takes(4, &["t0"]).await;
    b.takes(4, &[]).await;
    a.finish(&first[0]).await;
    b.takes(4, &["t1"]).await;
    a.takes(4, &[]).await;
}

#[tokio::test]
async fn the_limit_holds_over_all_workers_of_the_pool() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(3)).await;
    q.enqueue_all("p", numbered("t", 9)).await;
    let (a, b) = (
        q.worker("a", "pool", 2).await,
        q.worker("b", "pool", 4).await,
    );
    a.takes(2, &["t0", "t1"]).await;
    b.takes(4, &["t2"]).await;
}

#[tokio::test]
async fn a_limit_raised_while_tasks_run_lets_more_begin_at_once() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(1)).await;
    q.enqueue_all("p", numbered("t", 4)).await;
    let w = q.worker("w", "pool", 8).await;
    w.takes(8, &["t0"]).await;
    // Empty the bell, so that what rings is the raise.
    let mut bell = q.ns.bell("pool", &w.lanes);
    while bell.wait(Duration::from_millis(1)).await.expect("a wait") {}
    q.route(&persona("p").concurrency(3).generation(2)).await;
    assert!(
        soon(bell.wait(Duration::from_secs(20)))
            .await
            .expect("rung")
    );
    w.takes(7, &["t1", "t2"]).await;
}

#[tokio::test]
async fn a_lowered_limit_lets_running_tasks_finish_and_nothing_begin_above_it() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(3)).await;
    q.enqueue_all("p", numbered("t", 5)).await;
    let w = q.worker("w", "pool", 8).await;
    let running = w.takes(8, &["t0", "t1", "t2"]).await;
    q.route(&persona("p").concurrency(1).generation(2)).await;
    w.finish(&running[0]).await;
    w.takes(8, &[]).await;
    w.finish(&running[1]).await;
    w.takes(8, &[]).await;
    w.finish(&running[2]).await;
    w.takes(8, &["t3"]).await;
}

#[tokio::test]
async fn every_way_a_task_stops_makes_room_for_the_next() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(1).attempts(1)).await;
    let w = q.worker("w", "pool", 1).await;
    q.enqueue_all("p", numbered("t", 5)).await;
    let t = w.takes(1, &["t0"]).await;
    w.finish(&t[0]).await;
    let t = w.takes(1, &["t1"]).await;
    let cancelled = q.ns.cancel(&t[0].task).await.expect("an answer");
    assert_eq!(cancelled, CancelAnswer::Cancelled);
    let t = w.takes(1, &["t2"]).await;
    w.release(&t[0], ReleaseReason::Failed, Duration::ZERO)
        .await;
    let t = w.takes(1, &["t3"]).await;
    assert_eq!(q.ns.reap_worker("w").await.expect("reaped").len(), 1);
    assert_eq!(t[0].attempt, 1);
    w.takes(1, &["t4"]).await;
}

#[tokio::test]
async fn a_worker_gets_no_more_tasks_than_it_has_slots() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(100)).await;
    q.enqueue_all("p", numbered("t", 20)).await;
    let w = q.worker("w", "pool", 4).await;
    assert_eq!(w.take(2).await.len(), 2);
    // It miscounts: the queue's own books count.
    assert_eq!(w.take(4).await.len(), 2);
    assert_eq!(w.take(4).await.len(), 0);
}
