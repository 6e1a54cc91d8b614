//! A model server beside the worker that loads its model, or crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use persona_operator::api::runtime::PersonaConfig;
use persona_operator::api::{ModelServerKind, Provider};
use serde_json::json;
use testbed::upstream::{Received, Step, Upstream, answer, says, stream_head, token};

use crate::faults::config;
use crate::fixture::{Fixture, Running, eventually};

const LOADING: u8 = 0;
const UP: u8 = 1;
/// It is up, and the next answer ends in the middle, with the server.
const DYING: u8 = 2;

/// llama.cpp, as far as its life goes: while it loads its model everything but its answers to probes is
/// `503 Loading model`, and so are these.
struct Server {
    upstream: Upstream,
    state: Arc<AtomicU8>,
    /// Answers that it was asked for.
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(first: u8) -> Self {
        let state = Arc::new(AtomicU8::new(first));
        let asked = Arc::new(AtomicUsize::new(0));
        let (now, count) = (state.clone(), asked.clone());
        let upstream = Upstream::start(move |request| play(request, &now, &count)).await;
        Self {
            upstream,
            state,
            asked,
        }
    }

    fn becomes(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A worker beside it with this many slots, and a persona of its model with one attempt.
    async fn worker(&self, fixture: &Fixture, slots: u32) -> Running {
        let persona = PersonaConfig {
            endpoint: None,
            max_attempts: 1,
            ..config(Provider::OpenAICompatible, String::new())
        };
        fixture.persona_as("helper", persona).await;
        let mut options = fixture.options("w");
        options.model_endpoint = Some(self.upstream.base_url());
        options.model_server = Some(ModelServerKind::LlamaCpp);
        options.slots = slots;
        fixture.worker_with(options).await
    }
}

fn play(request: &Received, state: &AtomicU8, asked: &AtomicUsize) -> Vec<Step> {
    let json = "content-type: application/json\r\n";
    let loading = || {
        let error = json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}});
        answer(503, json, &error.to_string())
    };
    let is_up = state.load(Ordering::SeqCst) != LOADING;
    match request.head.split(' ').nth(1).unwrap_or_default() {
        "/health" if is_up => answer(200, json, r#"{"status":"ok"}"#),
        "/lora-adapters" if is_up => answer(200, json, "[]"),
        "/v1/chat/completions" => {
            asked.fetch_add(1, Ordering::SeqCst);
            let dies = state.compare_exchange(DYING, LOADING, Ordering::SeqCst, Ordering::SeqCst);
            match dies {
                // The connection ends without an end mark.
                Ok(_) => vec![stream_head("text/event-stream"), token("He")],
                Err(UP) => says(&["Hello"]),
                Err(_) => loading(),
            }
        }
        _ => loading(),
    }
}

async fn readiness(worker: &Running, code: u16) -> String {
    eventually("readiness", async || {
        let (found, text) = worker.get("/readyz").await;
        (found == code).then_some(text)
    })
    .await
}

async fn all_are_answered(fixture: &Fixture, tasks: &[String]) {
    for task in tasks {
        let outcome = fixture.outcome(task).await;
        assert_eq!(outcome.content.as_deref(), Some("Hello"), "{outcome:?}");
        let output = fixture.output(task).await.expect("there");
        assert_eq!(output.failed_attempts, 0);
    }
}

#[tokio::test]
async fn nothing_is_taken_until_the_model_server_has_its_model() {
    let fixture = Fixture::new().await;
    let server = Server::start(LOADING).await;
    let worker = server.worker(&fixture, 2).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(fixture.ask("helper", false).await);
    }
    let text = readiness(&worker, 503).await;
    assert!(text.contains("model server: it does not answer"), "{text}");
    // It was asked whether it is there, more than once, and for nothing else.
    server
        .upstream
        .until("probes", |counts| counts.requests >= 8)
        .await;
    assert_eq!(server.asked(), 0);
    server.becomes(UP);
    all_are_answered(&fixture, &tasks).await;
    readiness(&worker, 200).await;
}

#[tokio::test]
async fn a_crash_costs_no_request_its_answer_nor_an_attempt() {
    let fixture = Fixture::new().await;
    let server = Server::start(UP).await;
    let worker = server.worker(&fixture, 2).await;
    readiness(&worker, 200).await;
    server.becomes(DYING);
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(fixture.ask("helper", false).await);
    }
    readiness(&worker, 503).await;
    // No more than it has slots for were tried.
    assert!(server.asked() <= 2, "{}", server.asked());
    server.becomes(UP);
    all_are_answered(&fixture, &tasks).await;
    readiness(&worker, 200).await;
    assert!(server.asked() <= 8, "{}", server.asked());
}

#[tokio::test]
async fn a_request_that_crashes_the_server_again_and_again_ends() {
    let fixture = Fixture::new().await;
    let server = Server::start(UP).await;
    let worker = server.worker(&fixture, 1).await;
    server.becomes(DYING);
    let task = fixture.ask("helper", false).await;
    for crash in 1..=2 {
        eventually("a crash", async || (server.asked() == crash).then_some(())).await;
        if crash == 1 {
            readiness(&worker, 503).await;
            server.becomes(DYING);
        }
    }
    let outcome = fixture.outcome(&task).await;
    let error = outcome.error.expect("it fails");
    assert_eq!(error.code, "provider_truncated", "{error:?}");
}
