//! Each fault of a provider is one typed error, and none is taken for an answer.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use persona_operator::{
    api::{Generation, Provider, runtime::PersonaConfig},
    provider::{Call, End, Event, Limits, ProviderError, Providers, Retry, Usage},
};
use serde_json::json;

use crate::upstream::{Step, Upstream, answer, done, says, stream_head, token};

pub fn config(provider: Provider, endpoint: String) -> PersonaConfig {
    PersonaConfig {
        generation: 1,
        provider,
        model: "tiny".into(),
        endpoint: Some(endpoint),
        api_key: None,
        adapter: None,
        instructions: String::new(),
        generation_settings: Generation::default(),
        timeout_ms: 60_000,
        max_attempts: 3,
    }
}

pub fn call(provider: Provider, endpoint: String) -> Call {
    let request = json!({"messages": [{"role": "user", "content": "hi"}]});
    Call {
        selection: Default::default(),
        config: Arc::new(config(provider, endpoint)),
        request: request.as_object().expect("an object").clone(),
        credential: None,
        timeout: Duration::from_secs(20),
    }
}

pub fn providers(limits: Limits) -> Providers {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    Providers::new(limits).expect("an HTTP client")
}

/// Text and end of an answer, or the error that ended it and the text before.
pub async fn outcome(limits: Limits, call: Call) -> (String, Result<End, ProviderError>) {
    let providers = providers(limits);
    let provider = providers.of(call.config.provider).expect("served");
    let mut stream = provider.chat(call);
    let mut text = String::new();
    let mut end = None;
    while let Some(event) = stream.next().await {
        assert!(end.is_none(), "something follows the end");
        match event {
            Ok(Event::Delta(delta)) => text.push_str(&delta.content),
            Ok(Event::End(it)) => end = Some(Ok(it)),
            Err(error) => end = Some(Err(error)),
        }
    }
    (text, end.expect("a stream ends with its end or an error"))
}

async fn openai(steps: Vec<Step>) -> (String, Result<End, ProviderError>) {
    let server = Upstream::always(steps).await;
    let call = call(Provider::OpenAICompatible, server.base_url());
    outcome(Limits::default(), call).await
}

async fn ollama(steps: Vec<Step>) -> (String, Result<End, ProviderError>) {
    let server = Upstream::always(steps).await;
    let call = call(Provider::Ollama, server.root_url());
    outcome(Limits::default(), call).await
}

async fn fault(steps: Vec<Step>) -> ProviderError {
    openai(steps).await.1.expect_err("a fault")
}

pub fn sse() -> Step {
    stream_head("text/event-stream; charset=utf-8")
}

fn ndjson() -> Step {
    stream_head("application/x-ndjson")
}

fn line(value: serde_json::Value) -> Step {
    Step::Send(format!("{value}\n"))
}

#[tokio::test]
async fn complete_answers_end_with_reason_and_usage() {
    let usage = Some(Usage {
        input_tokens: 5,
        output_tokens: 2,
    });
    let finish_reason = "stop".to_owned();
    let end = End {
        finish_reason,
        usage,
    };
    let (text, ended) = openai(says(&["Hel", "lo"])).await;
    assert_eq!((text.as_str(), ended), ("Hello", Ok(end.clone())));
    let (text, ended) = ollama(vec![
        ndjson(),
        line(json!({"message": {"content": "Hel"}, "done": false})),
        line(json!({"message": {"content": "lo"}, "done": false})),
        line(json!({"done": true, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 2})),
    ])
    .await;
    assert_eq!((text.as_str(), ended), ("Hello", Ok(end)));
}

#[tokio::test]
async fn a_stream_without_its_end_mark_is_no_answer() {
    let (text, ended) = openai(vec![sse(), token("Hel"), token("lo")]).await;
    assert_eq!(text, "Hello");
    assert_eq!(ended, Err(ProviderError::Truncated("data: [DONE]")));
    let half = line(json!({"message": {"content": "Hel"}, "done": false}));
    let (_, ended) = ollama(vec![ndjson(), half]).await;
    assert_eq!(ended, Err(ProviderError::Truncated("done: true")));
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_answer() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let error = fault(vec![Step::Send(format!("{head}ff\r\ndata: "))]).await;
    assert_eq!(error.reason(), "provider_connection_broken", "{error}");
    assert_eq!(error.retry(), Retry::Attempt { after: None });
    let error = fault(vec![]).await;
    assert_eq!(error.reason(), "provider_connection_broken", "{error}");
}

