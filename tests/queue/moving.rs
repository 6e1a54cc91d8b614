//! A persona moves between pools in one call, with all it has.

use std::collections::HashSet;
use std::time::Duration;

use persona_operator::queue::routing::RouteAnswer;

use crate::support::{fixture, ids, numbered, persona, personas};

#[tokio::test]
async fn queued_tasks_come_along_and_running_ones_finish_where_they_are() {
    let q = fixture().await;
    q.open(&["old", "new"]).await;
    q.route(&persona("p").pool("old").concurrency(3)).await;
    q.enqueue_all("p", numbered("t", 6)).await;
    let old = q.worker("o", "old", 2).await;
    let running = old.takes(2, &["t0", "t1"]).await;
    let answer = q.try_route(&persona("p").pool("new").concurrency(3)).await;
    let from = Some("old".to_owned());
    assert_eq!(
        answer,
        RouteAnswer::Routed {
            from,
            pool: Some("new".to_owned()),
            queued: 4
        }
    );
    old.takes(0, &[]).await;
    // The limit counts what still runs in the old pool.
    let new = q.worker("n", "new", 8).await;
    let moved = new.takes(8, &["t2"]).await;
    assert_eq!(moved[0].pool, "new");
    let renewed = old.renew(&[&running[0], &running[1]]).await;
    assert_eq!(renewed.expect("an answer").lost, [""; 0]);
    old.finish(&running[0]).await;
    old.takes(2, &[]).await;
    new.takes(7, &["t3"]).await;
    old.finish(&running[1]).await;
    new.takes(6, &["t4"]).await;
}

#[tokio::test]
async fn a_task_lost_in_the_old_pool_runs_again_in_the_new_one() {
    let q = fixture().await;
    q.open(&["old", "new"]).await;
    q.route(&persona("p").pool("old")).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let old = q.worker("o", "old", 1).await;
    old.take_one().await;
    q.route(&persona("p").pool("new").attempts(3)).await;
    q.ns.forget_worker("o").await.expect("forgotten");
    let new = q.worker("n", "new", 4).await;
    let first = new.takes(4, &["t0"]).await;
    assert!(first[0].solo);
    new.finish(&first[0]).await;
    new.takes(4, &["t1"]).await;
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_doubled_while_a_persona_moves_to_and_fro() {
    let q = fixture().await;
    q.open(&["a", "b"]).await;
    q.route(&persona("p").pool("a").concurrency(50)).await;
    q.enqueue_all("p", numbered("t", 60)).await;
    let workers = [q.worker("wa", "a", 3).await, q.worker("wb", "b", 3).await];
    let mut seen = Vec::new();
    for round in 0..40 {
        let pool = if round % 2 == 0 { "b" } else { "a" };
        q.route(&persona("p").pool(pool).concurrency(50)).await;
        for worker in &workers {
            for task in worker.take(2).await {
                worker.finish(&task).await;
                seen.push(task.task);
            }
        }
    }
    assert_eq!(seen, numbered("t", 60), "in order, each once");
}

#[tokio::test]
async fn a_mover_does_not_wait_behind_newcomers() {
    let q = fixture().await;
    q.open(&["busy", "quiet"]).await;
    // The old pool's clock is far ahead of the new one's.
    q.route(&persona("mover").pool("busy").concurrency(1000).length(1000))
        .await;
    q.enqueue_all("mover", numbered("m", 250)).await;
    q.worker("w1", "busy", 500).await.take(200).await;
    for number in 0..20 {
        let name = format!("n{number}");
        q.route(&persona(&name).pool("quiet")).await;
        q.enqueue(&name, &format!("{name}-t")).await;
    }
    q.route(
        &persona("mover")
            .pool("quiet")
            .concurrency(1000)
            .length(1000),
    )
    .await;
    let w = q.worker("w2", "quiet", 100).await;
    let taken = w.take(30).await;
    let place = personas(&taken).iter().position(|name| *name == "mover");
    assert!(place.expect("taken") <= 20, "{place:?}");
}

#[tokio::test]
async fn a_mover_takes_its_debt_along() {
    let q = fixture().await;
    q.open(&["old", "new"]).await;
    for name in ["greedy", "modest"] {
        q.route(&persona(name).pool("old").concurrency(100)).await;
        q.enqueue_all(name, numbered(name, 60)).await;
    }
    q.route(&persona("local").pool("new").concurrency(100))
        .await;
    q.enqueue_all("local", numbered("local", 60)).await;
    // greedy has had a second of service, the clock of its pool stands where modest began.
    let w = q.worker("w", "old", 100).await;
    let first = w.takes(2, &["greedy0", "modest0"]).await;
    q.pass(Duration::from_millis(1000)).await;
    w.finish(&first[0]).await;
    q.route(&persona("greedy").pool("new").concurrency(100))
        .await;
    let next = q.worker("n", "new", 100).await.take(6).await;
    assert_eq!(personas(&next), ["local"; 6]);
}

#[tokio::test]
async fn moving_many_personas_strands_nobody() {
    let q = fixture().await;
    q.open(&["a", "b"]).await;
    let names = numbered("p", 100);
    for name in &names {
        q.route(&persona(name).pool("a")).await;
        q.enqueue(name, &format!("{name}-t")).await;
    }
    for name in &names {
        q.route(&persona(name).pool("b").epoch(2)).await;
    }
    let w = q.worker("w", "b", 200).await;
    let taken = w.take(200).await;
    let tasks: HashSet<_> = ids(&taken).into_iter().collect();
    assert_eq!(tasks.len(), 100);
    q.worker("old", "a", 200).await.takes(200, &[]).await;
    assert_eq!(q.stats("b").await.members, 100);
}
