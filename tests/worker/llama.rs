//! Adapters on a real llama.cpp server, through a worker.

use persona_operator::api::runtime::PersonaConfig;
use persona_operator::api::{Adapter, ModelServerKind, Provider};
use serde_json::{Value, json};
use testbed::{ModelOptions, ModelServer};

use crate::faults::config;
use crate::fixture::{Fixture, Running, eventually, payload};

/// By persona: the number of its adapter.
const PERSONAS: [(&str, Option<usize>); 3] = [("plain", None), ("one", Some(0)), ("two", Some(1))];
/// To which the three give answers that differ in tokens that are no near choice.
const QUESTIONS: [&str; 2] = ["Say hello.", "Hello!"];

fn asked(question: &str) -> Value {
    let messages = json!([{"role": "user", "content": question}]);
    payload(json!({"messages": messages, "max_tokens": 12, "temperature": 0, "seed": 1}))
}

async fn server(adapters: &[std::path::PathBuf]) -> ModelServer {
    let options = ModelOptions {
        adapters: adapters.to_vec(),
        ..ModelOptions::default()
    };
    ModelServer::start(options).await.expect("a model server")
}

/// A worker beside the server, and personas of it.
async fn worker(fixture: &Fixture, server: &ModelServer, files: &[std::path::PathBuf]) -> Running {
    for (name, adapter) in PERSONAS {
        let adapter = adapter.map(|number| Adapter {
            name: name.to_owned(),
            source: files[number].display().to_string(),
        });
        let config = PersonaConfig {
            endpoint: None,
            // llama.cpp closes idle connections: a request that meets that is tried again.
            max_attempts: 3,
            adapter,
            ..config(Provider::OpenAICompatible, String::new())
        };
        fixture.persona_as(name, config).await;
    }
    let mut options = fixture.options("a");
    options.model_endpoint = Some(server.base_url());
    options.model_server = Some(ModelServerKind::LlamaCpp);
    options.slots = 4;
    fixture.worker_with(options).await
}

async fn answer(fixture: &Fixture, task: &str) -> String {
    let outcome = fixture.outcome(task).await;
    outcome
        .content
        .unwrap_or_else(|| panic!("{:?}", outcome.error))
}

/// What a server says that has this adapter alone, switched on by itself, or none.
struct Alone {
    text: String,
    /// Its beginning, up to the first token that another one nearly replaced: sums of numbers depend
    /// on what is computed beside them, and turn such a token over, with or without a cache.
    sure: String,
}

/// Nearer than this to the next best token (difference of the logarithms), a token may turn over.
const MARGIN: f64 = 0.3;

async fn alone(file: Option<&std::path::PathBuf>, question: &str) -> Alone {
    let files: Vec<_> = file.into_iter().cloned().collect();
    let server = server(&files).await;
    let mut body = asked(question)["request"].clone();
    body["cache_prompt"] = false.into();
    body["logprobs"] = true.into();
    body["top_logprobs"] = 2.into();
    if file.is_some() {
        body["lora"] = json!([{"id": 0, "scale": 1.0}]);
    }
    let client = reqwest::Client::new();
    let url = format!("{}/chat/completions", server.base_url());
    let sent = client.post(url).header("content-type", "application/json");
    let said = sent.body(body.to_string()).send().await.expect("answers");
    let said: Value = serde_json::from_str(&said.text().await.expect("text")).expect("JSON");
    let choice = &said["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().expect("tokens");
    let margin = |token: &Value| {
        let logprob = |rank: usize| token["top_logprobs"][rank]["logprob"].as_f64();
        logprob(0).expect("the best") - logprob(1).expect("the next")
    };
    let sure = tokens.iter().take_while(|token| margin(token) > MARGIN);
    Alone {
        text: choice["message"]["content"]
            .as_str()
            .expect("text")
            .to_owned(),
        sure: sure
            .map(|token| token["token"].as_str().expect("text"))
            .collect(),
    }
}

#[tokio::test]
async fn each_persona_has_the_answers_of_its_own_adapter_beside_all_others() {
    let fixture = Fixture::new().await;
    let files = testbed::adapters().await.expect("adapters");
    let mut expected = Vec::new();
    for question in QUESTIONS {
        let first = expected.len();
        for (name, adapter) in PERSONAS {
            let file = adapter.map(|number| &files[number]);
            expected.push((name, question, alone(file, question).await));
        }
        let sure: Vec<_> = expected[first..].iter().map(|(_, _, a)| &a.sure).collect();
        for (one, other) in [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)] {
            let differ = !sure[one].starts_with(sure[other].as_str());
            assert!(differ, "{question}: the adapters do not differ: {sure:?}");
        }
    }
    let server = server(&files).await;
    let worker = worker(&fixture, &server, &files).await;
    // One after the other: in each slot another adapter's cache, and the whole answer is the same.
    for _ in 0..2 {
        for (name, question, alone) in &expected {
            let task = fixture.ask_as(name, &asked(question), |_| {}).await;
            assert_eq!(
                answer(&fixture, &task).await,
                alone.text,
                "{name}: {question}"
            );
        }
    }
    let mut tasks = Vec::new();
    for _ in 0..4 {
        for (name, question, alone) in &expected {
            let task = fixture.ask_as(name, &asked(question), |_| {}).await;
            tasks.push((task, name, question, alone));
        }
    }
    for (task, name, question, alone) in tasks {
        let text = answer(&fixture, &task).await;
        assert!(
            text.starts_with(&alone.sure),
            "{name}: {question} {text:?}, not {:?}",
            alone.sure
        );
    }
    assert_eq!(worker.metric("persona_adapters_loaded", &[]).await, 2.0);
}

#[tokio::test]
async fn an_adapter_that_llama_cpp_lacks_fails_its_own_persona_only() {
    let fixture = Fixture::new().await;
    let files = testbed::adapters().await.expect("adapters");
    let server = server(&files[..1]).await;
    let _worker = worker(&fixture, &server, &files).await;
    let without = fixture.ask_as("two", &asked("hi"), |_| {}).await;
    let with = fixture.ask_as("one", &asked("hi"), |_| {}).await;
    let error = eventually("a failure", async || fixture.outcome(&without).await.error).await;
    assert_eq!(error.code, "adapter_not_loaded");
    assert!(error.message.contains("was started without"), "{error:?}");
    answer(&fixture, &with).await;
}
