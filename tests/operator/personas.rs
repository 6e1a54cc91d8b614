//! A persona from its manifest to its answer, and to its end.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use persona_operator::api::{Persona, Phase};
use serde_json::{Value, json};

use crate::harness::{Operator, condition, reason, topology};
use crate::upstream::{PATIENCE, Step, Upstream, says};

#[tokio::test]
async fn a_persona_becomes_ready_and_answers_whole_and_streamed() -> Result<()> {
    let model = Upstream::always(says(&["Hello", " you"])).await;
    let operator = Operator::start("answers").await?;
    let more = json!({"instructions": "Be kind.", "generation": {"temperature": 0.2}});
    operator.persona("helper", &model.base_url(), more).await?;
    let helper = operator.ready::<Persona>("helper").await?;
    let status = helper.context("gone")?.status.context("no status")?;
    assert_eq!(status.phase, Some(Phase::PerPersona));
    assert_eq!(operator.answer("helper").await?, "Hello you");
    let asked = model.received().pop().context("nothing was asked")?.body;
    assert_eq!(asked["messages"][0]["content"], "Be kind.");
    assert_eq!(
        (&asked["model"], &asked["temperature"]),
        (&json!("tiny"), &json!(0.2))
    );

    let stream = operator.ask("helper", json!({"stream": true})).await?;
    let text = stream.text().await?;
    let pieces: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .filter_map(|json| serde_json::from_str::<Value>(&format!("{{{json}")).ok())
        .filter_map(|chunk| {
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(pieces, "Hello you");
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    let topology = topology(&operator).await?;
    assert_eq!(condition(&topology, "Stable").as_deref(), Some("True"));
    operator.stop().await
}

#[tokio::test]
async fn a_persona_without_its_secret_waits_alone_and_runs_once_it_is_there() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("secrets").await?;
    let reference = json!({"model": {"apiKeySecretRef": {"name": "openai", "key": "api-key"}}});
    let pinned = json!({"mode": "Generic"});
    operator.share(pinned).await?;
    operator
        .persona("plain", &model.base_url(), json!({}))
        .await?;
    operator
        .persona("keyed", &model.base_url(), reference)
        .await?;
    operator.ready::<Persona>("plain").await?;
    let waits = |found: Option<&Persona>| {
        found.is_some_and(|p| reason(p, "Ready").as_deref() == Some("WaitingForCredential"))
    };
    operator
        .until("keyed", "waiting for its Secret", waits)
        .await?;
    assert_eq!(operator.answer("plain").await?, "Hi", "it harms nobody");

    operator
        .create::<Secret>(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "openai"},
            "stringData": {"api-key": "sk-test"},
        }))
        .await?;
    operator.ready::<Persona>("keyed").await?;
    assert_eq!(operator.answer("keyed").await?, "Hi");
    let head = model.received().pop().context("nothing was asked")?.head;
    assert!(head.contains("Bearer sk-test"), "{head}");
    operator.stop().await
}

#[tokio::test]
async fn waiting_requests_of_a_deleted_persona_end_and_say_why() -> Result<()> {
    let model = Upstream::always(vec![Step::Hang]).await;
    let operator = Operator::start("deleted").await?;
    let one = json!({"queue": {"maxConcurrency": 1}});
    operator.persona("helper", &model.base_url(), one).await?;
    operator.ready::<Persona>("helper").await?;
    let running = operator.ask("helper", json!({"stream": true}));
    let waiting = async {
        model.until("the first request", |c| c.requests == 1).await;
        operator.ask("helper", json!({})).await
    };
    let deleting = async {
        model.until("the first request", |c| c.requests == 1).await;
        let queue = operator.queue()?;
        let both = async {
            loop {
                let stats = queue.persona_stats(&["helper".to_owned()]).await?;
                if stats[0].queued == 1 {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, both).await??;
        operator
            .all::<Persona>()
            .delete("helper", &DeleteParams::default())
            .await?;
        anyhow::Ok(())
    };
    let (_running, waiting, deleted) = tokio::join!(running, waiting, deleting);
    deleted?;
    let refused = waiting?;
    assert_eq!(refused.status(), 404);
    let body: Value = refused.json().await?;
    assert_eq!(body["error"]["code"], "persona_deleted", "{body}");
    operator.stop().await
}

#[tokio::test]
async fn a_flushed_queue_is_filled_again_and_answers() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("flushed").await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    operator.ready::<Persona>("helper").await?;
    assert_eq!(operator.answer("helper").await?, "Hi");
    operator.flush().await?;
    // The gateway holds the request until the persona is published again.
    assert_eq!(operator.answer("helper").await?, "Hi");
    operator.stop().await
}
