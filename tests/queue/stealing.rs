//! An idle worker serves other pools: its own first, one slot free, seen in both pools.

use std::time::Duration;

use crate::support::{Fixture, fixture, numbered, persona};
use crate::worker::Worker;

/// Pools `own` and `rich` with a persona each, and a worker of `own` that steals from `rich`.
async fn pools(slots: u32) -> (Fixture, Worker) {
    let q = fixture().await;
    q.open(&["own", "rich"]).await;
    q.route(&persona("o").pool("own").concurrency(100)).await;
    q.route(&persona("r").pool("rich").concurrency(100)).await;
    let thief = q.unregistered("thief", "own", slots).stealing(&["rich"]);
    thief.register().await;
    (q, thief)
}

#[tokio::test]
async fn own_tasks_go_first_and_one_slot_stays_free() {
    let (q, thief) = pools(4).await;
    q.enqueue_all("r", numbered("r", 9)).await;
    q.enqueue("o", "o0").await;
    let taken = thief.takes(4, &["o0", "r0", "r1"]).await;
    assert_eq!(
        (taken[0].pool.as_str(), taken[1].pool.as_str()),
        ("own", "rich")
    );
    thief.takes(1, &[]).await;
    q.enqueue("o", "o1").await;
    thief.takes(1, &["o1"]).await;
}

#[tokio::test]
async fn a_worker_with_one_slot_steals_nothing() {
    let (q, thief) = pools(1).await;
    q.enqueue("r", "r0").await;
    thief.takes(1, &[]).await;
}

#[tokio::test]
async fn only_pools_that_may_be_stolen_from_lose_tasks() {
    let (q, _) = pools(4).await;
    q.enqueue("o", "o0").await;
    q.worker("honest", "rich", 4).await.takes(4, &[]).await;
}

#[tokio::test]
async fn several_pools_are_stolen_from_in_the_order_given() {
    let (q, thief) = pools(4).await;
    q.open(&["third"]).await;
    q.route(&persona("t").pool("third")).await;
    q.enqueue("t", "t0").await;
    q.enqueue_all("r", numbered("r", 2)).await;
    let thief = thief.stealing(&["third", "rich"]);
    thief.takes(4, &["t0", "r0", "r1"]).await;
}

#[tokio::test]
async fn a_thief_steals_only_from_lanes_it_serves() {
    let (q, thief) = pools(4).await;
    q.route(&persona("secret").pool("rich").lane("key/a")).await;
    q.enqueue("secret", "s").await;
    thief.takes(4, &[]).await;
}

#[tokio::test]
async fn stolen_tasks_count_in_their_pool_and_on_the_thief_and_do_not_keep_it_awake() {
    let (q, thief) = pools(4).await;
    let before = q.stats("own").await.workers[0].active_at_ms;
    q.pass(Duration::from_millis(5)).await;
    q.enqueue("r", "r0").await;
    let stolen = thief.takes(4, &["r0"]).await;
    let (own, rich) = (q.stats("own").await, q.stats("rich").await);
    assert_eq!((own.running, own.workers[0].running), (0, 1));
    assert_eq!((rich.running, rich.workers.len()), (1, 0));
    thief.finish(&stolen[0]).await;
    assert_eq!(q.stats("own").await.workers[0].active_at_ms, before);
    assert_eq!(q.stats("rich").await.completed, 1);
    q.enqueue("o", "o0").await;
    thief.takes(4, &["o0"]).await;
    assert!(q.stats("own").await.workers[0].active_at_ms > before);
}
