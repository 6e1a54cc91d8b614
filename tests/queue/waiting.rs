//! Bell of a pool, doorbell of the controller, control channel of a worker.

use std::time::{Duration, Instant};

use persona_operator::queue::listen::{Control, ControlMessage, Doorbell, Ring};
use testbed::{Redis, RedisOptions};

use crate::support::{Fixture, fixture, numbered, on, persona, soon, until};

const LONG: Duration = Duration::from_secs(20);

async fn pool() -> Fixture {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q
}

#[tokio::test]
async fn a_task_wakes_a_waiting_worker() {
    let q = pool().await;
    let w = q.worker("w", "pool", 1).await;
    let mut bell = q.ns.bell("pool", &w.lanes);
    let waiting = tokio::spawn(async move { bell.wait(LONG).await.expect("a wait") });
    q.enqueue("p", "t").await;
    assert!(soon(waiting).await.expect("woken"));
    w.takes(1, &["t"]).await;
}

#[tokio::test]
async fn a_bell_without_a_task_is_silent_until_its_time_is_over() {
    let q = pool().await;
    let mut bell = q.ns.bell("pool", &["-".to_owned()]);
    let patience = Duration::from_millis(60);
    let begin = Instant::now();
    assert!(!bell.wait(patience).await.expect("a wait"));
    assert!(begin.elapsed() >= patience);
    let mut no_lanes = q.ns.bell("pool", &[]);
    assert!(
        !no_lanes
            .wait(Duration::from_millis(5))
            .await
            .expect("a wait")
    );
}

#[tokio::test]
async fn a_bell_rings_for_its_own_pool_and_lanes_only() {
    let q = pool().await;
    q.open(&["other"]).await;
    q.route(&persona("keyed").lane("key/a")).await;
    q.route(&persona("far").pool("other")).await;
    q.enqueue("keyed", "k").await;
    q.enqueue("far", "f").await;
    let short = Duration::from_millis(20);
    let mut plain = q.ns.bell("pool", &["-".to_owned()]);
    assert!(!plain.wait(short).await.expect("a wait"));
    let mut both = q.ns.bell("pool", &["-".to_owned(), "key/a".to_owned()]);
    assert!(both.wait(LONG).await.expect("a wait"));
}

#[tokio::test]
async fn a_bell_that_is_dropped_while_waiting_swallows_no_token() {
    let redis = Redis::start(RedisOptions::default())
        .await
        .expect("a Redis");
    let q = on(&redis).await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    let waiters = async || {
        let mut cmd = redis::cmd("CLIENT");
        let clients: String = q.redis(cmd.arg("LIST")).await;
        clients
            .lines()
            .filter(|it| it.contains("cmd=blpop"))
            .count()
    };
    let lanes = ["-".to_owned()];
    let mut impatient = q.ns.bell("pool", &lanes);
    tokio::select! {
        _ = impatient.wait(LONG) => panic!("nothing rang"),
        () = until(async || waiters().await == 1) => {}
    }
    until(async || waiters().await == 0).await;
    q.enqueue("p", "t").await;
    assert!(soon(impatient.wait(LONG)).await.expect("rung"));
}

#[tokio::test]
async fn tokens_are_bounded() {
    let q = pool().await;
    q.route(&persona("p").length(1000).concurrency(1000)).await;
    q.enqueue_all("p", numbered("t", 200)).await;
    let bell = q.ns.keys().bell("pool", "-");
    let tokens: i64 = q.redis(&redis::Cmd::llen(bell)).await;
    assert_eq!(tokens, 64);
}

#[tokio::test]
async fn a_task_that_is_freed_rings_for_whoever_is_idle() {
    let q = pool().await;
    q.enqueue("p", "t").await;
    let mut bell = q.ns.bell("pool", &["-".to_owned()]);
    assert!(bell.wait(LONG).await.expect("rung"));
    q.worker("w", "pool", 1).await.take_one().await;
    assert!(!bell.wait(Duration::from_millis(5)).await.expect("a wait"));
    q.ns.reap_worker("w").await.expect("reaped");
    assert!(bell.wait(LONG).await.expect("rung"));
}

