//! A provider that says 429: its personas wait, burn no attempt, and wake by themselves.

use std::time::Duration;

use persona_operator::queue::submit::ClaimAnswer;
use persona_operator::queue::work::ReleaseReason;

use crate::support::{Fixture, fixture, numbered, persona, soon};

const PAUSE: Duration = Duration::from_millis(80);
/// Lasts until a test ends it.
const LONG: Duration = Duration::from_secs(3600);

/// The rest of a long pause that has only just begun.
fn is_long(wait: Option<Duration>) -> bool {
    wait.is_some_and(|wait| wait > Duration::from_secs(3500) && wait <= LONG)
}

/// A pool with two personas of one provider and one of another; `a` has been told to wait.
async fn refused(pause: Duration) -> Fixture {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for name in ["a", "b"] {
        q.route(&persona(name).endpoint("http://one/v1")).await;
    }
    q.route(&persona("c").endpoint("http://two/v1")).await;
    for name in ["a", "b", "c"] {
        q.enqueue_all(name, numbered(name, 2)).await;
    }
    let w = q.worker("first", "pool", 1).await;
    let task = w.takes(1, &["a0"]).await;
    w.release(&task[0], ReleaseReason::RateLimited, pause).await;
    q
}

#[tokio::test]
async fn all_personas_of_the_provider_wait_and_others_do_not() {
    let q = refused(LONG).await;
    let w = q.worker("w", "pool", 8).await;
    w.takes(8, &["c0", "c1"]).await;
    let claim = q.ns.claim("b0", "w").await.expect("an answer");
    assert_eq!(claim, ClaimAnswer::NotNext);
    let stats = q.stats("pool").await;
    assert_eq!((stats.queued, stats.runnable, stats.demand), (4, 0, 2));
}

#[tokio::test]
async fn take_says_when_to_look_again_and_then_finds_the_tasks() {
    let q = refused(LONG).await;
    let w = q.worker("w", "pool", 8).await;
    let wait = w.try_take(8).await.expect("an answer").look_again_in;
    assert!(is_long(wait), "{wait:?}");
    for name in ["a", "b"] {
        q.let_go("pool", name).await;
    }
    let taken = w.take(6).await;
    assert_eq!(taken.len(), 4);
    assert!(taken.iter().all(|task| task.attempt == 1 && !task.solo));
    assert_eq!(w.try_take(2).await.expect("an answer").look_again_in, None);
}

#[tokio::test]
async fn reap_wakes_a_pool_whose_workers_all_wait_at_the_bell() {
    let q = refused(PAUSE).await;
    let mut bell = q.ns.bell("pool", &["-".to_owned()]);
    let short = Duration::from_millis(1);
    while bell.wait(short).await.expect("a wait") {}
    q.pass(PAUSE).await;
    assert_eq!(q.reap().await, []);
    let long = Duration::from_secs(20);
    assert!(soon(bell.wait(long)).await.expect("rung"));
}

#[tokio::test]
async fn a_task_that_comes_while_its_persona_waits_waits_too() {
    let q = refused(LONG).await;
    q.enqueue("b", "b2").await;
    let w = q.worker("w", "pool", 8).await;
    w.takes(8, &["c0", "c1"]).await;
}

#[tokio::test]
async fn the_longer_of_two_pauses_counts() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("a")).await;
    q.enqueue_all("a", numbered("a", 2)).await;
    let w = q.worker("w", "pool", 2).await;
    let tasks = w.takes(2, &["a0", "a1"]).await;
    w.release(&tasks[0], ReleaseReason::RateLimited, LONG).await;
    w.release(&tasks[1], ReleaseReason::RateLimited, PAUSE)
        .await;
    let wait = w.try_take(2).await.expect("an answer").look_again_in;
    assert!(is_long(wait), "{wait:?}");
}

#[tokio::test]
async fn a_pause_moves_with_its_persona() {
    let q = refused(LONG).await;
    q.open(&["new"]).await;
    q.route(&persona("a").pool("new").endpoint("http://one/v1"))
        .await;
    let w = q.worker("w", "new", 8).await;
    let wait = w.try_take(8).await.expect("an answer").look_again_in;
    assert!(is_long(wait), "{wait:?}");
    q.let_go("new", "a").await;
    w.takes(8, &["a0", "a1"]).await;
}

#[tokio::test]
async fn a_pause_of_one_task_is_for_its_own_persona_only() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for name in ["a", "b"] {
        q.route(&persona(name)).await;
        q.enqueue(name, name).await;
    }
    let w = q.worker("w", "pool", 4).await;
    let task = w.takes(1, &["a"]).await;
    w.release(&task[0], ReleaseReason::Failed, LONG).await;
    w.takes(4, &["b"]).await;
}
