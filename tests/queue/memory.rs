//! A Redis that is nearly full refuses what would add to it, and lets everything finish.

use std::time::Duration;

use persona_operator::queue::QueueError;
use persona_operator::queue::fleet::Fate;
use persona_operator::queue::submit::{
    CancelAnswer, ClaimAnswer, Enqueue, EnqueueAnswer, TaskState,
};
use persona_operator::queue::task::{Chunk, OutcomeKind};
use persona_operator::queue::work::{Fenced, ReleaseReason};
use testbed::{Redis, RedisOptions};

use crate::support::{Fixture, PAYLOAD, numbered, on, persona};

const MAX: u64 = 32 << 20;

/// Fills Redis to that share of its memory, and waits until the functions look again.
async fn fill(q: &Fixture, name: &str, share: f64) {
    let mut info = redis::cmd("INFO");
    let info: String = q.redis(info.arg("memory")).await;
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: f64 = used.expect("a field").trim().parse().expect("a number");
    let missing = MAX as f64 * share - used;
    assert!(missing > 0.0, "there is more than that already");
    let mut filler = redis::cmd("SETRANGE");
    filler.arg(name).arg(missing as u64).arg("x");
    q.redis::<u64>(&filler).await;
    q.pass(Duration::from_millis(101)).await;
}

#[tokio::test]
async fn above_its_marks_new_work_is_refused_and_old_work_ends() {
    let options = RedisOptions {
        config: vec![format!("maxmemory {MAX}")],
        ..RedisOptions::default()
    };
    let redis = Redis::start(options).await.expect("a Redis");
    let q = on(&redis).await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(100)).await;
    q.enqueue_all("p", numbered("t", 9)).await;
    let w = q.worker("w", "pool", 7).await;
    let new = Enqueue::new("p", "new", PAYLOAD);
    let held = w.takes(6, &["t0", "t1", "t2", "t3", "t4", "t5"]).await;

    fill(&q, "to-enqueue-mark", 0.92).await;
    assert_eq!(q.try_submit(&new).await, EnqueueAnswer::OutOfMemory);
    let state = TaskState::Running;
    let known = Enqueue::new("p", "t0", PAYLOAD);
    let duplicate = EnqueueAnswer::Duplicate { state };
    assert_eq!(q.try_submit(&known).await, duplicate);
    let seventh = w.takes(1, &["t6"]).await;

    fill(&q, "to-take-mark", 0.97).await;
    w.finish(&seventh[0]).await;
    let answer = w.try_take(1).await.expect("an answer");
    assert!(answer.out_of_memory && answer.tasks.is_empty());
    let claim = q.ns.claim("t7", "w").await.expect("an answer");
    assert_eq!(claim, ClaimAnswer::OutOfMemory);

    // From here on Redis itself refuses what is not marked as freeing memory.
    fill(&q, "over-the-top", 1.05).await;
    assert_eq!(q.try_submit(&new).await, EnqueueAnswer::OutOfMemory);
    assert!(w.try_take(1).await.expect("an answer").out_of_memory);
    let claim = q.ns.claim("t7", "w").await.expect("an answer");
    assert_eq!(claim, ClaimAnswer::OutOfMemory);
    let route = q.ns.route(&persona("another").route()).await;
    assert!(
        matches!(route, Err(QueueError::OutOfMemory(_))),
        "{route:?}"
    );

    let renewed = w.renew(&[&held[0], &held[1]]).await.expect("renewed");
    assert_eq!(renewed.lost, [""; 0]);
    let emitted = q.ns.emit("t0", &held[0].fence, &[Chunk::text("x")]).await;
    assert_eq!(emitted.expect("an answer"), Fenced::Accepted);
    w.finish(&held[0]).await;
    w.release(&held[1], ReleaseReason::Shutdown, Duration::ZERO)
        .await;
    w.release(
        &held[2],
        ReleaseReason::RateLimited,
        Duration::from_millis(1),
    )
    .await;
    let cancelled = q.ns.cancel("t3").await.expect("an answer");
    assert_eq!(cancelled, CancelAnswer::Cancelled);
    let dying = w.clone().dying();
    dying.renew(&[&held[4]]).await.expect("renewed");
    let reaped = q.reap().await;
    assert_eq!((reaped.len(), reaped[0].fate), (1, Fate::Requeued));
    assert_eq!(q.ns.drain("w", true).await.expect("draining"), 1);
    let reaped = q.ns.reap_worker("w").await.expect("reaped");
    assert_eq!(reaped[0].task, "t5");
    assert_eq!(q.stats("pool").await.queued, 6);
    q.ns.deregister("pool", "w").await.expect("deregistered");
    q.ns.remove("p", "p-uid", "deleted").await.expect("removed");
    assert_eq!(q.outcome_kind("t0").await, OutcomeKind::Completed);
    assert_eq!(q.outcome_kind("t8").await, OutcomeKind::Failed);
}
