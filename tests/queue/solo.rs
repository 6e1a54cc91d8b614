//! A task that a worker was lost with runs alone the next time: only then it is known to be the cause.

use persona_operator::queue::fleet::Fate;
use persona_operator::queue::task::OutcomeKind;
use persona_operator::queue::work::Taken;

use crate::support::{Fixture, fixture, ids, numbered, persona};
use crate::worker::Worker;

async fn pool() -> Fixture {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q
}

/// The worker dies with what it holds.
async fn dies(q: &Fixture, worker: &Worker) -> Vec<Fate> {
    let reaped = q.ns.reap_worker(&worker.uid).await.expect("reaped");
    reaped.into_iter().map(|reaped| reaped.fate).collect()
}

/// A persona whose only task was lost once, together with another one that has ended since.
async fn suspect(q: &Fixture, attempts: u32) {
    q.route(&persona("p").attempts(attempts)).await;
    q.enqueue_all("p", ["bad".into(), "good".into()]).await;
    let w = q.worker("first", "pool", 4).await;
    w.takes(4, &["bad", "good"]).await;
    assert_eq!(dies(q, &w).await, [Fate::Requeued, Fate::Requeued]);
    q.ns.cancel("good").await.expect("cancelled");
}

async fn alone(worker: &Worker, slots: u32) -> Taken {
    let taken = worker.take(slots).await;
    assert_eq!(ids(&taken), ["bad"]);
    assert!(taken[0].solo);
    taken.into_iter().next().expect("one")
}

#[tokio::test]
async fn a_loss_among_others_burns_no_attempt() {
    let q = pool().await;
    suspect(&q, 1).await;
    let w = q.worker("second", "pool", 4).await;
    let task = alone(&w, 4).await;
    assert_eq!(task.attempt, 1);
    w.finish(&task).await;
    assert_eq!(q.outcome_kind("bad").await, OutcomeKind::Completed);
}

#[tokio::test]
async fn nothing_joins_a_task_that_runs_alone() {
    let q = pool().await;
    suspect(&q, 3).await;
    let w = q.worker("second", "pool", 4).await;
    q.enqueue("p", "next").await;
    let task = alone(&w, 4).await;
    w.takes(3, &[]).await;
    w.finish(&task).await;
    let next = w.takes(4, &["next"]).await;
    assert!(!next[0].solo);
}

#[tokio::test]
async fn a_task_that_was_lost_alone_as_often_as_allowed_is_a_dead_letter() {
    let q = pool().await;
    suspect(&q, 2).await;
    let w = q.worker("second", "pool", 4).await;
    assert_eq!(alone(&w, 4).await.attempt, 1);
    assert_eq!(dies(&q, &w).await, [Fate::Requeued]);
    assert_eq!(alone(&w, 4).await.attempt, 2);
    assert_eq!(dies(&q, &w).await, [Fate::Dead]);
    assert_eq!(q.outcome_kind("bad").await, OutcomeKind::Dead);
    assert_eq!(q.code("bad").await, "dead");
    assert_eq!(q.ns.dead_letters().await.expect("a count"), 1);
    w.takes(4, &[]).await;
}

#[tokio::test]
async fn on_a_worker_with_one_slot_every_task_runs_alone() {
    let q = pool().await;
    q.route(&persona("p").attempts(1)).await;
    q.enqueue("p", "bad").await;
    let w = q.worker("w", "pool", 1).await;
    w.take_one().await;
    assert_eq!(dies(&q, &w).await, [Fate::Dead]);
}

#[tokio::test]
async fn a_busy_worker_is_held_until_it_is_empty_and_then_gets_the_task() {
    let q = pool().await;
    suspect(&q, 3).await;
    let busy = persona("busy").concurrency(100).priority(1);
    q.route(&busy).await;
    q.enqueue_all("busy", numbered("b", 2)).await;
    let w = q.worker("second", "pool", 3).await;
    let running = w.takes(2, &["b0", "b1"]).await;
    // The third slot is not for a task that must be alone, and from now on not for others either.
    w.takes(1, &[]).await;
    q.enqueue_all("busy", numbered("c", 9)).await;
    w.takes(1, &[]).await;
    w.finish(&running[0]).await;
    w.takes(2, &[]).await;
    w.finish(&running[1]).await;
    // It is empty: its turn comes before a persona of higher priority.
    alone(&w, 3).await;
}

