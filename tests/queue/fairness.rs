//! Between personas of one priority: by weight, charged by measured service.

use std::time::Duration;

use persona_operator::queue::work::ReleaseReason;

use crate::support::{Fixture, fixture, numbered, persona, personas};

async fn two(a_weight: u32, b_weight: u32) -> Fixture {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for (name, weight) in [("a", a_weight), ("b", b_weight)] {
        q.route(&persona(name).concurrency(1000).length(1000).weight(weight))
            .await;
    }
    q
}

fn count(names: &[&str], name: &str) -> usize {
    names.iter().filter(|other| **other == name).count()
}

#[tokio::test]
async fn a_flood_of_one_persona_does_not_keep_the_other_waiting() {
    let q = two(1, 1).await;
    q.enqueue_all("a", numbered("a", 300)).await;
    let w = q.worker("w", "pool", 500).await;
    w.take(200).await;
    q.enqueue("b", "b0").await;
    let next = w.take(2).await;
    assert!(personas(&next).contains(&"b"), "{:?}", personas(&next));
}

#[tokio::test]
async fn personas_share_a_pool_by_weight() {
    let q = two(3, 1).await;
    q.enqueue_all("a", numbered("a", 100)).await;
    q.enqueue_all("b", numbered("b", 100)).await;
    let taken = q.worker("w", "pool", 100).await.take(80).await;
    let a = count(&personas(&taken), "a");
    assert!((59..=61).contains(&a), "{a} of 80 for three quarters");
}

#[tokio::test]
async fn long_tasks_are_charged_for_what_they_took() {
    let q = two(1, 1).await;
    for name in ["a", "b"] {
        q.enqueue_all(name, numbered(name, 20)).await;
    }
    let w = q.worker("w", "pool", 100).await;
    let began = q.now_ms().await;
    let tasks = w.take(2).await;
    assert_eq!(personas(&tasks), ["a", "b"]);
    w.finish(&tasks[1]).await;
    let took = Duration::from_millis(q.now_ms().await - began);
    q.pass((took * 10).max(Duration::from_secs(1))).await;
    w.finish(&tasks[0]).await;
    // a has used a second, b next to nothing: b goes first until it has used as much.
    let next = w.take(4).await;
    assert_eq!(personas(&next), ["b"; 4]);
}

#[tokio::test]
async fn a_short_task_gets_back_what_it_was_charged_too_much() {
    let q = two(1, 1).await;
    q.enqueue_all("a", numbered("a", 30)).await;
    q.enqueue_all("b", numbered("b", 30)).await;
    let w = q.worker("w", "pool", 100).await;
    // Their tasks are known to take a second.
    let known = w.take(2).await;
    q.pass(Duration::from_secs(1)).await;
    for task in &known {
        w.finish(task).await;
    }
    // Both are charged for that ahead; a gives its task back at once.
    let next = w.take(2).await;
    assert_eq!(personas(&next), ["a", "b"]);
    w.release(&next[0], ReleaseReason::Shutdown, Duration::ZERO)
        .await;
    assert_eq!(w.take_one().await.persona, "a");
}

#[tokio::test]
async fn a_persona_that_was_idle_saves_nothing_up() {
    let q = two(1, 1).await;
    q.enqueue_all("a", numbered("a", 300)).await;
    let w = q.worker("w", "pool", 500).await;
    w.take(100).await;
    q.enqueue_all("b", numbered("b", 100)).await;
    let taken = w.take(40).await;
    let b = count(&personas(&taken), "b");
    assert!((19..=22).contains(&b), "{b} of 40 for a newcomer");
}

#[tokio::test]
async fn equal_shares_hold_among_many_personas_with_queues_of_any_length() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for number in 0..10 {
        let name = format!("p{number}");
        q.route(&persona(&name).concurrency(100)).await;
        q.enqueue_all(&name, numbered(&format!("{name}-"), 5 + 5 * number))
            .await;
    }
    let taken = q.worker("w", "pool", 100).await.take(50).await;
    for number in 0..10 {
        let name = format!("p{number}");
        assert_eq!(count(&personas(&taken), &name), 5, "{name}");
    }
}
