//! The header `Idempotency-Key`.

use persona_operator::queue::task::{Outcome, OutcomeKind, TaskError};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::stage::{
    KEY, NAMESPACE, PERSONA, Stage, answer_of, chat, error_of, eventually, spawn, write_key,
};
use crate::stream::{Events, ends_in_error, ends_well};

fn keyed(stage: &Stage, who: &str, body: &Value) -> JoinHandle<reqwest::Response> {
    spawn(stage.ask_as(who, body).header("idempotency-key", "order-1"))
}

async fn text(request: JoinHandle<reqwest::Response>) -> (String, String) {
    let response = answer_of(request).await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("JSON");
    let word = |value: &Value| value.as_str().expect("text").to_owned();
    (
        word(&body["id"]),
        word(&body["choices"][0]["message"]["content"]),
    )
}

#[tokio::test]
async fn same_request_gets_the_same_answer_while_it_runs_and_after() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let body = chat(PERSONA, json!({"a": 1, "b": 2.5}));
    let first = keyed(&stage, KEY, &body);
    let job = worker.take().await;
    let second = keyed(&stage, KEY, &body);
    eventually("the second one in the gateway", async || {
        let personas = [PERSONA.to_owned()];
        let stats = stage
            .namespace()
            .persona_stats(&personas)
            .await
            .expect("stats");
        stats[0].running == 1 && !second.is_finished()
    })
    .await;
    job.answer("once").await;
    let answer = text(first).await;
    assert_eq!(answer.1, "once");
    assert_eq!(text(second).await, answer);
    // The order of the fields is no difference.
    let text_of_body =
        r#"{"b":2.5,"messages":[{"content":"hi","role":"user"}],"a":1,"model":"helper"}"#;
    let request = stage.ask(&Value::Null).body(text_of_body);
    let third = spawn(request.header("idempotency-key", "order-1"));
    assert_eq!(text(third).await, answer);
}

#[tokio::test]
async fn streamed_answer_is_given_again_from_its_beginning() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let body = chat(PERSONA, json!({"stream": true}));
    let first = keyed(&stage, KEY, &body);
    let job = worker.take().await;
    job.say("Once ").await;
    let mut events = Events::of(answer_of(first).await);
    events.data().await;
    let second = Events::of(answer_of(keyed(&stage, KEY, &body)).await);
    job.say("only").await;
    job.end().await;
    assert_eq!(ends_well(events).await, "Once only");
    assert_eq!(ends_well(second).await, "Once only");
    let third = Events::of(answer_of(keyed(&stage, KEY, &body)).await);
    assert_eq!(ends_well(third).await, "Once only");
}

#[tokio::test]
async fn long_stream_is_given_again_whole() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let body = chat(PERSONA, json!({"stream": true}));
    let first = keyed(&stage, KEY, &body);
    let job = worker.take().await;
    let mut story = String::new();
    // Several pages, and the last one full.
    for number in 0..96 {
        let word = format!("{number} ");
        job.say(&word).await;
        story.push_str(&word);
    }
    job.end().await;
    assert_eq!(ends_well(Events::of(answer_of(first).await)).await, story);
    let second = Events::of(answer_of(keyed(&stage, KEY, &body)).await);
    assert_eq!(ends_well(second).await, story);
}

fn failed(status: u16) -> Outcome {
    Outcome::ended(
        OutcomeKind::Failed,
        TaskError {
            code: "provider_failed".into(),
            message: "the provider failed".into(),
            http_status: status,
            retry_after_ms: None,
        },
    )
}

#[tokio::test]
async fn passing_failure_is_not_given_again_but_mended() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let body = chat(PERSONA, json!({}));
    for status in [503, 429] {
        let first = keyed(&stage, KEY, &body);
        worker.take().await.finish(&failed(status)).await;
        error_of(answer_of(first).await, status, "provider_failed").await;
    }
    let again = keyed(&stage, KEY, &body);
    worker.take().await.answer("there you are").await;
    let answer = text(again).await;
    assert_eq!(answer.1, "there you are");
    assert_eq!(text(keyed(&stage, KEY, &body)).await, answer);
}

#[tokio::test]
async fn stream_that_broke_off_begins_again_without_its_old_part() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let body = chat(PERSONA, json!({"stream": true}));
    let first = keyed(&stage, KEY, &body);
    let job = worker.take().await;
    job.say("Part").await;
    let mut events = Events::of(answer_of(first).await);
    events.data().await;
    job.finish(&failed(502)).await;
    ends_in_error(events, "provider_failed").await;
    let again = keyed(&stage, KEY, &body);
    let job = worker.take().await;
    job.say("Whole").await;
    job.end().await;
    assert_eq!(ends_well(Events::of(answer_of(again).await)).await, "Whole");
}

#[tokio::test]
async fn failure_that_would_come_again_is_given_again() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let body = chat(PERSONA, json!({}));
    let first = keyed(&stage, KEY, &body);
    worker.take().await.finish(&failed(400)).await;
    error_of(answer_of(first).await, 400, "provider_failed").await;
    let again = answer_of(keyed(&stage, KEY, &body)).await;
    error_of(again, 400, "provider_failed").await;
}

#[tokio::test]
async fn another_request_with_the_same_key_is_422() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let first = keyed(&stage, KEY, &chat(PERSONA, json!({"seed": 1})));
    let job = worker.take().await;
    let other = answer_of(keyed(&stage, KEY, &chat(PERSONA, json!({"seed": 2})))).await;
    error_of(other, 422, "idempotency_key_reused").await;
    job.answer("ok").await;
    text(first).await;
    let other = answer_of(keyed(
        &stage,
        KEY,
        &chat(PERSONA, json!({"stream": true, "seed": 1})),
    ))
    .await;
    error_of(other, 422, "idempotency_key_reused").await;
}

#[tokio::test]
async fn key_of_another_principal_is_another_key() {
    let stage = Stage::start().await;
    write_key(stage.keys.path(), "mallory", "other", &[NAMESPACE]);
    eventually("the key", async || {
        let models = stage
            .client
            .get(stage.url("/v1/models"))
            .bearer_auth("other");
        answer_of(spawn(models)).await.status() == 200
    })
    .await;
    let worker = stage.worker().await;
    let body = chat(PERSONA, json!({}));
    let first = keyed(&stage, KEY, &body);
    worker.take().await.answer("for alice").await;
    let (id, words) = text(first).await;
    assert_eq!(words, "for alice");
    let second = keyed(&stage, "other", &body);
    worker.take().await.answer("for mallory").await;
    let (other, words) = text(second).await;
    assert_eq!(words, "for mallory");
    assert_ne!(id, other);
}
