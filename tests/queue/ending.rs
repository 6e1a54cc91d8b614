//! Deadline, cancel, release, dead letters, retention: how a task ends, once.

use std::time::Duration;

use persona_operator::queue::fleet::Fate;
use persona_operator::queue::submit::{CancelAnswer, Enqueue, TaskState};
use persona_operator::queue::task::{Chunk, OutcomeKind};
use persona_operator::queue::work::{Fenced, ReleaseReason};

use crate::support::{Fixture, PAYLOAD, fixture, numbered, persona};

async fn one_persona() -> Fixture {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q
}

/// Long enough that no stall of Redis or of a test lets it pass before the task is taken.
const SHORT: Duration = Duration::from_secs(2);

fn due<'a>(task: &'a str, deadline: Duration) -> Enqueue<'a> {
    Enqueue {
        deadline,
        ..Enqueue::new("p", task, PAYLOAD)
    }
}

#[tokio::test]
async fn a_task_whose_deadline_passes_in_the_queue_expires_by_reap() {
    let q = one_persona().await;
    q.submit(&due("t", Duration::from_millis(20))).await;
    q.enqueue("p", "patient").await;
    assert_eq!(q.state("t").await, TaskState::Queued);
    q.pass(Duration::from_millis(20)).await;
    let reaped = q.reap().await;
    assert_eq!(reaped.len(), 1);
    assert_eq!(
        (reaped[0].task.as_str(), reaped[0].fate),
        ("t", Fate::Expired)
    );
    assert_eq!(q.outcome_kind("t").await, OutcomeKind::Expired);
    let error = q.outcome("t").await.error.expect("an error");
    assert_eq!((error.code.as_str(), error.http_status), ("expired", 504));
    q.worker("w", "pool", 4).await.takes(4, &["patient"]).await;
}

#[tokio::test]
async fn an_expired_task_is_not_handed_out_even_before_reap_saw_it() {
    let q = one_persona().await;
    for task in numbered("late", 3) {
        q.submit(&due(&task, Duration::ZERO)).await;
    }
    q.enqueue("p", "patient").await;
    q.worker("w", "pool", 4).await.takes(4, &["patient"]).await;
    for task in numbered("late", 3) {
        assert_eq!(q.outcome_kind(&task).await, OutcomeKind::Expired);
    }
    assert_eq!(q.reap().await, []);
}

#[tokio::test]
async fn a_running_task_is_not_stopped_by_its_deadline() {
    let q = one_persona().await;
    let w = q.worker("w", "pool", 4).await;
    q.submit(&due("t", SHORT)).await;
    let task = w.take_one().await;
    q.pass(SHORT).await;
    assert_eq!(q.reap().await, []);
    w.finish(&task).await;
    assert_eq!(q.outcome_kind("t").await, OutcomeKind::Completed);
}

#[tokio::test]
async fn a_task_that_is_given_back_after_its_deadline_expires() {
    let q = one_persona().await;
    let w = q.worker("w", "pool", 4).await;
    q.submit(&due("t", SHORT)).await;
    let task = w.take_one().await;
    q.pass(SHORT).await;
    w.release(&task, ReleaseReason::Shutdown, Duration::ZERO)
        .await;
    assert_eq!(q.outcome_kind("t").await, OutcomeKind::Expired);
}

#[tokio::test]
async fn a_waiting_task_can_be_cancelled_once() {
    let q = one_persona().await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let cancel = async |task| q.ns.cancel(task).await.expect("an answer");
    assert_eq!(cancel("t0").await, CancelAnswer::Cancelled);
    assert_eq!(cancel("t0").await, CancelAnswer::Ended);
    assert_eq!(cancel("nothing").await, CancelAnswer::Unknown);
    assert_eq!(q.outcome_kind("t0").await, OutcomeKind::Cancelled);
    q.worker("w", "pool", 4).await.takes(4, &["t1"]).await;
}

#[tokio::test]
async fn a_cancelled_task_stays_cancelled_when_its_worker_finishes() {
    let q = one_persona().await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 4).await;
    let task = w.take_one().await;
    let answer = q.ns.cancel("t").await.expect("an answer");
    assert_eq!(answer, CancelAnswer::Cancelled);
    assert_eq!(w.try_finish(&task).await, Fenced::Lost);
    assert_eq!(q.outcome_kind("t").await, OutcomeKind::Cancelled);
    assert_eq!(q.stats("pool").await.running, 0);
}

#[tokio::test]
async fn a_worker_that_stops_or_is_told_to_wait_burns_no_attempt() {
    let q = one_persona().await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 4).await;
    for reason in [
        ReleaseReason::Shutdown,
        ReleaseReason::RateLimited,
        ReleaseReason::Shutdown,
    ] {
        let task = w.take_one().await;
        assert_eq!((task.attempt, task.solo), (1, false));
        w.release(&task, reason, Duration::ZERO).await;
    }
    let output = q.ns.output("t", None).await.expect("an answer");
    assert_eq!(output.expect("known").failed_attempts, 0);
}

