//! The queue's refusals and bad ends, as a client sees them.

use std::time::Duration;

use persona_operator::api::QueueLimits;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::{Outcome, OutcomeKind, TaskError};
use persona_operator::queue::work::{Fenced, ReleaseReason};
use serde_json::json;
use testbed::{Redis, RedisOptions};

use crate::publish::Persona;
use crate::stage::{
    NAMESPACE, PERSONA, Stage, answer_of, chat, error_of, eventually, streamed, whole,
};
use crate::stream::{Events, ends_in_error};

#[tokio::test]
async fn suspended_persona_is_503_and_no_use_to_try_again() {
    let stage = Stage::start().await;
    let mut persona = Persona::new(NAMESPACE, "asleep");
    persona.suspended = true;
    stage.publish(persona).await;
    let refused = answer_of(stage.send(&chat("asleep", json!({})))).await;
    assert_eq!(refused.headers()["x-should-retry"], "false");
    error_of(refused, 503, "persona_suspended").await;
}

#[tokio::test]
async fn deleted_persona_is_404_for_new_requests_and_waiting_ones() {
    let stage = Stage::start().await;
    let namespace = stage.namespace();
    let waiting = stage.send(&whole());
    let personas = [PERSONA.to_owned()];
    eventually("a waiting request", async || {
        namespace.persona_stats(&personas).await.expect("stats")[0].queued == 1
    })
    .await;
    namespace
        .remove(PERSONA, PERSONA, "it was deleted")
        .await
        .expect("removes");
    let error = error_of(answer_of(waiting).await, 404, "persona_deleted").await;
    assert_eq!(error["message"], "it was deleted");
    let error = error_of(
        answer_of(stage.send(&whole())).await,
        404,
        "persona_deleted",
    )
    .await;
    assert_eq!(error["param"], "model");
}

#[tokio::test]
async fn request_that_no_worker_had_time_for_is_504() {
    let stage = Stage::with(&["--queue-wait", "1ms"]).await;
    let mut hasty = Persona::new(NAMESPACE, "hasty");
    (hasty.timeout_ms, hasty.attempts) = (1, 1);
    stage.publish(hasty).await;
    let namespace = stage.namespace();
    for stream in [false, true] {
        let request = stage.send(&chat("hasty", json!({"stream": stream})));
        // The controller's sweep.
        eventually("an expired task", async || {
            !namespace.reap(10).await.expect("reaps").tasks.is_empty()
        })
        .await;
        error_of(answer_of(request).await, 504, "deadline_exceeded").await;
    }
}

#[tokio::test]
async fn failure_has_the_providers_status_code_and_words() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    for (theirs, ours, retry_after_ms, header) in [
        (400, 400, None, None),
        (401, 502, None, None),
        (404, 502, None, None),
        (429, 429, Some(2300), Some("3")),
        (500, 500, None, None),
        (503, 503, None, Some("5")),
    ] {
        let outcome = Outcome::ended(
            OutcomeKind::Failed,
            TaskError {
                code: "their_code".into(),
                message: "their words".into(),
                http_status: theirs,
                retry_after_ms,
            },
        );
        for stream in [false, true] {
            let request = stage.send(&chat(PERSONA, json!({"stream": stream})));
            assert_eq!(worker.take().await.finish(&outcome).await, Fenced::Accepted);
            // A stream that has not begun is refused by its status.
            let response = answer_of(request).await;
            let after = response.headers().get("retry-after").cloned();
            let error = error_of(response, ours, "their_code").await;
            assert_eq!(error["message"], "their words");
            assert_eq!(
                after.as_ref().and_then(|v| v.to_str().ok()),
                header,
                "{theirs}"
            );
        }
    }
}

#[tokio::test]
async fn failure_after_the_first_token_is_one_clean_error() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("Hal").await;
    let events = Events::of(answer_of(request).await);
    let error = TaskError {
        code: "upstream_broke".into(),
        message: "the provider's stream ended early".into(),
        http_status: 502,
        retry_after_ms: None,
    };
    assert_eq!(
        job.finish(&Outcome::ended(OutcomeKind::Failed, error))
            .await,
        Fenced::Accepted
    );
    assert_eq!(ends_in_error(events, "upstream_broke").await, "Hal");
    eventually("the count", async || {
        stage.count("/v1/chat/completions", "502").await > 0.5
    })
    .await;
    assert!(stage.count("/v1/chat/completions", "200").await < 0.5);
}

#[tokio::test]
async fn request_that_used_up_its_attempts_is_not_to_be_tried_again() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let mut once = Persona::new(NAMESPACE, "once");
    once.attempts = 1;
    stage.publish(once).await;
    let request = stage.send(&chat("once", json!({})));
    let job = worker.take().await;
    let namespace = stage.namespace();
    let released = namespace.release(
        &job.taken.task,
        &job.taken.fence,
        ReleaseReason::Failed,
        Duration::ZERO,
    );
    assert_eq!(released.await.expect("releases"), Fenced::Accepted);
    let response = answer_of(request).await;
    assert_eq!(response.headers()["x-should-retry"], "false");
    error_of(response, 500, "dead").await;
}

#[tokio::test]
async fn redis_without_memory_is_503_with_a_time_to_come_back() {
    let redis = Redis::start(RedisOptions::default())
        .await
        .expect("a Redis");
    let stage = Stage::on(&redis, &[]).await;
    let mut admin = redis.connection().await.expect("connects");
    let mut set = redis::cmd("CONFIG");
    set.arg(&["SET", "maxmemory", "1"]);
    set.exec_async(&mut admin).await.expect("sets");
    let response = answer_of(stage.send(&whole())).await;
    assert_eq!(response.headers()["retry-after"], "5");
    error_of(response, 503, "queue_out_of_memory").await;
}

#[tokio::test]
async fn full_queue_is_429_with_the_time_to_come_back() {
    let stage = Stage::start().await;
    let mut small = Persona::new(NAMESPACE, "small");
    small.limits = QueueLimits {
        max_length: 1,
        ..QueueLimits::default()
    };
    stage.publish(small).await;
    let first = Enqueue::new("small", "first", "{}");
    let queued = stage.namespace().enqueue(&first).await.expect("enqueues");
    assert!(matches!(queued, EnqueueAnswer::Queued { .. }), "{queued:?}");
    for stream in [false, true] {
        let refused = answer_of(stage.send(&chat("small", json!({"stream": stream})))).await;
        let headers = refused.headers().clone();
        let error = error_of(refused, 429, "queue_full").await;
        assert_eq!(error["type"], "rate_limit_error");
        assert_eq!(headers["retry-after"], "1");
        assert_eq!(headers["retry-after-ms"], "1000");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "0");
        assert_eq!(headers["x-ratelimit-reset-requests"], "1s");
    }
}
