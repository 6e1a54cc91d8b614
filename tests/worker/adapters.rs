//! Adapters on a server beside a worker that has vLLM's API, as that is documented.

use persona_operator::api::runtime::{PersonaConfig, adapter_item, adapter_lane, served_name};
use persona_operator::api::{Adapter, ModelServerKind, Provider};
use persona_operator::queue::stats::WorkerStats;
use persona_operator::queue::submit::TaskState;
use persona_operator::queue::task::{Outcome, OutcomeKind};
use persona_operator::worker::Options;
use serde_json::json;

use crate::faults::config;
use crate::fixture::{Fixture, POOL, eventually, get};
use crate::process::WorkerProcess;
use crate::upstream::{Upstream, answer, says};
use crate::vllm::Vllm;

/// A persona of the model beside the worker, with an adapter or without.
fn beside(adapter: Option<(&str, &str)>) -> PersonaConfig {
    PersonaConfig {
        endpoint: None,
        adapter: adapter.map(|(name, source)| Adapter {
            name: name.to_owned(),
            source: source.to_owned(),
        }),
        ..config(Provider::OpenAICompatible, String::new())
    }
}

fn options(fixture: &Fixture, server: &Vllm, max_adapters: u32) -> Options {
    Options {
        model_endpoint: Some(server.upstream.base_url()),
        model_server: Some(ModelServerKind::Vllm),
        max_adapters,
        slots: 8,
        ..fixture.options("w")
    }
}

fn text(outcome: &Outcome) -> String {
    assert_eq!(outcome.outcome, OutcomeKind::Completed, "{outcome:?}");
    outcome.content.clone().expect("text")
}

#[tokio::test]
async fn adapters_are_loaded_when_they_are_wanted_and_never_taken_from_a_request() {
    let (fixture, server) = (Fixture::new().await, Vllm::start().await);
    let names = ["a", "b", "c", "d"];
    for name in names {
        let source = format!("/adapters/{name}");
        fixture
            .persona_as(name, beside(Some((name, &source))))
            .await;
    }
    fixture.persona_as("plain", beside(None)).await;
    let worker = fixture.worker_with(options(&fixture, &server, 2)).await;
    let mut asked = Vec::new();
    for round in 0..40 {
        // Not in turn, so that two that are there are wanted together with one that is not.
        let persona = match round % 7 {
            6 => "plain",
            number => names[(number * number + round / 7) % names.len()],
        };
        asked.push((persona, fixture.ask(persona, false).await));
    }
    for (persona, task) in asked {
        let by = if persona == "plain" { "tiny" } else { persona };
        assert_eq!(text(&fixture.outcome(&task).await), format!("by {by}"));
    }
    assert_eq!(server.wrongs(), [""; 0]);
    assert_eq!(server.most(), 2, "no more than it may hold");
    assert!(server.loads().len() >= 4, "{:?}", server.loads());
    assert_eq!(worker.metric("persona_adapters_loaded", &[]).await, 2.0);
    let loads = worker.metric("persona_adapter_loads_total", &["loaded"]);
    assert_eq!(loads.await, server.loads().len() as f64);
    worker.stopped().await.expect("ends");
}

#[tokio::test]
async fn a_server_that_has_lost_its_adapters_gets_them_again() {
    let (fixture, server) = (Fixture::new().await, Vllm::start().await);
    fixture
        .persona_as("a", beside(Some(("a", "/adapters/a"))))
        .await;
    let worker = fixture.worker_with(options(&fixture, &server, 2)).await;
    for _ in 0..2 {
        let task = fixture.ask("a", true).await;
        fixture.outcome(&task).await;
        assert_eq!(fixture.text(&task).await, "by a");
        server.restart();
    }
    assert_eq!(server.loads(), ["a", "a"]);
    worker.stopped().await.expect("ends");
}

