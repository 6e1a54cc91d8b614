//! The model server gives real completions, and stops when told.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::future::try_join_all;
use serde_json::{Value, json};
use testbed::{MODEL_NAME, ModelOptions, ModelServer, adapters, weights};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

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

/// Scales of the two adapters: the model alone, one, two.
const SELECTIONS: [[f64; 2]; 3] = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]];

/// What the model says to the question under these scales, or with no word about adapters.
async fn said(root: &str, scales: impl Into<Option<[f64; 2]>>) -> Result<String> {
    // Sums are rounded otherwise when other requests share the batch, cache or no cache, and of two words
    // that are almost equally likely the other one may win. Here no choice is close, whatever the adapter.
    let messages = json!([{"role": "user", "content": "Name the capital of France."}]);
    let mut body = json!({"messages": messages, "max_tokens": 8, "temperature": 0});
    if let Some([one, two]) = scales.into() {
        body["lora"] = json!([{"id": 0, "scale": one}, {"id": 1, "scale": two}]);
    }
    let url = format!("{root}/v1/chat/completions");
    let response = client().post(url).json(&body).send().await?;
    let answer: Value = response.error_for_status()?.json().await?;
    let text = answer["choices"][0]["message"]["content"].as_str();
    Ok(text.with_context(|| format!("no text: {answer}"))?.into())
}

async fn said_under_each(root: &str) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for scales in SELECTIONS {
        texts.push(said(root, scales).await?);
    }
    let different: BTreeSet<_> = texts.iter().collect();
    assert_eq!(different.len(), SELECTIONS.len(), "{texts:?}");
    Ok(texts)
}

/// Ids are by order, and none is on where a request does not say so.
async fn assert_loaded_and_off(root: &str) -> Result<()> {
    let response = client().get(format!("{root}/lora-adapters")).send().await?;
    let loaded: Value = response.json().await?;
    for (id, name) in ["one.gguf", "two.gguf"].iter().enumerate() {
        assert_eq!(loaded[id]["id"], id, "{loaded}");
        let path = loaded[id]["path"].as_str().context("no path")?;
        assert!(path.ends_with(name), "{loaded}");
        assert_eq!(loaded[id]["scale"], 0.0, "{loaded}");
    }
    assert_eq!(loaded.as_array().map(Vec::len), Some(2), "{loaded}");
    Ok(())
}

#[tokio::test]
async fn each_choice_of_adapters_has_its_own_text_one_after_another_and_at_once() -> Result<()> {
    let options = ModelOptions {
        adapters: adapters().await?.into(),
        ..ModelOptions::default()
    };
    let server = ModelServer::start(options).await?;
    let root = format!("http://{}", server.address());
    assert_loaded_and_off(&root).await?;
    // Before any request had an adapter, so that no cache of one can be used.
    let unasked = said(&root, None).await?;
    let texts = said_under_each(&root).await?;
    assert_eq!(unasked, texts[0]);
    // Each after each other one, and after itself.
    for which in [0, 1, 0, 2, 1, 1, 2, 2, 0, 0] {
        let text = said(&root, SELECTIONS[which]).await?;
        assert_eq!(text, texts[which], "under {:?}", SELECTIONS[which]);
    }
    // More than the server has slots, so that they change hands.
    let at_once = (0..12).map(|i| said(&root, SELECTIONS[i % 3]));
    for (i, text) in try_join_all(at_once).await?.into_iter().enumerate() {
        assert_eq!(text, texts[i % 3], "under {:?}", SELECTIONS[i % 3]);
    }
    assert_eq!(said_under_each(&root).await?, texts);
    server.stop().await
}

#[tokio::test]
async fn server_of_the_image_takes_adapters_as_llama_server_does() -> Result<()> {
    let [one, two] = adapters().await?.map(|path| path.display().to_string());
    let both = format!("{one},{two}");
    for loras in [vec!["--lora", &one, "--lora", &two], vec!["--lora", &both]] {
        let weights = weights().await?;
        let environment = weights.ancestors().nth(5).context("no environment")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("llama_server.py");
        let mut command = Command::new(environment.join("bin/python"));
        command.arg(script).arg("--model").arg(&weights);
        command.args(["--alias", MODEL_NAME, "--host", "127.0.0.1", "--port", "0"]);
        command.args(["--parallel", "2", "--ctx-size", "1024"]);
        command.args(&loras).arg("--lora-init-without-apply");
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.kill_on_drop(true).spawn()?;
        let stdout = server.stdout.take().context("no stdout")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        let line = line.with_context(|| format!("it ended under {loras:?}"))?;
        let root = line.strip_prefix("listening ").context("where?")?;
        assert_loaded_and_off(root).await?;
        said_under_each(root).await?;
        server.kill().await?;
    }
    Ok(())
}
