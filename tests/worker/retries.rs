//! What becomes of a task whose provider fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use persona_operator::api::Provider;
use persona_operator::api::runtime::PersonaConfig;
use persona_operator::queue::task::OutcomeKind;

use crate::faults::config;
use crate::fixture::{Fixture, Running};
use crate::upstream::{Step, Upstream, answer, says, stream_head, token};

/// A model that answers its first requests with `first`, and then as it should.
async fn recovering(first: Vec<Vec<Step>>) -> Upstream {
    let asked = AtomicUsize::new(0);
    Upstream::start(move |_| {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        first
            .get(number)
            .cloned()
            .unwrap_or_else(|| says(&["Hello"]))
    })
    .await
}

fn busy() -> Vec<Step> {
    answer(503, "", r#"{"error":"overloaded"}"#)
}

/// A worker, and a persona with that many attempts.
async fn serving(model: &Upstream, max_attempts: u32) -> (Fixture, Running) {
    let fixture = Fixture::new().await;
    let persona = PersonaConfig {
        max_attempts,
        ..config(Provider::OpenAICompatible, model.base_url())
    };
    fixture.persona_as("helper", persona).await;
    let worker = fixture.worker("a").await;
    (fixture, worker)
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_after_a_pause() {
    let model = recovering(vec![busy(), busy()]).await;
    let (fixture, worker) = serving(&model, 3).await;
    for stream in [false, true] {
        let task = fixture.ask("helper", stream).await;
        let outcome = fixture.outcome(&task).await;
        assert_eq!(outcome.outcome, OutcomeKind::Completed);
    }
    assert_eq!(model.counts().requests, 4);
    let count = async |result| worker.metric("persona_attempts_total", &[result]).await;
    assert_eq!(count("provider_failed").await, 2.0);
    assert_eq!(count("completed").await, 2.0);
    assert_eq!(
        worker.metric("persona_tasks_total", &["completed"]).await,
        2.0
    );
}

#[tokio::test]
async fn the_last_attempts_error_is_the_outcome_in_the_providers_words() {
    let model = Upstream::always(busy()).await;
    let (fixture, worker) = serving(&model, 2).await;
    let task = fixture.ask("helper", false).await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.outcome, OutcomeKind::Failed);
    let error = outcome.error.expect("an error");
    assert_eq!(
        (error.http_status, error.code.as_str()),
        (503, "provider_failed")
    );
    assert!(error.message.contains("overloaded"), "{}", error.message);
    assert_eq!(model.counts().requests, 2);
    assert_eq!(fixture.queue.dead_letters().await.expect("reads"), 0);
    assert_eq!(worker.metric("persona_tasks_total", &["failed"]).await, 1.0);
}

#[tokio::test]
async fn a_request_that_the_provider_rejects_is_not_repeated() {
    let body = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    let model = Upstream::always(answer(400, "", body)).await;
    let (fixture, _worker) = serving(&model, 3).await;
    let task = fixture.ask("helper", false).await;
    let error = fixture.outcome(&task).await.error.expect("an error");
    assert_eq!(
        (error.http_status, error.code.as_str()),
        (400, "context_length_exceeded")
    );
    assert_eq!(model.counts().requests, 1);
}

#[tokio::test]
async fn a_rate_limit_burns_no_attempt_and_holds_the_persona_off() {
    let limited = answer(
        429,
        "retry-after: 1\r\n",
        r#"{"error":{"message":"slow down"}}"#,
    );
    let model = recovering(vec![limited.clone(), limited]).await;
    let (fixture, _worker) = serving(&model, 1).await;
    let asked = Instant::now();
    let task = fixture.ask("helper", false).await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.outcome, OutcomeKind::Completed);
    assert!(
        asked.elapsed() >= Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(model.counts().requests, 3);
    assert_eq!(
        fixture.output(&task).await.expect("there").failed_attempts,
        0
    );
}

#[tokio::test]
async fn a_rate_limit_of_no_time_is_no_loop() {
    let limited = answer(429, "retry-after: 0\r\n", "");
    let model = recovering(vec![limited; 3]).await;
    let (fixture, _worker) = serving(&model, 1).await;
    let asked = Instant::now();
    let task = fixture.ask("helper", false).await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.outcome, OutcomeKind::Completed);
    // Three times half a second, at the least.
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    assert_eq!(model.counts().requests, 4);
}

#[tokio::test]
async fn a_rate_limit_beyond_the_deadline_is_the_outcome() {
    let limited = answer(
        429,
        "retry-after: 60\r\n",
        r#"{"error":{"message":"slow down"}}"#,
    );
    let model = Upstream::always(limited).await;
    let (fixture, _worker) = serving(&model, 3).await;
    let task = fixture
        .ask_as("helper", &crate::fixture::request(), |task| {
            task.deadline = Duration::from_secs(20)
        })
        .await;
    let error = fixture.outcome(&task).await.error.expect("an error");
    assert_eq!(
        (error.http_status, error.retry_after_ms),
        (429, Some(60_000))
    );
}

#[tokio::test]
async fn a_stream_that_breaks_after_its_first_token_ends_once_and_is_not_repeated() {
    let broken = vec![stream_head("text/event-stream"), token("Hel")];
    let model = recovering(vec![broken]).await;
    let (fixture, _worker) = serving(&model, 3).await;
    let task = fixture.ask("helper", true).await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.outcome, OutcomeKind::Failed);
    let error = outcome.error.expect("an error");
    assert_eq!(
        (error.http_status, error.code.as_str()),
        (502, "provider_truncated")
    );
    assert_eq!(fixture.text(&task).await, "Hel");
    // The next task is served, and nobody has asked for this one again.
    let next = fixture.ask("helper", false).await;
    assert_eq!(fixture.outcome(&next).await.outcome, OutcomeKind::Completed);
    assert_eq!(model.counts().requests, 2);
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_is_repeated_and_not_spliced() {
    let broken = vec![stream_head("text/event-stream"), token("Bro")];
    let model = recovering(vec![broken]).await;
    let (fixture, _worker) = serving(&model, 2).await;
    let task = fixture.ask("helper", false).await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.content.as_deref(), Some("Hello"));
    assert_eq!(model.counts().requests, 2);
}

#[tokio::test]
async fn a_task_has_its_personas_time_whatever_the_provider_does() {
    let ping = Step::Drip(": ping\n\n", Duration::from_millis(5));
    let model = Upstream::always(vec![stream_head("text/event-stream"), ping]).await;
    let fixture = Fixture::new().await;
    let persona = PersonaConfig {
        timeout_ms: 2000,
        ..config(Provider::OpenAICompatible, model.base_url())
    };
    fixture.persona_as("helper", persona).await;
    let worker = fixture.worker("a").await;
    let both = [
        fixture.ask("helper", false).await,
        fixture.ask("helper", true).await,
    ];
    for task in both {
        let outcome = fixture.outcome(&task).await;
        assert_eq!(outcome.outcome, OutcomeKind::Failed);
        let error = outcome.error.expect("an error");
        assert_eq!((error.http_status, error.code.as_str()), (504, "timeout"));
    }
    model.until("hung up", |counts| counts.given_up == 2).await;
    assert_eq!(model.counts().requests, 2);
    assert_eq!(
        worker.metric("persona_attempts_total", &["timeout"]).await,
        2.0
    );
}