#[tokio::test]
async fn what_the_server_held_before_this_worker_is_not_loaded_again() {
    let (fixture, server) = (Fixture::new().await, Vllm::start().await);
    fixture
        .persona_as("a", beside(Some(("a", "/adapters/a"))))
        .await;
    for number in 0..2 {
        let options = Options {
            pod_uid: format!("w{number}"),
            ..options(&fixture, &server, 2)
        };
        let worker = fixture.worker_with(options).await;
        let held = f64::from(number);
        eventually("what it holds", async || {
            let loaded = worker.metric("persona_adapters_loaded", &[]).await;
            (loaded == held).then_some(())
        })
        .await;
        let task = fixture.ask("a", false).await;
        assert_eq!(text(&fixture.outcome(&task).await), "by a");
        worker.stopped().await.expect("ends");
    }
    assert_eq!(server.loads(), ["a"]);
}

#[tokio::test]
async fn an_adapter_that_cannot_be_loaded_fails_its_own_persona_in_the_servers_words() {
    let (fixture, server) = (Fixture::new().await, Vllm::start().await);
    let broken = PersonaConfig {
        max_attempts: 1,
        ..beside(Some(("broken", "/adapters/missing")))
    };
    fixture.persona_as("broken", broken).await;
    fixture
        .persona_as("a", beside(Some(("a", "/adapters/a"))))
        .await;
    let worker = fixture.worker_with(options(&fixture, &server, 1)).await;
    let good = fixture.ask("a", false).await;
    assert_eq!(text(&fixture.outcome(&good).await), "by a");
    let bad = fixture.ask("broken", false).await;
    let error = fixture.outcome(&bad).await.error.expect("an error");
    assert_eq!(error.code, "adapter_not_loaded");
    assert!(
        error
            .message
            .contains("No adapter found for /adapters/missing"),
        "{}",
        error.message
    );
    let good = fixture.ask("a", false).await;
    assert_eq!(text(&fixture.outcome(&good).await), "by a");
    let failed = worker.metric("persona_adapter_loads_total", &["failed"]);
    assert_eq!(failed.await, 1.0);
    worker.stopped().await.expect("ends");
}

#[tokio::test]
async fn adapters_of_one_name_and_different_sources_are_two() {
    let (fixture, server) = (Fixture::new().await, Vllm::start().await);
    for persona in ["one", "two"] {
        let source = format!("/adapters/{persona}");
        fixture
            .persona_as(persona, beside(Some(("v1", &source))))
            .await;
    }
    let worker = fixture.worker_with(options(&fixture, &server, 2)).await;
    for persona in ["one", "two", "one", "two"] {
        let task = fixture.ask(persona, false).await;
        let by = format!("by {persona}");
        assert_eq!(text(&fixture.outcome(&task).await), by);
    }
    assert_eq!(server.loads(), ["one", "two"], "each is loaded once");
    worker.stopped().await.expect("ends");
}

#[tokio::test]
async fn a_load_that_hangs_and_one_in_use_without_end_keep_nobody_waiting() {
    let (fixture, server) = (Fixture::new().await, Vllm::start().await);
    for (name, source) in [
        ("hub", "/adapters/stalls"),
        ("a", "/adapters/a"),
        ("b", "/adapters/b"),
    ] {
        fixture.persona_as(name, beside(Some((name, source)))).await;
    }
    let worker = fixture.worker_with(options(&fixture, &server, 2)).await;
    let stalled = fixture.ask("hub", false).await;
    server
        .upstream
        .until("the load that hangs", |counts| counts.open == 1)
        .await;
    // All slots that are left are a's from now on, until b was answered.
    let mut of_a = Vec::new();
    for _ in 0..14 {
        of_a.push(fixture.ask("a", false).await);
    }
    let b = fixture.ask("b", false).await;
    let mut at = 0;
    eventually("an answer of b's", async || {
        if fixture
            .output(&of_a[at])
            .await
            .is_some_and(|output| output.outcome.is_some())
        {
            of_a.push(fixture.ask("a", false).await);
            at += 1;
        }
        fixture.output(&b).await?.outcome
    })
    .await;
    assert_eq!(text(&fixture.outcome(&b).await), "by b");
    for task in &of_a {
        assert_eq!(text(&fixture.outcome(task).await), "by a");
    }
    assert_eq!(server.wrongs(), [""; 0]);
    assert_eq!(fixture.state(&stalled).await, TaskState::Running);
    drop(worker);
}

