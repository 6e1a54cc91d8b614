//! A task for a worker that is called directly: the same checks as take.

use std::time::Duration;

use persona_operator::queue::submit::{ClaimAnswer, Enqueue};
use persona_operator::queue::work::{Fenced, Taken};

use crate::fence::changes_nothing;
use crate::support::{Fixture, PAYLOAD, fixture, numbered, persona};

async fn pool() -> Fixture {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(2)).await;
    q
}

async fn claim(q: &Fixture, task: &str, worker: &str) -> ClaimAnswer {
    q.ns.claim(task, worker).await.expect("an answer")
}

async fn claimed(q: &Fixture, task: &str, worker: &str) -> Taken {
    match claim(q, task, worker).await {
        ClaimAnswer::Claimed(taken) => taken,
        other => panic!("not claimed: {other:?}"),
    }
}

#[tokio::test]
async fn a_claimed_task_is_held_as_if_it_were_taken() {
    let q = pool().await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 1).await;
    let task = claimed(&q, "t", "w").await;
    assert_eq!((task.payload.as_str(), task.attempt), (PAYLOAD, 1));
    assert_eq!(claim(&q, "t", "w").await, ClaimAnswer::NotQueued);
    w.takes(1, &[]).await;
    assert_eq!(w.renew(&[&task]).await.expect("an answer").lost, [""; 0]);
    w.finish(&task).await;
    assert_eq!(claim(&q, "t", "w").await, ClaimAnswer::NotQueued);
}

#[tokio::test]
async fn a_claim_that_lost_its_lease_changes_nothing() {
    let q = pool().await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 1).await;
    let first = claimed(&q, "t", "w").await;
    q.ns.reap_worker("w").await.expect("reaped");
    changes_nothing(&q, &w, &first).await;
    let second = claimed(&q, "t", "w").await;
    assert_ne!(first.fence, second.fence);
    assert_eq!(w.try_finish(&first).await, Fenced::Lost);
    w.finish(&second).await;
}

#[tokio::test]
async fn a_claim_does_not_pass_others_of_its_persona() {
    let q = pool().await;
    q.worker("w", "pool", 9).await;
    q.enqueue_all("p", numbered("t", 4)).await;
    assert_eq!(claim(&q, "t1", "w").await, ClaimAnswer::NotNext);
    claimed(&q, "t0", "w").await;
    claimed(&q, "t1", "w").await;
    // The persona's limit is reached.
    assert_eq!(claim(&q, "t2", "w").await, ClaimAnswer::NotNext);
}

#[tokio::test]
async fn a_persona_that_may_not_run_is_not_claimed_from() {
    let q = pool().await;
    q.worker("w", "pool", 9).await;
    q.enqueue("p", "t").await;
    q.route(&persona("p").suspended()).await;
    assert_eq!(claim(&q, "t", "w").await, ClaimAnswer::NotNext);
    q.route(&persona("p").nowhere()).await;
    assert_eq!(claim(&q, "t", "w").await, ClaimAnswer::NotNext);
    let late = Enqueue {
        deadline: Duration::ZERO,
        priority: 1,
        ..Enqueue::new("p", "late", PAYLOAD)
    };
    q.route(&persona("p")).await;
    q.submit(&late).await;
    assert_eq!(claim(&q, "late", "w").await, ClaimAnswer::NotQueued);
    assert_eq!(claim(&q, "never", "w").await, ClaimAnswer::NotQueued);
}

#[tokio::test]
async fn only_a_live_worker_of_the_pool_with_a_free_slot_and_the_lane_is_given_a_task() {
    let q = pool().await;
    q.open(&["other"]).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let refused = async |worker: &str| {
        assert_eq!(
            claim(&q, "t0", worker).await,
            ClaimAnswer::NoSlot,
            "{worker}"
        );
    };
    refused("unknown").await;
    q.worker("elsewhere", "other", 4).await;
    refused("elsewhere").await;
    let laneless = q.unregistered("laneless", "pool", 4).lanes(&["key/a"]);
    laneless.register().await;
    refused("laneless").await;
    q.worker("gone", "pool", 4).await;
    q.ns.deregister("pool", "gone").await.expect("gone");
    refused("gone").await;
    let full = q.worker("full", "pool", 1).await;
    full.take_one().await;
    let second = claim(&q, "t1", "full").await;
    assert_eq!(second, ClaimAnswer::NoSlot);
}

#[tokio::test]
async fn a_claim_keeps_a_task_that_must_be_alone_alone() {
    let q = pool().await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let w = q.worker("w", "pool", 4).await;
    w.takes(4, &["t0", "t1"]).await;
    q.ns.reap_worker("w").await.expect("reaped");
    q.route(&persona("q").priority(9)).await;
    q.enqueue("q", "other").await;
    let other = w.takes(1, &["other"]).await;
    assert_eq!(claim(&q, "t0", "w").await, ClaimAnswer::NoSlot);
    w.finish(&other[0]).await;
    let alone = claimed(&q, "t0", "w").await;
    assert!(alone.solo);
    q.enqueue("q", "next").await;
    assert_eq!(claim(&q, "next", "w").await, ClaimAnswer::NoSlot);
    w.takes(3, &[]).await;
}