/// Rings for a pool of this namespace; those of other tests are theirs.
async fn next_pool(doorbell: &mut Doorbell) -> String {
    match soon(doorbell.next()).await {
        Ring::Pool { namespace, pool } => {
            assert_eq!(namespace, "team");
            pool
        }
        Ring::Gap => panic!("the connection was lost"),
    }
}

#[tokio::test]
async fn the_doorbell_rings_when_a_pool_wakes_and_when_nobody_is_idle_for_what_comes() {
    let q = pool().await;
    q.open(&["second"]).await;
    q.route(&persona("s").pool("second")).await;
    let mut doorbell = q.queue.doorbell().await.expect("listening");
    q.enqueue("p", "t0").await;
    assert_eq!(next_pool(&mut doorbell).await, "pool");
    q.enqueue("s", "s0").await;
    assert_eq!(next_pool(&mut doorbell).await, "second");
    // Not again for the same pool within 50 ms; later, because there is no worker at all.
    q.pass(Duration::from_millis(60)).await;
    q.enqueue("p", "t1").await;
    assert_eq!(next_pool(&mut doorbell).await, "pool");
}

#[tokio::test]
async fn the_doorbell_is_silent_while_somebody_is_idle() {
    let q = pool().await;
    q.worker("w", "pool", 8).await;
    q.enqueue("p", "t0").await;
    q.pass(Duration::from_millis(60)).await;
    let mut doorbell = q.queue.doorbell().await.expect("listening");
    let mut bell = q.ns.bell("pool", &["-".to_owned()]);
    assert!(bell.wait(LONG).await.expect("a token"));
    q.enqueue("p", "t1").await;
    q.open(&["second"]).await;
    q.route(&persona("s").pool("second")).await;
    q.enqueue("s", "s0").await;
    assert_eq!(next_pool(&mut doorbell).await, "second");
}

async fn next_cancel(control: &mut Control) -> String {
    match soon(control.next()).await {
        ControlMessage::Cancel { task } => task,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_worker_is_told_of_tasks_that_are_not_its_own_any_more() {
    let q = pool().await;
    q.enqueue_all("p", numbered("t", 3)).await;
    let w = q.worker("w", "pool", 4).await;
    let tasks = w.takes(4, &["t0", "t1", "t2"]).await;
    let mut control = q.ns.control("w").await.expect("listening");
    q.ns.cancel("t1").await.expect("cancelled");
    assert_eq!(next_cancel(&mut control).await, "t1");
    w.finish(&tasks[0]).await;
    q.ns.reap_worker("w").await.expect("reaped");
    assert_eq!(next_cancel(&mut control).await, "t2");
}

#[tokio::test]
async fn listeners_come_back_after_redis_did_and_say_that_something_may_be_missing() {
    let redis = Redis::start(RedisOptions {
        append_only: true,
        ..RedisOptions::default()
    })
    .await
    .expect("a Redis");
    let q = on(&redis).await;
    q.open(&["pool"]).await;
    let mut control = q.ns.control("w").await.expect("listening");
    let mut doorbell = q.queue.doorbell().await.expect("listening");
    redis.kill().await.expect("killed");
    redis.restart().await.expect("restarted");
    assert_eq!(soon(control.next()).await, ControlMessage::Gap);
    assert_eq!(soon(doorbell.next()).await, Ring::Gap);
    until(async || q.queue.ping().await.is_ok()).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    assert_eq!(next_pool(&mut doorbell).await, "pool");
    q.worker("w", "pool", 1).await.take_one().await;
    q.ns.cancel("t").await.expect("cancelled");
    assert_eq!(next_cancel(&mut control).await, "t");
}