#[tokio::test]
async fn a_worker_as_its_pod_starts_it_loads_adapters_too() {
    let (fixture, server) = (Fixture::new().await, Vllm::start().await);
    let health = format!("{}/health", server.upstream.root_url());
    assert_eq!(get(&health).await, (200, String::new()), "as probes ask");
    for name in ["a", "b"] {
        let source = format!("/adapters/{name}");
        fixture
            .persona_as(name, beside(Some((name, &source))))
            .await;
    }
    let endpoint = server.upstream.base_url();
    let settings = [
        ("PERSONA_MODEL_ENDPOINT", endpoint.as_str()),
        ("PERSONA_MODELS", "tiny"),
        ("PERSONA_MODEL_SERVER", ModelServerKind::Vllm.as_str()),
        ("PERSONA_MAX_ADAPTERS", "1"),
    ];
    let _worker = WorkerProcess::start(&fixture, "w", &settings).await;
    for name in ["a", "b", "a"] {
        let task = fixture.ask(name, false).await;
        let by = format!("by {name}");
        assert_eq!(text(&fixture.outcome(&task).await), by);
    }
    assert_eq!(server.loads(), ["a", "b", "a"]);
    assert_eq!((server.most(), server.wrongs()), (1, Vec::new()));
    let adapter = Adapter {
        name: "a".into(),
        source: "/adapters/a".into(),
    };
    let a = adapter_item(&served_name(&adapter));
    let held = move |worker: &WorkerStats| worker.loaded == [a.clone()];
    fixture.until_worker("w", "what it holds", held).await;
}

/// llama.cpp as far as its adapters go: `/lora-adapters` of those that it was started with, and answers
/// that say which one had a scale.
async fn llama(files: &'static [&'static str]) -> Upstream {
    Upstream::start(move |asked| {
        let path = asked.head.split(' ').nth(1).unwrap_or_default();
        if path == "/lora-adapters" {
            let adapter =
                |(id, path): (usize, &&str)| json!({"id": id, "path": path, "scale": 0.0});
            let all: Vec<_> = files.iter().enumerate().map(adapter).collect();
            let json = "content-type: application/json\r\n";
            return answer(200, json, &json!(all).to_string());
        }
        let scales = asked.body["lora"].as_array();
        let on = scales.and_then(|all| all.iter().position(|lora| lora["scale"] == 1.0));
        says(&[on.map_or("base", |place| files[place])])
    })
    .await
}

#[tokio::test]
async fn a_task_waits_for_a_worker_whose_llama_cpp_was_started_with_its_adapter() {
    let fixture = Fixture::new().await;
    let law = PersonaConfig {
        max_attempts: 1,
        ..beside(Some(("law", "lora/law.gguf")))
    };
    let lane = adapter_lane("tiny", "/models/lora/law.gguf");
    fixture.route_as("law", "uid-law", POOL, &lane, &law).await;
    let task = fixture.ask("law", false).await;
    let servers = [
        llama(&["/models/lora/tax.gguf"]).await,
        llama(&["/models/lora/tax.gguf", "/models/lora/law.gguf"]).await,
    ];
    let worker = async |uid: &str, server: &Upstream| {
        let options = Options {
            model_endpoint: Some(server.base_url()),
            model_server: Some(ModelServerKind::LlamaCpp),
            models: vec!["tiny".to_owned()],
            ..fixture.options(uid)
        };
        fixture.worker_with(options).await
    };
    let _without = worker("without", &servers[0]).await;
    let of_tax = adapter_lane("tiny", "/models/lora/tax.gguf");
    let serves = |worker: &WorkerStats| worker.lanes.contains(&of_tax);
    fixture.until_worker("without", "its lanes", serves).await;
    // It takes what it can serve, and leaves the other one alone.
    let tax = beside(Some(("tax", "lora/tax.gguf")));
    fixture
        .route_as("tax", "uid-tax", POOL, &of_tax, &tax)
        .await;
    let other = fixture.ask("tax", false).await;
    assert_eq!(
        text(&fixture.outcome(&other).await),
        "/models/lora/tax.gguf"
    );
    assert_eq!(fixture.state(&task).await, TaskState::Queued);
    let _with = worker("with", &servers[1]).await;
    assert_eq!(text(&fixture.outcome(&task).await), "/models/lora/law.gguf");
    let attempts = fixture.output(&task).await.expect("there").failed_attempts;
    assert_eq!(attempts, 0);
}
