//! Order inside a persona's queue, what enqueue refuses, lanes.

use std::time::Duration;

use persona_operator::queue::submit::{CancelAnswer, Enqueue, EnqueueAnswer, TaskState};
use persona_operator::queue::work::ReleaseReason;

use crate::support::{PAYLOAD, fixture, ids, numbered, persona};

#[tokio::test]
async fn tasks_of_a_persona_are_taken_in_the_order_they_came() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(100)).await;
    let tasks = numbered("t", 40);
    q.enqueue_all("p", tasks.clone()).await;
    let w = q.worker("w", "pool", 100).await;
    let mut taken = w.take(7).await;
    taken.extend(w.take(93).await);
    assert_eq!(ids(&taken), tasks);
}

#[tokio::test]
async fn an_urgent_task_passes_only_those_of_its_own_persona() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for name in ["a", "b"] {
        q.route(&persona(name).concurrency(100)).await;
    }
    q.enqueue("a", "a-first").await;
    let urgent = Enqueue {
        priority: 100,
        ..Enqueue::new("b", "b-urgent", PAYLOAD)
    };
    let idle = Enqueue {
        priority: -100,
        ..Enqueue::new("b", "b-whenever", PAYLOAD)
    };
    q.submit(&idle).await;
    q.enqueue("b", "b-usual").await;
    q.submit(&urgent).await;
    let w = q.worker("w", "pool", 10).await;
    // a and b begin level, so they take turns; the name decides who begins.
    w.takes(10, &["a-first", "b-urgent", "b-usual", "b-whenever"])
        .await;
}

#[tokio::test]
async fn a_persona_of_higher_priority_goes_first() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("low").priority(-100)).await;
    q.route(&persona("mid")).await;
    q.route(&persona("top").priority(100)).await;
    for name in ["low", "mid", "top"] {
        q.enqueue_all(name, numbered(name, 2)).await;
    }
    let w = q.worker("w", "pool", 10).await;
    w.takes(10, &["top0", "top1", "mid0", "mid1", "low0", "low1"])
        .await;
}

#[tokio::test]
async fn a_task_that_is_handed_back_is_the_next_one_again() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    let w = q.worker("w", "pool", 4).await;
    let first = w.take_one().await;
    w.release(&first, ReleaseReason::Shutdown, Duration::ZERO)
        .await;
    w.takes(4, &["t0", "t1", "t2"]).await;
}

#[tokio::test]
async fn a_full_queue_refuses_with_a_time_and_says_duplicate_before_full() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").length(2)).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let third = Enqueue::new("p", "t2", PAYLOAD);
    let EnqueueAnswer::Full { retry_after } = q.try_submit(&third).await else {
        panic!("it is full");
    };
    assert!(retry_after >= Duration::from_secs(1) && retry_after <= Duration::from_secs(60));
    let again = Enqueue::new("p", "t1", PAYLOAD);
    assert_eq!(
        q.try_submit(&again).await,
        EnqueueAnswer::Duplicate {
            state: TaskState::Queued
        }
    );
    // A gateway that had it accepted before the data was lost is not refused.
    let resubmit = Enqueue {
        resubmit: true,
        ..third
    };
    assert_eq!(
        q.try_submit(&resubmit).await,
        EnqueueAnswer::Queued { position: 3 }
    );
}

#[tokio::test]
async fn room_in_the_queue_comes_from_takes_and_cancels() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").length(2)).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let w = q.worker("w", "pool", 1).await;
    w.take_one().await;
    q.enqueue("p", "t2").await;
    assert_eq!(
        q.ns.cancel("t1").await.expect("an answer"),
        CancelAnswer::Cancelled
    );
    assert_eq!(
        q.try_submit(&Enqueue::new("p", "t3", PAYLOAD)).await,
        EnqueueAnswer::Queued { position: 2 }
    );
}

