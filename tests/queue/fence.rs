//! A worker that lost its lease changes nothing.

use std::time::Duration;

use persona_operator::queue::fleet::{Fate, Reaped};
use persona_operator::queue::submit::TaskState;
use persona_operator::queue::task::{Chunk, OutcomeKind};
use persona_operator::queue::work::{Emission, Fenced, LEASE, ReleaseReason, Taken};

use crate::support::{Fixture, completed, fixture};
use crate::worker::Worker;

/// One persona with one streamed task, taken by `worker`.
async fn taken_by(q: &Fixture, worker: &Worker) -> Taken {
    q.submit_stream().await;
    worker.register().await;
    worker.take_one().await
}

/// Every verb that needs the fence refuses it, and the task is as it was.
pub async fn changes_nothing(q: &Fixture, zombie: &Worker, task: &Taken) {
    let before = q.ns.output(&task.task, None).await.expect("an answer");
    let chunk = [Chunk::text("late")];
    let emitted = q.ns.emit(&task.task, &task.fence, &chunk).await;
    assert_eq!(emitted.expect("an answer"), Fenced::Lost);
    for reason in [
        ReleaseReason::Shutdown,
        ReleaseReason::RateLimited,
        ReleaseReason::Failed,
    ] {
        let wait = Duration::from_secs(5);
        let released = q.ns.release(&task.task, &task.fence, reason, wait).await;
        assert_eq!(released.expect("an answer"), Fenced::Lost);
    }
    let renewed = zombie.renew(&[task]).await.expect("an answer");
    assert_eq!(renewed.lost, [task.fence.as_str()]);
    assert_eq!(zombie.try_finish(task).await, Fenced::Lost);
    assert_eq!(
        q.ns.output(&task.task, None).await.expect("an answer"),
        before
    );
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_gives_the_task_to_another_worker() {
    let q = fixture().await;
    let lazy = q.unregistered("lazy", "pool", 4).dying();
    let task = taken_by(&q, &lazy).await;
    assert_eq!(
        q.reap().await,
        [Reaped {
            task: "t".into(),
            persona: "p".into(),
            fate: Fate::Requeued
        }]
    );
    changes_nothing(&q, &lazy, &task).await;
    let other = q.worker("other", "pool", 4).await;
    // It was lost once, so it runs alone: on an empty worker.
    let again = other.takes(4, &["t"]).await.remove(0);
    assert_ne!(again.fence, task.fence);
    changes_nothing(&q, &lazy, &task).await;
    other.finish(&again).await;
    changes_nothing(&q, &lazy, &task).await;
    assert_eq!(q.outcome_kind("t").await, OutcomeKind::Completed);
}

#[tokio::test]
async fn a_lease_that_ended_after_the_clock_was_looked_at_is_left() {
    let q = fixture().await;
    let seen = q.queue.now_ms().await.expect("a time");
    q.pass(Duration::from_millis(2)).await;
    let w = q.unregistered("w", "pool", 4).dying();
    taken_by(&q, &w).await;
    let reap_as_of = async |seen| q.ns.reap_as_of(10, seen).await.expect("reaped").tasks;
    assert_eq!(reap_as_of(seen).await, []);
    let seen = q.queue.now_ms().await.expect("a time");
    assert_eq!(reap_as_of(seen).await.len(), 1);
}

#[tokio::test]
async fn a_lease_that_is_renewed_is_not_reaped() {
    let q = fixture().await;
    let mut w = q.unregistered("w", "pool", 4).dying();
    let task = taken_by(&q, &w).await;
    w.lease = LEASE;
    let renewed = w.renew(&[&task]).await.expect("an answer");
    assert!(renewed.lost.is_empty() && !renewed.draining);
    assert_eq!(q.reap().await, []);
    w.finish(&task).await;
}

#[tokio::test]
async fn renew_says_which_of_several_tasks_are_lost() {
    let q = fixture().await;
    let w = q.unregistered("w", "pool", 4);
    let first = taken_by(&q, &w).await;
    q.enqueue("p", "t2").await;
    let second = w.take_one().await;
    q.ns.cancel("t").await.expect("cancelled");
    let renewed = w.renew(&[&first, &second]).await.expect("an answer");
    assert_eq!(renewed.lost, [first.fence.as_str()]);
    w.finish(&second).await;
}

#[tokio::test]
async fn renew_tells_a_lost_attempt_from_the_valid_one_of_the_same_task() {
    let q = fixture().await;
    let w = q.unregistered("w", "pool", 4);
    let first = taken_by(&q, &w).await;
    w.release(&first, ReleaseReason::Shutdown, Duration::ZERO)
        .await;
    let second = w.take_one().await;
    assert_eq!(
        (&second.task, second.fence != first.fence),
        (&first.task, true)
    );
    let renewed = w.renew(&[&first, &second]).await.expect("an answer");
    assert_eq!(renewed.lost, [first.fence.as_str()]);
    w.finish(&second).await;
}

#[tokio::test]
async fn a_fence_opens_one_task_once() {
    let q = fixture().await;
    let w = q.unregistered("w", "pool", 4);
    let first = taken_by(&q, &w).await;
    q.enqueue("p", "t2").await;
    let second = w.take_one().await;
    let swapped = Taken {
        fence: second.fence.clone(),
        ..first.clone()
    };
    assert_eq!(w.try_finish(&swapped).await, Fenced::Lost);
    for fence in ["", "x"] {
        let forged = Taken {
            fence: fence.into(),
            ..first.clone()
        };
        assert_eq!(w.try_finish(&forged).await, Fenced::Lost);
    }
    w.finish(&first).await;
    assert_eq!(w.try_finish(&first).await, Fenced::Lost);
    let ended = Taken {
        fence: String::new(),
        ..first
    };
    assert_eq!(w.try_finish(&ended).await, Fenced::Lost);
}

#[tokio::test]
async fn chunks_of_several_tasks_go_out_together_each_by_its_own_fence() {
    let q = fixture().await;
    let w = q.unregistered("w", "pool", 4);
    let first = taken_by(&q, &w).await;
    q.enqueue("p", "t2").await;
    let second = w.take_one().await;
    q.ns.cancel("t").await.expect("cancelled");
    let chunks = [Chunk::text("x")];
    let emissions = [&first, &second].map(|task| Emission {
        task: &task.task,
        fence: &task.fence,
        chunks: &chunks,
    });
    let answers = q.ns.emit_all(&emissions).await.expect("answers");
    assert_eq!(answers, [Fenced::Lost, Fenced::Accepted]);
    let nobody = q.ns.emit_all(&[]).await.expect("answers");
    assert!(nobody.is_empty());
}

#[tokio::test]
async fn a_task_that_nobody_knows_is_lost() {
    let q = fixture().await;
    let w = q.unregistered("w", "pool", 4);
    let mut task = taken_by(&q, &w).await;
    task.task = "never-there".into();
    let answer = q.ns.finish(&task.task, &task.fence, &completed()).await;
    assert_eq!(answer.expect("an answer"), Fenced::Lost);
    let unknown = q.ns.output("never-there", None).await.expect("an answer");
    assert_eq!(unknown, None);
}

#[tokio::test]
async fn an_expired_lease_whose_task_finished_in_time_is_left_alone() {
    let q = fixture().await;
    let w = q.unregistered("w", "pool", 4).dying();
    let task = taken_by(&q, &w).await;
    // Late, but nobody has reaped it: the only answer there is counts.
    w.finish(&task).await;
    assert_eq!(q.reap().await, []);
    assert_eq!(q.state("t").await, TaskState::Ended);
}

#[tokio::test]
async fn reap_gives_back_no_more_than_it_was_asked_to() {
    let q = fixture().await;
    let w = q.unregistered("w", "pool", 4).dying();
    taken_by(&q, &w).await;
    q.enqueue("p", "t2").await;
    w.take_one().await;
    assert_eq!(q.ns.reap(1).await.expect("reaped").tasks.len(), 1);
    assert_eq!(q.ns.reap(1).await.expect("reaped").tasks.len(), 1);
    assert_eq!(q.reap().await, []);
}
