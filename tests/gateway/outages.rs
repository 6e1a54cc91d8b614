//! Redis goes away, comes back, comes back empty, or with yesterday's data.

use std::time::{Duration, Instant};

use persona_operator::queue::task::Chunk;
use persona_operator::queue::work::Fenced;
use testbed::{Redis, RedisOptions};

use crate::stage::{PERSONA, Stage, answer_of, error_of, eventually, streamed, whole};
use crate::stream::{Event, Events, ends_in_error, ends_well};

async fn own_redis(append_only: bool) -> Redis {
    let options = RedisOptions {
        append_only,
        ..RedisOptions::default()
    };
    Redis::start(options).await.expect("a Redis")
}

async fn admin(redis: &Redis, words: &[&str]) -> redis::Value {
    let mut connection = redis.connection().await.expect("connects");
    let (name, arguments) = words.split_first().expect("a command");
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command.query_async(&mut connection).await.expect("answers")
}

#[tokio::test]
async fn request_is_held_while_redis_is_away_and_then_refused_for_a_while() {
    let redis = own_redis(false).await;
    let stage = Stage::on(&redis, &["--hold", "1s"]).await;
    redis.kill().await.expect("kills");
    let asked = Instant::now();
    let response = answer_of(stage.send(&whole())).await;
    assert!(
        asked.elapsed() >= Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    assert!(response.headers().contains_key("retry-after"));
    error_of(response, 503, "queue_unavailable").await;
    error_of(stage.get("/v1/models").await, 503, "queue_unavailable").await;
    let health = stage.json("/health").await;
    assert_eq!(health["status"], "degraded");
    assert_eq!(stage.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn redis_that_hangs_is_no_different_from_one_that_is_away() {
    let redis = own_redis(false).await;
    let stage = Stage::on(&redis, &["--hold", "1s"]).await;
    redis.pause().expect("pauses");
    let response = answer_of(stage.send(&whole())).await;
    error_of(response, 503, "queue_unavailable").await;
    redis.resume().expect("resumes");
    let worker = stage.worker().await;
    let request = stage.send(&whole());
    // The request that was given up may have reached the queue: it was cancelled there.
    worker.take().await.answer("ok").await;
    assert_eq!(answer_of(request).await.status(), 200);
}

#[tokio::test]
async fn held_request_goes_on_when_redis_is_back() {
    let redis = own_redis(true).await;
    let stage = Stage::on(&redis, &["--hold", "30s"]).await;
    redis.kill().await.expect("kills");
    let (held, held_stream) = (stage.send(&whole()), stage.send(&streamed()));
    eventually("the gateway to see it", async || {
        stage.json("/health").await["status"] == "degraded"
    })
    .await;
    assert!(!held.is_finished() && !held_stream.is_finished());
    redis.restart().await.expect("restarts");
    stage.publish_again().await;
    let worker = stage.worker().await;
    for _ in 0..2 {
        let job = worker.take().await;
        if job.taken.stream {
            job.say("ok").await;
            job.end().await;
        } else {
            job.answer("ok").await;
        }
    }
    assert_eq!(answer_of(held).await.status(), 200);
    assert_eq!(
        ends_well(Events::of(answer_of(held_stream).await)).await,
        "ok"
    );
}

#[tokio::test]
async fn running_request_survives_a_restart_of_redis_that_keeps_its_data() {
    let redis = own_redis(true).await;
    let stage = Stage::on(&redis, &[]).await;
    let worker = stage.worker().await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("before ").await;
    let mut events = Events::of(answer_of(request).await);
    events.data().await;
    redis.kill().await.expect("kills");
    redis.restart().await.expect("restarts");
    stage.publish_again().await;
    job.say("after").await;
    job.end().await;
    assert_eq!(ends_well(events).await, "before after");
}

#[tokio::test]
async fn request_lost_with_redis_data_is_enqueued_again_and_answered_once() {
    let redis = own_redis(false).await;
    let stage = Stage::on(&redis, &[]).await;
    let worker = stage.worker().await;
    let requests = [stage.send(&whole()), stage.send(&streamed())];
    let lost = [worker.take().await, worker.take().await];
    redis.kill().await.expect("kills");
    redis.restart().await.expect("restarts");
    stage.publish_again().await;
    let worker = stage.worker().await;
    for _ in 0..2 {
        let job = worker.take().await;
        assert!(lost.iter().any(|lost| lost.taken.task == job.taken.task));
        for lost in &lost {
            assert_eq!(lost.emit(&[Chunk::text("of the lost")]).await, Fenced::Lost);
        }
        if job.taken.stream {
            job.say("again").await;
            job.end().await;
        } else {
            job.answer("again").await;
        }
    }
    let [whole, stream] = requests;
    let body: serde_json::Value = answer_of(whole).await.json().await.expect("JSON");
    assert_eq!(body["choices"][0]["message"]["content"], "again");
    assert_eq!(
        ends_well(Events::of(answer_of(stream).await)).await,
        "again"
    );
    let personas = [PERSONA.to_owned()];
    let left = stage
        .namespace()
        .persona_stats(&personas)
        .await
        .expect("stats");
    assert_eq!((left[0].queued, left[0].running), (0, 0));
}

#[tokio::test]
async fn stream_that_was_lost_with_redis_data_ends_in_one_error() {
    let redis = own_redis(false).await;
    let stage = Stage::on(&redis, &[]).await;
    let worker = stage.worker().await;
    let request = stage.send(&streamed());
    worker.take().await.say("Hal").await;
    let mut events = Events::of(answer_of(request).await);
    events.data().await;
    redis.kill().await.expect("kills");
    redis.restart().await.expect("restarts");
    stage.publish_again().await;
    assert_eq!(ends_in_error(events, "interrupted").await, "Hal");
    let personas = [PERSONA.to_owned()];
    let left = stage
        .namespace()
        .persona_stats(&personas)
        .await
        .expect("stats");
    assert_eq!((left[0].queued, left[0].running), (0, 0));
}

#[tokio::test]
async fn subscription_that_is_cut_loses_and_doubles_nothing() {
    let redis = own_redis(false).await;
    let stage = Stage::on(&redis, &[]).await;
    let worker = stage.worker().await;
    let (request, whole) = (stage.send(&streamed()), stage.send(&whole()));
    let (one, two) = (worker.take().await, worker.take().await);
    let (job, other) = if one.taken.stream {
        (one, two)
    } else {
        (two, one)
    };
    job.say("0 ").await;
    let events = Events::of(answer_of(request).await);
    let mut cuts = 0;
    for number in 1..200 {
        if number % 20 == 0 {
            let killed = admin(&redis, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            cuts += i32::from(killed != redis::Value::Int(0));
        }
        job.say(&format!("{number} ")).await;
    }
    assert!(cuts > 0, "nothing was cut");
    admin(&redis, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    other.answer("heard").await;
    job.end().await;
    let expected: String = (0..200).map(|number| format!("{number} ")).collect();
    assert_eq!(ends_well(events).await, expected);
    assert_eq!(answer_of(whole).await.status(), 200);
}

#[tokio::test]
async fn loss_that_broke_no_connection_is_noticed_too() {
    let redis = own_redis(false).await;
    let stage = Stage::on(&redis, &[]).await;
    let worker = stage.worker().await;
    let (request, whole) = (stage.send(&streamed()), stage.send(&whole()));
    let (one, two) = (worker.take().await, worker.take().await);
    let (job, other) = if one.taken.stream {
        (one, two)
    } else {
        (two, one)
    };
    job.say("Hal").await;
    let mut events = Events::of(answer_of(request).await);
    assert!(matches!(events.next().await, Event::Data(_)));
    admin(&redis, &["FLUSHALL"]).await;
    stage.publish_again().await;
    assert_eq!(ends_in_error(events, "interrupted").await, "Hal");
    let worker = stage.worker().await;
    let again = worker.take().await;
    assert_eq!(again.taken.task, other.taken.task);
    again.answer("again").await;
    assert_eq!(answer_of(whole).await.status(), 200);
}

#[tokio::test]
async fn second_attempt_is_not_spliced_to_the_first_when_redis_data_went_back() {
    let redis = own_redis(false).await;
    let stage = Stage::as_own_user(&redis).await;
    let worker = stage.worker().await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    // What a failover to a replica that lags, or a lost second of the append-only file, does.
    admin(&redis, &["SAVE"]).await;
    job.say("first ").await;
    let mut events = Events::of(answer_of(request).await);
    events.data().await;
    assert_eq!(events.text().await, "first ");
    redis.kill().await.expect("kills");
    redis.restart().await.expect("restarts");
    // The gateway does not get in before it is too late to stop the second attempt.
    stage.publish_again().await;
    stage
        .namespace()
        .reap_worker(worker.uid())
        .await
        .expect("reaps");
    let second = stage.worker().await;
    let again = second.take().await;
    assert_eq!(
        again.taken.task, job.taken.task,
        "Redis knows nothing of the first token"
    );
    again.say("second").await;
    stage.set_user().await;
    assert_eq!(ends_in_error(events, "interrupted").await, "");
}