#[tokio::test]
async fn a_task_that_failed_as_often_as_allowed_is_a_dead_letter() {
    let q = one_persona().await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 4).await;
    for attempt in 1..=3 {
        let task = w.take_one().await;
        assert_eq!(task.attempt, attempt);
        w.release(&task, ReleaseReason::Failed, Duration::ZERO)
            .await;
    }
    assert_eq!(q.outcome_kind("t").await, OutcomeKind::Dead);
    w.takes(4, &[]).await;
    let mut read = redis::cmd("XRANGE");
    read.arg(q.ns.keys().dead()).arg(&["-", "+"]);
    let letters: Vec<(String, Vec<(String, String)>)> = q.redis(&read).await;
    assert_eq!(letters.len(), 1);
    let field = |name: &str| {
        let found = letters[0].1.iter().find(|(field, _)| field == name);
        found.expect("a field").1.clone()
    };
    assert_eq!(field("task"), "t");
    assert_eq!(field("persona"), "p");
    assert_eq!(field("attempts"), "3");
    assert_eq!(field("payload"), PAYLOAD);
    assert_eq!(field("reason"), "the provider failed");
}

#[tokio::test]
async fn a_stream_that_has_begun_ends_as_interrupted_and_one_that_has_not_runs_again() {
    let q = one_persona().await;
    let stream = |task| Enqueue {
        stream: true,
        ..Enqueue::new("p", task, PAYLOAD)
    };
    q.submit(&stream("begun")).await;
    q.submit(&stream("silent")).await;
    q.enqueue("p", "whole").await;
    let w = q.worker("w", "pool", 4).await;
    let tasks = w.takes(4, &["begun", "silent", "whole"]).await;
    for task in [&tasks[0], &tasks[2]] {
        let emitted =
            q.ns.emit(&task.task, &task.fence, &[Chunk::text("a")])
                .await;
        assert_eq!(emitted.expect("an answer"), Fenced::Accepted);
    }
    for task in &tasks {
        w.release(task, ReleaseReason::Shutdown, Duration::ZERO)
            .await;
    }
    assert_eq!(q.outcome_kind("begun").await, OutcomeKind::Failed);
    assert_eq!(q.code("begun").await, "interrupted");
    w.takes(4, &["silent", "whole"]).await;
    let output = q.ns.output("whole", None).await.expect("an answer");
    assert_eq!(output.expect("known").entries, [], "spliced attempts");
}

#[tokio::test]
async fn a_task_is_forgotten_only_after_its_end_and_its_retention() {
    let q = one_persona().await;
    q.submit(&Enqueue {
        stream: true,
        retention: Duration::from_secs(77),
        ..Enqueue::new("p", "t", PAYLOAD)
    })
    .await;
    let (task_key, output_key) = (q.ns.keys().task("t"), q.ns.keys().output("t"));
    let ttl = async |key: &String| {
        let mut cmd = redis::cmd("PTTL");
        q.redis::<i64>(cmd.arg(key)).await
    };
    assert_eq!(ttl(&task_key).await, -1, "while it waits");
    let w = q.worker("w", "pool", 4).await;
    let task = w.take_one().await;
    let emitted = q.ns.emit("t", &task.fence, &[Chunk::text("a")]).await;
    assert_eq!(emitted.expect("an answer"), Fenced::Accepted);
    assert_eq!(ttl(&task_key).await, -1, "while it runs");
    assert_eq!(ttl(&output_key).await, -1, "while it runs");
    w.finish(&task).await;
    for key in [&task_key, &output_key] {
        let left = ttl(key).await;
        assert!((1..=77_000).contains(&left), "{key}: {left}");
    }
}

#[tokio::test]
async fn what_has_ended_leaves_nothing_but_its_record() {
    let q = one_persona().await;
    let w = q.worker("w", "pool", 4).await;
    q.enqueue_all("p", numbered("t", 4)).await;
    for task in w.take(4).await {
        w.finish(&task).await;
    }
    for key in ["due", "q:p", "run:p", "lease:w", "ready:pool:-"] {
        let mut cmd = redis::cmd("EXISTS");
        let there: bool = q
            .redis(cmd.arg(q.ns.keys().prefix().to_owned() + key))
            .await;
        assert!(!there, "{key}");
    }
    let payload: String = q
        .redis(&redis::Cmd::hget(q.ns.keys().task("t0"), "payload"))
        .await;
    assert_eq!(payload, "");
}

#[tokio::test]
async fn ends_without_a_workers_word_are_told_once_by_outcome() {
    let q = one_persona().await;
    let w = q.worker("w", "pool", 4).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    let tasks = w.takes(3, &["t0", "t1", "t2"]).await;
    w.finish(&tasks[0]).await;
    q.ns.cancel("t1").await.expect("cancelled");
    q.enqueue("p", "waits").await;
    q.ns.cancel("waits").await.expect("cancelled");
    // Found by a worker, and by the sweep.
    q.submit(&due("late", Duration::ZERO)).await;
    w.takes(1, &[]).await;
    q.submit(&due("later", Duration::ZERO)).await;
    let sweep = q.ns.reap(100).await.expect("reaped");
    let mut ended = sweep.ended;
    ended.sort_unstable_by_key(|(kind, _)| kind.as_str());
    let expected = [(OutcomeKind::Cancelled, 2), (OutcomeKind::Expired, 2)];
    assert_eq!(ended, expected, "the worker tells of the completed one");
    assert_eq!(q.ns.reap(100).await.expect("reaped").ended, []);
    q.enqueue_all("p", numbered("orphan", 2)).await;
    q.ns.remove("p", &persona("p").uid, "gone")
        .await
        .expect("removed");
    let sweep = q.ns.reap(100).await.expect("reaped");
    assert_eq!(sweep.ended, [(OutcomeKind::Failed, 2)]);
}