#[tokio::test]
async fn a_refused_connection_is_retryable() {
    // Nobody else gets it while it is held.
    let free = testbed::net::Port::free().expect("a port");
    let url = format!("http://127.0.0.1:{}/v1", free.number());
    let call = call(Provider::OpenAICompatible, url);
    let error = outcome(Limits::default(), call)
        .await
        .1
        .expect_err("refused");
    assert_eq!(error.reason(), "provider_unreachable", "{error}");
    assert_eq!(error.http_status(), 503);
    assert_eq!(error.retry(), Retry::Attempt { after: None });
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn rate_limits_carry_the_time_to_wait() {
    let body = r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#;
    let error = fault(answer(429, "retry-after: 7\r\n", body)).await;
    let after = Some(Duration::from_secs(7));
    assert_eq!(error.retry(), Retry::RateLimit { after });
    assert_eq!(error.http_status(), 429);
    assert_eq!(error.retry_after(), after);
    assert!(error.to_string().contains("slow down"), "{error}");

    let in_a_minute = jiff::Timestamp::now() + Duration::from_secs(60);
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&in_a_minute)
        .expect("a date");
    let error = fault(answer(429, &format!("Retry-After: {date}\r\n"), body)).await;
    let after = error.retry_after().expect("a time");
    assert!(
        after > Duration::from_secs(30) && after <= Duration::from_secs(60),
        "{after:?}"
    );

    let error = fault(answer(429, "", "")).await;
    assert_eq!(error.retry(), Retry::RateLimit { after: None });
}

#[tokio::test]
async fn an_exhausted_account_is_not_asked_again() {
    let body = r#"{"error":{"message":"no money","code":"insufficient_quota"}}"#;
    let error = fault(answer(429, "", body)).await;
    assert_eq!(error.retry(), Retry::Never);
    assert_eq!(error.code(), "insufficient_quota");
}

#[tokio::test]
async fn server_errors_are_retryable_with_the_servers_words() {
    let error = fault(answer(
        503,
        "retry-after: 2\r\n",
        r#"{"error":"overloaded"}"#,
    ))
    .await;
    let after = Some(Duration::from_secs(2));
    assert_eq!(error.retry(), Retry::Attempt { after });
    assert!(error.to_string().contains("overloaded"), "{error}");
    let error = fault(answer(500, "", "<html>oops</html>")).await;
    assert_eq!(error.retry(), Retry::Attempt { after: None });
    assert_eq!(error.http_status(), 503);
}

#[tokio::test]
async fn requests_that_the_provider_rejects_keep_its_status_and_code() {
    let body = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    let error = fault(answer(400, "", body)).await;
    assert_eq!(error.retry(), Retry::Never);
    assert_eq!(
        (error.http_status(), error.code().as_str()),
        (400, "context_length_exceeded")
    );
    assert_eq!(error.to_string(), "too long");
}

#[tokio::test]
async fn wrong_credentials_and_wrong_addresses_are_the_operators_to_mend() {
    for status in [401, 403] {
        let body = r#"{"error":{"message":"Incorrect API key provided: sk-abc***xyz"}}"#;
        let error = fault(answer(status, "", body)).await;
        assert_eq!(error, ProviderError::Unauthorized(status));
        assert_eq!((error.http_status(), error.retry()), (502, Retry::Never));
        assert!(!error.to_string().contains("sk-"), "{error}");
        assert!(error.to_string().contains("apiKeySecretRef"), "{error}");
    }
    let error = fault(answer(404, "", r#"{"error":"model 'tiny' not found"}"#)).await;
    assert_eq!((error.http_status(), error.retry()), (502, Retry::Never));
    assert!(
        error.to_string().contains("model 'tiny' not found"),
        "{error}"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Upstream::always(says(&["stolen"])).await;
    let location = format!("location: {}\r\n", elsewhere.base_url());
    let error = fault(answer(307, &location, "")).await;
    assert_eq!(error.reason(), "provider_not_found", "{error}");
    assert_eq!(elsewhere.counts().connections, 0);
}

#[tokio::test]
async fn an_error_object_in_the_stream_ends_it() {
    let error = Step::Send("data: {\"error\":{\"message\":\"out of memory\"}}\n\n".into());
    let (text, ended) = openai(vec![sse(), token("Hel"), error, done()]).await;
    assert_eq!(text, "Hel");
    assert_eq!(ended, Err(ProviderError::Reported("out of memory".into())));
    let (_, ended) = ollama(vec![ndjson(), line(json!({"error": "runner stopped"}))]).await;
    assert_eq!(ended, Err(ProviderError::Reported("runner stopped".into())));
}

#[tokio::test]
async fn malformed_json_is_no_answer() {
    let bad = Step::Send("data: {\"choices\": [{\n\n".into());
    let error = fault(vec![sse(), bad, done()]).await;
    assert_eq!(error.reason(), "provider_malformed", "{error}");
    let (_, ended) = ollama(vec![ndjson(), Step::Send("{]\n".into())]).await;
    assert_eq!(ended.expect_err("no JSON").reason(), "provider_malformed");
}

#[tokio::test]
async fn another_content_type_is_no_answer() {
    let error = fault(answer(
        200,
        "content-type: text/html\r\n",
        "<html>log in</html>",
    ))
    .await;
    assert_eq!(error.reason(), "provider_content_type", "{error}");
    assert_eq!(error.retry(), Retry::Never);
    assert!(error.to_string().contains("text/html"), "{error}");
    let error = fault(vec![Step::Send(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".into(),
    )])
    .await;
    assert_eq!(error.reason(), "provider_content_type", "{error}");
}
