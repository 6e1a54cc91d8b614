//! An idle worker serves other pools: its own first, one slot free, seen in both pools.

use std::time::Duration;

use persona_operator::queue::work::ReleaseReason;

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

/// Another pool with a persona of its name, which `thief` may help too.
async fn beside(q: &Fixture, thief: Worker, pool: &str) -> Worker {
    q.open(&[pool]).await;
    q.route(&persona(pool).pool(pool).concurrency(100)).await;
    thief.stealing(&["rich", pool])
}

/// Enqueues, so that whatever comes next is younger.
async fn first(q: &Fixture, persona: &str, tasks: Vec<String>) {
    q.enqueue_all(persona, tasks).await;
    q.pass(Duration::from_millis(2)).await;
}

#[tokio::test]
async fn of_several_pools_the_one_that_has_waited_longest_is_helped_first() {
    let (q, thief) = pools(4).await;
    let thief = beside(&q, thief, "third").await;
    first(&q, "third", numbered("t", 9)).await;
    q.enqueue_all("r", numbered("r", 9)).await;
    let taken = thief.takes(4, &["t0", "t1", "t2"]).await;
    for task in &taken {
        thief.finish(task).await;
    }
    // Now the first of "rich" is older than what is there.
    for task in numbered("t", 9).iter().skip(3) {
        q.ns.cancel(task).await.expect("cancelled");
    }
    q.pass(Duration::from_millis(2)).await;
    q.enqueue("third", "young").await;
    thief.takes(4, &["r0", "r1", "r2"]).await;
}

#[tokio::test]
async fn what_the_first_pool_leaves_of_a_thief_goes_to_the_next() {
    let (q, thief) = pools(4).await;
    let thief = beside(&q, thief, "third").await;
    first(&q, "third", numbered("t", 1)).await;
    q.enqueue_all("r", numbered("r", 9)).await;
    thief.takes(4, &["t0", "r0", "r1"]).await;
}

#[tokio::test]
async fn a_pool_has_waited_as_long_as_the_one_who_has_had_most_there() {
    let (q, thief) = pools(4).await;
    let thief = beside(&q, thief, "third").await;
    // `t` has had its share; `third` comes first, with a task of just now.
    q.route(&persona("t").pool("third")).await;
    q.enqueue_all("t", numbered("t", 2)).await;
    let own = q.worker("own-of-third", "third", 1).await;
    let served = own.take_one().await;
    q.pass(Duration::from_millis(5)).await;
    own.finish(&served).await;
    q.enqueue_all("r", numbered("r", 9)).await;
    q.pass(Duration::from_millis(2)).await;
    q.enqueue("third", "young").await;
    thief.takes(4, &["young", "t1", "r0"]).await;
}

#[tokio::test]
async fn who_waits_because_it_is_left_alone_does_not_bring_its_pool_to_the_front() {
    let (q, thief) = pools(4).await;
    let thief = beside(&q, thief, "third").await;
    q.route(&persona("bad").pool("third").attempts(100)).await;
    q.enqueue("bad", "b").await;
    let own = q.worker("own-of-third", "third", 1).await;
    own.take_one().await;
    q.ns.reap_worker(&own.uid).await.expect("reaped");
    q.enqueue_all("r", numbered("r", 9)).await;
    q.pass(Duration::from_millis(2)).await;
    q.enqueue("third", "young").await;
    thief.takes(4, &["r0", "r1", "r2"]).await;
}

#[tokio::test]
async fn a_pool_whose_pause_is_over_is_helped_too() {
    let (q, thief) = pools(4).await;
    let thief = beside(&q, thief, "third").await;
    first(&q, "third", numbered("t", 2)).await;
    let own = q.worker("own-of-third", "third", 1).await;
    let refused = own.take_one().await;
    let pause = Duration::from_millis(20);
    own.release(&refused, ReleaseReason::RateLimited, pause)
        .await;
    q.enqueue_all("r", numbered("r", 1)).await;
    q.pass(pause).await;
    thief.takes(4, &["t0", "t1", "r0"]).await;
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
