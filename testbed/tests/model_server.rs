//! The model server gives real completions, and stops when told.

use anyhow::{Context, Result};
use futures::StreamExt;
use serde_json::{Value, json};
use testbed::{MODEL_NAME, ModelOptions, ModelServer};

fn question(stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "Say hello to Ada."}]);
    json!({"model": MODEL_NAME, "messages": messages, "max_tokens": 12, "stream": stream})
}

fn client() -> reqwest::Client {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    reqwest::Client::new()
}

#[tokio::test]
async fn completion_has_text_and_usage() -> Result<()> {
    let server = ModelServer::start(ModelOptions::default()).await?;
    let url = format!("{}/chat/completions", server.base_url());
    let answer: Value = client()
        .post(url)
        .json(&question(false))
        .send()
        .await?
        .json()
        .await?;
    let text = answer["choices"][0]["message"]["content"]
        .as_str()
        .context("no content")?;
    assert!(!text.trim().is_empty(), "{answer}");
    assert_eq!(answer["model"], MODEL_NAME);
    let tokens = answer["usage"]["completion_tokens"]
        .as_f64()
        .context("no usage")?;
    assert!(tokens <= 12.0);
    assert!((server.metric("tokens_predicted_total").await? - tokens).abs() < 0.5);
    server.stop().await
}

#[tokio::test]
async fn stream_comes_in_pieces_and_ends_with_done() -> Result<()> {
    let server = ModelServer::start(ModelOptions::default()).await?;
    let url = format!("{}/chat/completions", server.base_url());
    let mut body = client()
        .post(url)
        .json(&question(true))
        .send()
        .await?
        .bytes_stream();
    let mut text = String::new();
    while let Some(bytes) = body.next().await {
        text.push_str(std::str::from_utf8(&bytes?)?);
    }
    let events: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert!(events.len() > 3, "{text}");
    assert_eq!(events.last(), Some(&"[DONE]"));
    server.stop().await
}

#[tokio::test]
async fn stopped_server_is_not_reachable() -> Result<()> {
    let server = ModelServer::start(ModelOptions::default()).await?;
    let url = format!("{}/models", server.base_url());
    assert!(client().get(&url).send().await?.status().is_success());
    server.stop().await?;
    let error = client().get(&url).send().await.expect_err("still served");
    assert!(error.is_connect(), "{error}");
    Ok(())
}

#[tokio::test]
async fn unusable_address_is_reported_with_the_servers_words() {
    let bind = [192, 0, 2, 77].into();
    let options = ModelOptions {
        bind,
        ..ModelOptions::default()
    };
    let error = ModelServer::start(options)
        .await
        .expect_err("bound to a foreign address");
    assert!(format!("{error:#}").contains("did not start"), "{error:#}");
}
