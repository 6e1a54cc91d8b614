//! Answers of a worker, from the queue to the provider and back.

use std::time::{Duration, Instant};

use persona_operator::api::runtime::{PLAIN_LANE, PersonaConfig};
use persona_operator::api::{Generation, Provider, SecretKeyRef};
use persona_operator::queue::submit::TaskState;
use persona_operator::queue::task::{Duties, OutcomeKind, Usage};
use serde_json::json;

use crate::faults::config;
use crate::fixture::{Fixture, POOL, eventually, payload};
use crate::upstream::{Gate, Step, Upstream, done, says, says_at, stream_head, token};

fn openai(endpoint: String) -> PersonaConfig {
    config(Provider::OpenAICompatible, endpoint)
}

#[tokio::test]
async fn a_whole_answer_comes_with_text_reason_and_usage() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["Hel", "lo"])).await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.outcome, OutcomeKind::Completed);
    assert_eq!(outcome.content.as_deref(), Some("Hello"));
    assert_eq!(outcome.finish_reason.as_deref(), Some("stop"));
    let usage = Usage {
        input_tokens: 5,
        output_tokens: 2,
    };
    assert_eq!(outcome.usage, Some(usage));
    assert_eq!(fixture.text(&task).await, "", "nothing was streamed");
}

#[tokio::test]
async fn a_streamed_answer_comes_in_pieces_and_only_once() {
    let fixture = Fixture::new().await;
    let seen = Gate::default();
    let model = Upstream::always(says_at(&seen, ["Hel", "lo"])).await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", true).await;
    eventually("the first token, before the end", async || {
        let output = fixture.output(&task).await?;
        (output.state == TaskState::Running && !output.entries.is_empty()).then_some(())
    })
    .await;
    seen.open();
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.outcome, OutcomeKind::Completed);
    assert_eq!(
        (
            outcome.content,
            outcome.usage.map(|usage| usage.output_tokens)
        ),
        (None, Some(2))
    );
    assert_eq!(fixture.text(&task).await, "Hello");
    assert_eq!(fixture.output(&task).await.expect("there").entries.len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_too_large_fails_and_is_not_repeated() {
    let fixture = Fixture::new().await;
    let piece = "x".repeat(64 << 10);
    let model = Upstream::always(says(&vec![piece.as_str(); 320])).await;
    let persona = PersonaConfig {
        max_attempts: 3,
        ..openai(model.base_url())
    };
    fixture.persona_as("helper", persona).await;
    let _worker = fixture.worker("a").await;
    for stream in [false, true] {
        let task = fixture.ask("helper", stream).await;
        let outcome = fixture.outcome(&task).await;
        assert_eq!(
            (outcome.outcome, outcome.content),
            (OutcomeKind::Failed, None)
        );
        let error = outcome.error.expect("an error");
        assert_eq!(error.code, "provider_too_large");
        assert!(error.message.contains("4194304 bytes"), "{}", error.message);
        let streamed = fixture.text(&task).await.len();
        assert!(streamed <= 4 << 20, "{streamed}");
    }
    assert_eq!(model.counts().requests, 2);
}

#[tokio::test]
async fn many_small_pieces_travel_together() {
    let fixture = Fixture::new().await;
    let pieces = vec!["x"; 500];
    let model = Upstream::always(says(&pieces)).await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", true).await;
    fixture.outcome(&task).await;
    assert_eq!(fixture.text(&task).await.len(), 500);
    let entries = fixture.output(&task).await.expect("there").entries.len();
    assert!(entries < 50, "{entries}");
}

#[tokio::test]
async fn instructions_settings_and_credential_reach_the_provider() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["x"])).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("openai")).expect("a folder");
    std::fs::write(folder.path().join("openai/key"), "sk-1\n").expect("a file");
    let mut persona = openai(model.base_url());
    persona.instructions = "Be brief.".into();
    persona.generation_settings = Generation {
        temperature: Some(0.2),
        ..Generation::default()
    };
    persona.api_key = Some(SecretKeyRef {
        name: "openai".into(),
        key: "key".into(),
    });
    fixture.persona_as("helper", persona).await;
    let mut options = fixture.options("a");
    options.credentials_dir = folder.path().to_owned();
    let _worker = fixture.worker_with(options).await;
    let task = fixture.ask("helper", false).await;
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    let received = model.received().remove(0);
    assert_eq!(
        received.body["messages"][0],
        json!({"role": "system", "content": "Be brief."})
    );
    assert_eq!(received.body["messages"][1]["content"], "hi");
    assert_eq!(received.body["temperature"], 0.2);
    assert_eq!(received.body["model"], "tiny");
    assert!(
        received.head.contains("authorization: Bearer sk-1"),
        "{}",
        received.head
    );
}