#[tokio::test]
async fn the_same_id_is_one_task_and_another_payload_or_persona_is_a_conflict() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.route(&persona("other")).await;
    q.enqueue("p", "t").await;
    let same = Enqueue::new("p", "t", PAYLOAD);
    let duplicate = |state| EnqueueAnswer::Duplicate { state };
    assert_eq!(q.try_submit(&same).await, duplicate(TaskState::Queued));
    let w = q.worker("w", "pool", 1).await;
    let taken = w.take_one().await;
    assert_eq!(q.try_submit(&same).await, duplicate(TaskState::Running));
    w.finish(&taken).await;
    assert_eq!(q.try_submit(&same).await, duplicate(TaskState::Ended));
    for conflict in [
        Enqueue::new("p", "t", r#"{"kind":"chat.completions","request":{"n":2}}"#),
        Enqueue::new("other", "t", PAYLOAD),
    ] {
        assert_eq!(q.try_submit(&conflict).await, EnqueueAnswer::Conflict);
    }
    w.takes(1, &[]).await;
}

#[tokio::test]
async fn unknown_and_suspended_personas_accept_nothing() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("asleep").suspended()).await;
    let answer = q.try_submit(&Enqueue::new("asleep", "t", PAYLOAD)).await;
    assert_eq!(answer, EnqueueAnswer::Suspended);
    let answer = q.try_submit(&Enqueue::new("nobody", "t", PAYLOAD)).await;
    assert_eq!(answer, EnqueueAnswer::Unknown);
}

#[tokio::test]
async fn a_suspended_persona_keeps_its_queue_and_goes_on_when_it_wakes() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    q.route(&persona("p").suspended()).await;
    let w = q.worker("w", "pool", 1).await;
    w.takes(1, &[]).await;
    q.route(&persona("p")).await;
    w.takes(1, &["t"]).await;
}

#[tokio::test]
async fn a_worker_takes_only_from_the_lanes_it_serves() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("plain")).await;
    q.route(&persona("keyed").lane("openai/api-key")).await;
    q.enqueue("keyed", "k").await;
    q.enqueue("plain", "p").await;
    let plain = q.worker("w1", "pool", 4).await;
    plain.takes(4, &["p"]).await;
    let keyed = q.unregistered("w2", "pool", 4).lanes(&["openai/api-key"]);
    keyed.register().await;
    q.enqueue("plain", "p2").await;
    keyed.takes(4, &["k"]).await;
    let nothing = q.unregistered("w3", "pool", 4).lanes(&[]);
    nothing.register().await;
    nothing.takes(4, &[]).await;
}

#[tokio::test]
async fn a_persona_that_changes_its_lane_waits_for_those_who_serve_the_new_one() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    q.route(&persona("p").lane("new/key").generation(2)).await;
    let old = q.worker("w1", "pool", 1).await;
    old.takes(1, &[]).await;
    let new = q.unregistered("w2", "pool", 1).lanes(&["-", "new/key"]);
    new.register().await;
    let taken = new.takes(1, &["t"]).await;
    assert_eq!(taken[0].generation, 2);
}

#[tokio::test]
async fn what_is_taken_tells_all_of_the_task() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").generation(7)).await;
    q.submit(&Enqueue {
        stream: true,
        deadline: Duration::from_secs(90),
        ..Enqueue::new("p", "t", PAYLOAD)
    })
    .await;
    q.pass(Duration::from_millis(5)).await;
    let t = q.worker("w", "pool", 1).await.take_one().await;
    assert_eq!((t.persona.as_str(), t.pool.as_str()), ("p", "pool"));
    assert_eq!(t.payload, PAYLOAD);
    assert!(t.parse().is_ok());
    assert_eq!((t.generation, t.attempt), (7, 1));
    assert!(t.stream && !t.solo);
    assert!(t.waited >= Duration::from_millis(5), "{:?}", t.waited);
    let left = t.deadline_in + t.waited;
    assert_eq!(left, Duration::from_secs(90));
    let config = q.ns.config("p").await.expect("an answer").expect("known");
    assert_eq!(config.generation, 7);
}
