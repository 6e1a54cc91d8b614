//! What a gateway hears of its tasks.

use std::time::Duration;

use persona_operator::queue::listen::{ResultMessage, Results};
use persona_operator::queue::submit::Enqueue;
use persona_operator::queue::task::{Chunk, OutcomeKind};
use persona_operator::queue::work::{Fenced, ReleaseReason, Taken};
use testbed::{Redis, RedisOptions};

use crate::support::{Fixture, PAYLOAD, completed, fixture, on, persona, soon};

async fn pool(q: &Fixture) {
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
}

async fn submit(q: &Fixture, task: &str, gateway: &str) {
    q.submit(&Enqueue {
        stream: true,
        gateway: Some(gateway),
        ..Enqueue::new("p", task, PAYLOAD)
    })
    .await;
}

async fn emit(q: &Fixture, task: &Taken, text: &str) {
    let emitted =
        q.ns.emit(&task.task, &task.fence, &[Chunk::text(text)])
            .await;
    assert_eq!(emitted.expect("an answer"), Fenced::Accepted);
}

/// The end of a task: its id and how.
async fn next_end(results: &mut Results) -> (String, OutcomeKind) {
    match soon(results.next()).await {
        ResultMessage::Ended {
            namespace,
            task,
            outcome,
        } => {
            assert_eq!(namespace, "team");
            (task, outcome.outcome)
        }
        other => panic!("not an end: {other:?}"),
    }
}

#[tokio::test]
async fn a_gateway_hears_chunks_a_restart_and_the_end_in_order() {
    let q = fixture().await;
    pool(&q).await;
    let mut results = q.queue.results("gw-1").await.expect("listening");
    submit(&q, "t", "gw-1").await;
    let w = q.worker("w", "pool", 1).await;
    let first = w.take_one().await;
    w.release(&first, ReleaseReason::Shutdown, Duration::ZERO)
        .await;
    let restarted = ResultMessage::Restarted {
        namespace: "team".into(),
        task: "t".into(),
    };
    assert_eq!(soon(results.next()).await, restarted);
    let second = w.take_one().await;
    let mut entries = Vec::new();
    for text in ["Hello", "\n\"world\" – ä"] {
        emit(&q, &second, text).await;
        let ResultMessage::Chunks {
            task, id, chunks, ..
        } = soon(results.next()).await
        else {
            panic!("no chunks");
        };
        assert_eq!((task.as_str(), chunks), ("t", vec![Chunk::text(text)]));
        entries.push(id);
    }
    w.finish(&second).await;
    let ended = ResultMessage::Ended {
        namespace: "team".into(),
        task: "t".into(),
        outcome: completed(),
    };
    assert_eq!(soon(results.next()).await, ended);
    let output = q.ns.output("t", None).await.expect("an answer");
    let read: Vec<_> = output
        .expect("known")
        .entries
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(read, entries, "the ids to resume from");
}

#[tokio::test]
async fn a_gateway_hears_of_every_way_to_end() {
    let q = fixture().await;
    pool(&q).await;
    let mut results = q.queue.results("gw-1").await.expect("listening");
    for task in ["cancelled", "dead", "interrupted", "failed"] {
        submit(&q, task, "gw-1").await;
    }
    let next = async |results: &mut Results, task: &str, kind| {
        assert_eq!(next_end(results).await, (task.to_owned(), kind));
    };
    q.ns.cancel("cancelled").await.expect("cancelled");
    next(&mut results, "cancelled", OutcomeKind::Cancelled).await;
    q.route(&persona("p").attempts(1).generation(2)).await;
    let w = q.worker("w", "pool", 1).await;
    let dead = w.take_one().await;
    w.release(&dead, ReleaseReason::Failed, Duration::ZERO)
        .await;
    next(&mut results, "dead", OutcomeKind::Dead).await;
    let interrupted = w.take_one().await;
    emit(&q, &interrupted, "x").await;
    soon(results.next()).await;
    q.ns.reap_worker("w").await.expect("reaped");
    next(&mut results, "interrupted", OutcomeKind::Failed).await;
    q.submit(&Enqueue {
        deadline: Duration::ZERO,
        gateway: Some("gw-1"),
        ..Enqueue::new("p", "expired", PAYLOAD)
    })
    .await;
    q.reap().await;
    next(&mut results, "expired", OutcomeKind::Expired).await;
    q.ns.remove("p", "p-uid", "deleted").await.expect("removed");
    next(&mut results, "failed", OutcomeKind::Failed).await;
}

#[tokio::test]
async fn each_gateway_hears_of_its_own_tasks_in_all_namespaces() {
    let q = fixture().await;
    pool(&q).await;
    let mut mine = q.queue.results("gw-1").await.expect("listening");
    let mut others = q.queue.results("gw-2").await.expect("listening");
    submit(&q, "theirs", "gw-2").await;
    q.enqueue("p", "nobodys").await;
    submit(&q, "mine", "gw-1").await;
    for task in ["nobodys", "theirs", "mine"] {
        q.ns.cancel(task).await.expect("cancelled");
    }
    assert_eq!(next_end(&mut mine).await.0, "mine");
    assert_eq!(next_end(&mut others).await.0, "theirs");
    let far = q.queue.namespace("far").expect("a name");
    far.open("pool").await.expect("opened");
    far.route(&persona("p").route()).await.expect("routed");
    let task = Enqueue {
        gateway: Some("gw-1"),
        ..Enqueue::new("p", "t", PAYLOAD)
    };
    far.enqueue(&task).await.expect("queued");
    far.cancel("t").await.expect("cancelled");
    let ResultMessage::Ended { namespace, .. } = soon(mine.next()).await else {
        panic!("not an end");
    };
    assert_eq!(namespace, "far");
}

#[tokio::test]
async fn a_gateway_that_lost_its_connection_is_told_and_catches_up() {
    let redis = Redis::start(RedisOptions {
        append_only: true,
        ..RedisOptions::default()
    })
    .await
    .expect("a Redis");
    let q = on(&redis).await;
    pool(&q).await;
    let mut results = q.queue.results("gw-1").await.expect("listening");
    submit(&q, "t", "gw-1").await;
    let w = q.worker("w", "pool", 1).await;
    let task = w.take_one().await;
    emit(&q, &task, "one").await;
    let ResultMessage::Chunks { id, .. } = soon(results.next()).await else {
        panic!("no chunks");
    };
    let mut kill = redis::cmd("CLIENT");
    let killed: u32 = q.redis(kill.arg(&["KILL", "TYPE", "pubsub"])).await;
    assert_eq!(killed, 1);
    emit(&q, &task, "two").await;
    w.finish(&task).await;
    assert_eq!(soon(results.next()).await, ResultMessage::Gap);
    let missed = q.ns.output("t", Some(&id)).await.expect("an answer");
    let missed = missed.expect("known");
    assert_eq!(missed.entries.len(), 1);
    assert_eq!(missed.entries[0].1, [Chunk::text("two")]);
    assert_eq!(missed.outcome, Some(completed()));
    submit(&q, "next", "gw-1").await;
    q.ns.cancel("next").await.expect("cancelled");
    assert_eq!(next_end(&mut results).await.0, "next");
}