#[tokio::test]
async fn a_changed_persona_answers_with_its_new_configuration() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["x"])).await;
    let mut persona = openai(model.base_url());
    let _worker = fixture.worker("a").await;
    fixture.persona_as("helper", persona.clone()).await;
    let task = fixture.ask("helper", false).await;
    fixture.outcome(&task).await;
    persona.generation = 2;
    persona.model = "large".into();
    fixture.persona_as("helper", persona.clone()).await;
    let task = fixture.ask("helper", false).await;
    fixture.outcome(&task).await;
    // Deleted and made again, it begins at generation 1 once more.
    fixture
        .queue
        .remove("helper", "uid-helper", "deleted")
        .await
        .expect("removes");
    persona.generation = 1;
    persona.model = "third".into();
    fixture
        .route_as("helper", "another", POOL, PLAIN_LANE, &persona)
        .await;
    let task = fixture.ask("helper", false).await;
    fixture.outcome(&task).await;
    let models: Vec<_> = model
        .received()
        .iter()
        .map(|received| received.body["model"].clone())
        .collect();
    assert_eq!(models, ["tiny", "large", "third"]);
}

#[tokio::test]
async fn as_many_tasks_run_at_once_as_there_are_slots() {
    let fixture = Fixture::new().await;
    let model = Upstream::start(|_| {
        let mut steps = vec![Step::Pause(Duration::from_millis(50))];
        steps.extend(says(&["x"]));
        steps
    })
    .await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let mut tasks = Vec::new();
    for _ in 0..10 {
        tasks.push(fixture.ask("helper", false).await);
    }
    for task in &tasks {
        assert_eq!(fixture.outcome(task).await.outcome, OutcomeKind::Completed);
    }
    assert_eq!((model.counts().requests, model.counts().most), (10, 2));
}

#[tokio::test]
async fn an_idle_worker_begins_within_milliseconds() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["x"])).await;
    fixture.persona("helper", model.base_url()).await;
    let worker = fixture.worker("a").await;
    let mut took = Vec::new();
    for _ in 0..21 {
        let asked = Instant::now();
        let task = fixture.ask("helper", false).await;
        fixture.outcome(&task).await;
        took.push(asked.elapsed());
    }
    // Most of them: a machine may stand still once in a while.
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!("median: {median:?}");
    assert!(
        median < Duration::from_millis(900),
        "it waits for its next look: {took:?}"
    );
    let waits = worker.metric("persona_task_wait_seconds_count", &[]).await;
    assert_eq!(waits, 21.0);
}

#[tokio::test]
async fn a_cancelled_task_hangs_up_at_once() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("Hel"),
        Step::Hang,
    ])
    .await;
    fixture.persona("helper", model.base_url()).await;
    let worker = fixture.worker("a").await;
    for stream in [true, false] {
        let before = model.counts();
        let task = fixture.ask("helper", stream).await;
        model
            .until("asked", |counts| counts.requests > before.requests)
            .await;
        let cancelled = Instant::now();
        fixture.queue.cancel(&task).await.expect("cancels");
        model
            .until("hung up", |counts| counts.given_up > before.given_up)
            .await;
        let took = cancelled.elapsed();
        println!("hung up after {took:?}");
        // Its next heartbeat, 5 s after the last one, would tell it too.
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Cancelled);
    }
    let sweep = fixture.queue.reap(10).await.expect("reaps");
    assert_eq!(sweep.ended, [(OutcomeKind::Cancelled, 2)]);
    let attempts = worker.metric("persona_attempts_total", &["stopped"]).await;
    assert_eq!(attempts, 2.0);
}

#[tokio::test]
async fn tool_calls_are_merged_into_the_whole_form() {
    let fixture = Fixture::new().await;
    let delta = |delta: serde_json::Value| {
        let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": [delta]}}]});
        Step::Send(format!("data: {chunk}\n\n"))
    };
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        delta(json!({"index": 0, "id": "c", "type": "function", "function": {"name": "add", "arguments": ""}})),
        delta(json!({"index": 0, "function": {"arguments": "{\"a\":"}})),
        delta(json!({"index": 0, "function": {"arguments": "1}"}})),
        done(),
    ])
    .await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    let outcome = fixture.outcome(&task).await;
    let call = json!({"id": "c", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}});
    assert_eq!((outcome.tool_calls, outcome.content), (vec![call], None));
}

