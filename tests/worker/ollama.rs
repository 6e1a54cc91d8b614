//! Ollama beside a worker, by a stand-in for the API that it documents (docs/api.md: `/api/chat` as lines of
//! JSON, `/api/ps`, errors as `{"error": …}`): one model in memory at a time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use persona_operator::api::runtime::PersonaConfig;
use persona_operator::api::{ModelServerKind, Provider};
use persona_operator::queue::task::OutcomeKind;
use persona_operator::worker::Options;
use serde_json::{Value, json};
use testbed::upstream::{Received, Step, Upstream, answer, stream_head};

use crate::faults::config;
use crate::fixture::Fixture;

/// How long an answer takes: longer than the worker needs to hear what is loaded.
const ANSWERS: Duration = Duration::from_millis(150);
const PULLED: [&str; 2] = ["small:1b", "large:latest"];

#[derive(Default)]
struct State {
    loaded: Option<String>,
    swaps: usize,
}

impl State {
    fn answer(&mut self, request: &Received) -> Vec<Step> {
        let json = "content-type: application/json\r\n";
        match request.head.split(' ').nth(1).unwrap_or_default() {
            "/api/ps" => {
                let models = self.loaded.iter().map(|name| {
                    json!({"name": name, "model": name, "size": 1, "size_vram": 1,
                        "expires_at": "2318-03-17T00:00:00Z"})
                });
                answer(
                    200,
                    json,
                    &json!({"models": models.collect::<Vec<_>>()}).to_string(),
                )
            }
            "/api/version" => answer(200, json, &json!({"version": "0.12.6"}).to_string()),
            "/api/chat" => self.chat(request.body["model"].as_str().unwrap_or_default()),
            _ => answer(404, "", "404 page not found"),
        }
    }

    fn chat(&mut self, model: &str) -> Vec<Step> {
        let name = match model.contains(':') {
            true => model.to_owned(),
            false => format!("{model}:latest"),
        };
        if !PULLED.contains(&name.as_str()) {
            let error = json!({"error": format!("model '{model}' not found")});
            return answer(
                404,
                "content-type: application/json\r\n",
                &error.to_string(),
            );
        }
        if self.loaded.as_ref() != Some(&name) {
            self.loaded = Some(name);
            self.swaps += 1;
        }
        let line = |value: Value| Step::Send(format!("{value}\n"));
        let common = |content: &str, done: bool| {
            json!({"model": model, "created_at": "2026-01-01T00:00:00Z", "done": done,
                "message": {"role": "assistant", "content": content}})
        };
        let mut last = common("", true);
        last["done_reason"] = "stop".into();
        last["eval_count"] = 1.into();
        last["prompt_eval_count"] = 1.into();
        vec![
            stream_head("application/x-ndjson"),
            line(common("by ", false)),
            Step::Pause(ANSWERS),
            line(common(model, false)),
            line(last),
        ]
    }
}

fn model(name: &str) -> PersonaConfig {
    PersonaConfig {
        endpoint: None,
        model: name.to_owned(),
        max_attempts: 1,
        ..config(Provider::Ollama, String::new())
    }
}

#[tokio::test]
async fn ollama_swaps_its_models_seldom_because_requests_for_what_is_loaded_go_first() {
    let fixture = Fixture::new().await;
    let state: Arc<Mutex<State>> = Arc::default();
    let shared = state.clone();
    let server = Upstream::start(move |request| shared.lock().expect("no panic").answer(request));
    let server = server.await;
    let personas = [
        ("a", "small:1b", "model/small:1b"),
        ("b", "large", "model/large:latest"),
    ];
    for (persona, name, needs) in personas {
        fixture.route_needs(persona, needs, &model(name)).await;
    }
    let mut tasks = Vec::new();
    for _ in 0..12 {
        for (persona, name, _) in personas {
            tasks.push((name, fixture.ask(persona, false).await));
        }
    }
    let options = Options {
        model_endpoint: Some(server.root_url()),
        model_server: Some(ModelServerKind::Ollama),
        slots: 1,
        ..fixture.options("w")
    };
    let worker = fixture.worker_with(options).await;
    for (name, task) in tasks {
        let outcome = fixture.outcome(&task).await;
        assert_eq!(outcome.outcome, OutcomeKind::Completed, "{outcome:?}");
        assert_eq!(outcome.content.expect("text"), format!("by {name}"));
    }
    let swaps = state.lock().expect("no panic").swaps;
    assert!(swaps <= 8, "{swaps} of 24 requests, in turn it would be 24");
    let loaded = |worker: &persona_operator::queue::stats::WorkerStats| worker.loaded.len() == 1;
    fixture.until_worker("w", "what is loaded", loaded).await;
    worker.stopped().await.expect("ends");
}

#[tokio::test]
async fn a_model_that_ollama_does_not_have_is_said_in_its_words() {
    let fixture = Fixture::new().await;
    let server = Upstream::start(|request| State::default().answer(request)).await;
    fixture.route_needs("a", "", &model("absent")).await;
    let options = Options {
        model_endpoint: Some(server.root_url()),
        model_server: Some(ModelServerKind::Ollama),
        ..fixture.options("w")
    };
    let worker = fixture.worker_with(options).await;
    let task = fixture.ask("a", false).await;
    let error = fixture.outcome(&task).await.error.expect("an error");
    assert!(
        error.message.contains("model 'absent' not found"),
        "{error:?}"
    );
    worker.stopped().await.expect("ends");
}
