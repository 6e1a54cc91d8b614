//! A deleted persona: what waits ends as failed, what runs may finish, the name is free again.

use std::time::Duration;

use persona_operator::queue::fleet::Fate;
use persona_operator::queue::routing::{RemoveAnswer, RouteAnswer};
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::OutcomeKind;
use persona_operator::queue::work::ReleaseReason;

use crate::support::{Fixture, PAYLOAD, fixture, numbered, persona};

async fn remove(q: &Fixture, uid: &str) -> RemoveAnswer {
    let reason = "the persona `p` was deleted";
    q.ns.remove("p", uid, reason).await.expect("an answer")
}

#[tokio::test]
async fn waiting_tasks_end_as_failed_with_the_reason_and_running_ones_finish() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").length(2000)).await;
    q.enqueue_all("p", numbered("t", 1201)).await;
    let w = q.worker("w", "pool", 1).await;
    let running = w.take_one().await;
    let removed = remove(&q, "p-uid").await;
    assert_eq!(removed, RemoveAnswer::Removed { failed: 1200 });
    for task in ["t1", "t700", "t1200"] {
        assert_eq!(q.outcome_kind(task).await, OutcomeKind::Failed);
        let error = q.outcome(task).await.error.expect("an error");
        assert_eq!(error.code, "persona_deleted");
        assert_eq!(error.message, "the persona `p` was deleted");
        assert_eq!(error.http_status, 404);
    }
    w.finish(&running).await;
    assert_eq!(q.outcome_kind("t0").await, OutcomeKind::Completed);
    let stats = q.stats("pool").await;
    assert_eq!((stats.members, stats.queued, stats.running), (0, 0, 0));
    assert_eq!(q.queue.namespaces().await.expect("a list"), [""; 0]);
}

#[tokio::test]
async fn a_removed_persona_accepts_nothing_and_does_not_come_back() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    remove(&q, "p-uid").await;
    let answer = q.try_submit(&Enqueue::new("p", "t", PAYLOAD)).await;
    assert_eq!(answer, EnqueueAnswer::Gone);
    // A route that was decided before the deletion and comes late.
    let answer = q.try_route(&persona("p").epoch(9)).await;
    assert_eq!(answer, RouteAnswer::Removed);
    let again = remove(&q, "p-uid").await;
    assert_eq!(again, RemoveAnswer::Removed { failed: 0 });
}

#[tokio::test]
async fn only_the_uid_that_is_meant_is_removed() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    assert_eq!(remove(&q, "p-uid").await, RemoveAnswer::Unknown);
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    let current = "p-uid".to_owned();
    assert_eq!(
        remove(&q, "another").await,
        RemoveAnswer::OtherUid { current }
    );
    q.worker("w", "pool", 1).await.takes(1, &["t"]).await;
}

#[tokio::test]
async fn the_same_name_with_a_new_uid_starts_afresh() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").epoch(8).generation(5)).await;
    q.enqueue_all("p", ["taken".into(), "old".into()]).await;
    let old = q.worker("old", "pool", 1).await.take_one().await;
    q.pass(Duration::from_millis(2)).await;
    remove(&q, "p-uid").await;
    q.route(&persona("p").uid("new").epoch(1).generation(1))
        .await;
    q.enqueue("p", "new").await;
    let new = q.worker("w", "pool", 4).await.takes(4, &["new"]).await;
    // Generation 1 once more: the time of registration tells the two apart.
    assert!(new[0].since_ms > old.since_ms);
    let mut ttl = redis::cmd("PTTL");
    let left: i64 = q.redis(ttl.arg(q.ns.keys().persona("p"))).await;
    assert_eq!(left, -1, "the tombstone's time does not run on");
}

#[tokio::test]
async fn a_task_of_the_deleted_persona_never_runs_again_under_its_successor() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    let w = q.worker("w", "pool", 4).await;
    let tasks = w.takes(3, &["t0", "t1", "t2"]).await;
    remove(&q, "p-uid").await;
    // The clock moves on before the next persona of this name comes.
    q.pass(Duration::from_millis(2)).await;
    q.route(&persona("p").uid("new")).await;
    w.release(&tasks[0], ReleaseReason::Shutdown, Duration::ZERO)
        .await;
    assert_eq!(q.code("t0").await, "persona_deleted");
    w.finish(&tasks[1]).await;
    let reaped = q.ns.reap_worker("w").await.expect("reaped");
    assert_eq!(reaped[0].fate, Fate::Removed);
    assert_eq!(q.code("t2").await, "persona_deleted");
    w.takes(4, &[]).await;
    assert_eq!(q.stats("pool").await.completed, 0, "not the successor's");
}

#[tokio::test]
async fn what_a_removal_left_behind_fails_instead_of_running_under_a_successor() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    // The controller died in the middle of a removal, and the tombstone ran out.
    let mut first_call = redis::cmd("FCALL");
    first_call
        .arg(format!(
            "{}_remove",
            persona_operator::queue::library::LIBRARY
        ))
        .arg(1)
        .arg(q.ns.keys().prefix())
        .arg(&["p", "p-uid", "deleted", "1"]);
    q.redis::<redis::Value>(&first_call).await;
    let other = q.try_route(&persona("p").uid("new")).await;
    assert!(matches!(other, RouteAnswer::OtherUid { .. }), "{other:?}");
    let tombstone = q.ns.keys().persona("p");
    q.redis::<i64>(&redis::Cmd::del(tombstone)).await;
    q.pass(Duration::from_millis(2)).await;
    q.route(&persona("p").uid("new")).await;
    q.enqueue("p", "fresh").await;
    q.worker("w", "pool", 4).await.takes(4, &["fresh"]).await;
    for task in numbered("t", 3) {
        assert_eq!(q.code(&task).await, "persona_deleted");
    }
}
