//! SIGTERM.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::stage::{Stage, answer_of, eventually, streamed, whole};
use crate::stream::{Event, Events, ends_well};

#[tokio::test]
async fn requests_in_flight_are_finished_and_new_ones_refused() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    // A connection that has said nothing must not hold up the end.
    let silent = TcpStream::connect(stage.address).await.expect("connects");
    let (request, waiting) = (stage.send(&streamed()), stage.send(&whole()));
    let (one, two) = (worker.take().await, worker.take().await);
    let (job, other) = if one.taken.stream {
        (one, two)
    } else {
        (two, one)
    };
    job.say("one ").await;
    let events = Events::of(answer_of(request).await);
    stage.begin_stop();
    eventually("a closed port", async || {
        TcpStream::connect(stage.address).await.is_err()
    })
    .await;
    job.say("two").await;
    job.end().await;
    other.answer("ok").await;
    assert_eq!(ends_well(events).await, "one two");
    let response = answer_of(waiting).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["connection"], "close");
    timeout(Duration::from_secs(10), stage.stopped())
        .await
        .expect("ends at once");
    drop(silent);
}

#[tokio::test]
async fn what_outlasts_the_drain_timeout_is_cut_off_and_cancelled() {
    let stage = Stage::with(&["--drain-timeout", "300ms"]).await;
    let mut worker = stage.worker().await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("one ").await;
    let mut events = Events::of(answer_of(request).await);
    events.data().await;
    stage.begin_stop();
    stage.stopped().await;
    // It ended only after it had told the queue.
    assert_eq!(worker.cancelled().await, job.taken.task);
    let (_, others) = events.rest().await;
    assert_eq!(others, [Event::Broken], "a cut is no proper end");
}

#[tokio::test]
async fn gateway_without_a_queue_stops_all_the_same() {
    let redis = testbed::Redis::start(testbed::RedisOptions::default())
        .await
        .expect("a Redis");
    let stage = Stage::on(&redis, &["--hold", "500ms"]).await;
    redis.kill().await.expect("kills");
    let request = stage.send(&whole());
    eventually("the request in the gateway", async || {
        stage.json("/health").await["status"] == "degraded"
    })
    .await;
    stage.begin_stop();
    assert_eq!(answer_of(request).await.status(), 503);
    stage.stopped().await;
}