#[tokio::test]
async fn what_cannot_be_run_fails_with_a_sentence_that_says_what_to_do() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["x"])).await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    for (request, status, words) in [
        (
            json!({"kind": "telepathy", "request": {}}),
            500,
            "same version",
        ),
        (payload(json!("hi")), 400, "JSON object"),
        (payload(json!({"messages": "hi"})), 400, "`messages`"),
    ] {
        let task = fixture.ask_as("helper", &request, |_| {}).await;
        let outcome = fixture.outcome(&task).await;
        assert_eq!(outcome.outcome, OutcomeKind::Failed);
        let error = outcome.error.expect("an error");
        assert_eq!(error.http_status, status, "{error:?}");
        assert!(error.message.contains(words), "{error:?}");
    }
    assert_eq!(model.counts().requests, 0);
}

#[tokio::test]
async fn a_persona_whose_configuration_is_gone_or_garbled_fails_its_tasks() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["x"])).await;
    let _worker = fixture.worker("a").await;
    for (persona, command, value, status, words) in [
        ("one", "HDEL", None, 404, "create it again"),
        ("two", "HSET", Some("{"), 500, "same version"),
    ] {
        fixture.persona(persona, model.base_url()).await;
        let key = fixture.queue.keys().persona(persona);
        let mut change = redis::cmd(command);
        change.arg(key).arg("config").arg(value);
        fixture.redis(&change).await;
        let task = fixture.ask(persona, false).await;
        let error = fixture.outcome(&task).await.error.expect("an error");
        assert_eq!(error.http_status, status, "{error:?}");
        assert!(error.message.contains(words), "{error:?}");
    }
}

#[tokio::test]
async fn a_credential_that_is_not_there_fails_its_task_with_its_name() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["x"])).await;
    let mut persona = openai(model.base_url());
    persona.api_key = Some(SecretKeyRef {
        name: "openai".into(),
        key: "key".into(),
    });
    // The worker takes its tasks, as it does for a moment after the file has vanished.
    fixture
        .route_as("helper", "uid", POOL, PLAIN_LANE, &persona)
        .await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    let error = fixture.outcome(&task).await.error.expect("an error");
    assert_eq!(
        (error.code.as_str(), error.http_status),
        ("credential_missing", 503)
    );
    assert!(
        error.message.contains("`key` of Secret `openai`"),
        "{}",
        error.message
    );
    assert_eq!(model.counts().requests, 0);
}

#[tokio::test]
async fn lanes_follow_the_mounted_files() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["x"])).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut persona = openai(model.base_url());
    persona.api_key = Some(SecretKeyRef {
        name: "openai".into(),
        key: "key".into(),
    });
    fixture.persona_as("helper", persona).await;
    let mut options = fixture.options("a");
    options.credentials_dir = folder.path().to_owned();
    let _worker = fixture.worker_with(options).await;
    let task = fixture.ask("helper", false).await;
    assert_eq!(fixture.state(&task).await, TaskState::Queued);
    std::fs::create_dir(folder.path().join("openai")).expect("a folder");
    std::fs::write(folder.path().join("openai/key"), "sk-1").expect("a file");
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    fixture
        .until_worker("a", "its lanes", |worker| worker.lanes.len() == 2)
        .await;
}

#[tokio::test]
async fn an_idle_worker_helps_another_pool_and_keeps_a_slot_for_its_own() {
    let fixture = Fixture::new().await;
    fixture.queue.open("other").await.expect("opens");
    let model = Upstream::always(vec![Step::Hang]).await;
    let own = Upstream::always(says(&["x"])).await;
    fixture
        .route("teacher", "other", &openai(model.base_url()))
        .await;
    fixture.persona("helper", own.base_url()).await;
    let mut options = fixture.options("a");
    options.slots = 3;
    let duties = Duties {
        steal_from: vec!["other".into()],
        ..Duties::default()
    };
    assert!(fixture.queue.assign(POOL, &duties).await.expect("assigns"));
    let _worker = fixture.worker_with(options).await;
    for _ in 0..3 {
        fixture.ask("teacher", false).await;
    }
    model
        .until("two of the other pool", |counts| counts.open == 2)
        .await;
    let task = fixture.ask("helper", false).await;
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    assert_eq!(model.counts().most, 2);
}