#[tokio::test]
async fn only_one_worker_of_the_pool_is_held() {
    let q = pool().await;
    suspect(&q, 3).await;
    let busy = persona("busy").concurrency(100).priority(1);
    q.route(&busy).await;
    let (a, b) = (
        q.worker("a", "pool", 3).await,
        q.worker("b", "pool", 3).await,
    );
    q.enqueue_all("busy", numbered("b", 2)).await;
    a.takes(1, &["b0"]).await;
    b.takes(1, &["b1"]).await;
    a.takes(2, &[]).await;
    b.takes(2, &[]).await;
    q.enqueue_all("busy", numbered("c", 2)).await;
    a.takes(2, &[]).await;
    b.takes(2, &["c0", "c1"]).await;
}

#[tokio::test]
async fn a_worker_that_is_held_goes_on_when_the_task_has_gone() {
    let q = pool().await;
    suspect(&q, 3).await;
    q.route(&persona("busy").priority(1)).await;
    q.enqueue("busy", "b0").await;
    let w = q.worker("w", "pool", 3).await;
    w.takes(1, &["b0"]).await;
    w.takes(2, &[]).await;
    q.enqueue("busy", "b1").await;
    w.takes(2, &[]).await;
    q.ns.cancel("bad").await.expect("cancelled");
    w.takes(2, &["b1"]).await;
}

#[tokio::test]
async fn another_worker_is_held_when_the_one_that_was_drains() {
    let q = pool().await;
    suspect(&q, 3).await;
    q.route(&persona("busy").priority(1)).await;
    q.enqueue_all("busy", numbered("b", 2)).await;
    let (a, b) = (
        q.worker("a", "pool", 3).await,
        q.worker("b", "pool", 3).await,
    );
    a.takes(1, &["b0"]).await;
    let running = b.takes(1, &["b1"]).await;
    a.takes(2, &[]).await;
    q.ns.drain("a", true).await.expect("draining");
    b.takes(2, &[]).await;
    q.enqueue("busy", "b2").await;
    b.takes(2, &[]).await;
    b.finish(&running[0]).await;
    alone(&b, 3).await;
}

#[tokio::test]
async fn a_worker_that_only_steals_is_not_held_for_the_task_of_another_pool() {
    let q = pool().await;
    suspect(&q, 3).await;
    q.open(&["home"]).await;
    q.route(&persona("own").pool("home")).await;
    q.route(&persona("busy").priority(1)).await;
    q.enqueue("own", "o0").await;
    q.enqueue("busy", "b0").await;
    let thief = q.unregistered("thief", "home", 4).stealing(&["pool"]);
    thief.register().await;
    // It has work of its own, so the task cannot run there now.
    thief.takes(4, &["o0", "b0"]).await;
    q.enqueue("own", "o1").await;
    thief.takes(2, &["o1"]).await;
    // A worker of the task's own pool is held for it all the same.
    q.enqueue("busy", "b1").await;
    let w = q.worker("w", "pool", 4).await;
    let running = w.takes(1, &["b1"]).await;
    w.takes(3, &[]).await;
    q.enqueue("busy", "b2").await;
    w.takes(3, &[]).await;
    w.finish(&running[0]).await;
    alone(&w, 4).await;
}

#[tokio::test]
async fn a_thief_leaves_the_task_to_the_workers_of_its_pool_also_when_it_is_idle() {
    let q = pool().await;
    suspect(&q, 3).await;
    q.route(&persona("busy")).await;
    q.enqueue("busy", "b0").await;
    q.open(&["home"]).await;
    let thief = q.unregistered("thief", "home", 4).stealing(&["pool"]);
    thief.register().await;
    thief.takes(4, &["b0"]).await;
    thief.takes(3, &[]).await;
    let w = q.worker("w", "pool", 4).await;
    alone(&w, 4).await;
}

#[tokio::test]
async fn a_task_waits_for_direct_calls_that_the_queue_does_not_know_of() {
    let q = pool().await;
    suspect(&q, 3).await;
    let w = q.worker("w", "pool", 4).await;
    // Three free of four: one is busy with a call that bypassed the queue.
    w.takes(3, &[]).await;
    alone(&w, 4).await;
}

#[tokio::test]
async fn what_is_loaded_puts_a_task_that_runs_alone_off_no_longer_than_others() {
    let q = pool().await;
    suspect(&q, 3).await;
    q.route(&persona("p").needs("adapter/p")).await;
    q.route(&persona("busy").needs("adapter/b").concurrency(64))
        .await;
    q.enqueue_all("busy", numbered("b", 20)).await;
    let w = q.worker("w", "pool", 32).await.loaded(&["adapter/b"]);
    let mut running = Vec::new();
    for number in 0..8 {
        running.extend(w.takes(1, &[&format!("b{number}")]).await);
    }
    w.takes(24, &[]).await;
    for task in &running {
        w.finish(task).await;
    }
    alone(&w, 32).await;
}
