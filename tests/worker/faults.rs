//! Each fault of a provider is one typed error, and none is taken for an answer.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use persona_operator::{
    api::{Generation, Provider, runtime::PersonaConfig},
    provider::{Call, Credential, End, Event, Limits, ProviderError, Providers, Retry, Usage},
};
use serde_json::json;

use crate::upstream::{Step, Upstream, answer, done, says, says_and_keeps, stream_head, token};

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

fn call(provider: Provider, endpoint: String) -> Call {
    let request = json!({"messages": [{"role": "user", "content": "hi"}]});
    Call {
        selection: Default::default(),
        config: Arc::new(config(provider, endpoint)),
        request: request.as_object().expect("an object").clone(),
        credential: None,
        timeout: Duration::from_secs(20),
    }
}

fn providers(limits: Limits) -> Providers {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    Providers::new(limits).expect("an HTTP client")
}

/// Text and end of an answer, or the error that ended it and the text before.
async fn outcome(limits: Limits, call: Call) -> (String, Result<End, ProviderError>) {
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

fn sse() -> Step {
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
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let call = call(Provider::OpenAICompatible, format!("http://{address}/v1"));
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

#[tokio::test]
async fn a_line_and_a_body_have_limits() {
    let limits = Limits {
        line_bytes: 1000,
        body_bytes: 3000,
        ..Limits::default()
    };
    let endless = Upstream::always(vec![
        sse(),
        Step::Drip("data: xxxxxxxxxxxxxxxxxx", Duration::ZERO),
    ]);
    let server = endless.await;
    let asked = call(Provider::OpenAICompatible, server.base_url());
    let error = outcome(limits, asked).await.1.expect_err("too long");
    assert!(
        error.to_string().contains("a line of more than 1000"),
        "{error}"
    );

    let multiline = Upstream::always(vec![sse(), Step::Drip("data: xxxxxx\n", Duration::ZERO)]);
    let server = multiline.await;
    let asked = call(Provider::OpenAICompatible, server.base_url());
    let error = outcome(limits, asked).await.1.expect_err("too long");
    assert_eq!(error.reason(), "provider_too_large", "{error}");

    let chatty = Upstream::always(vec![sse(), Step::Drip(": ping\n\n", Duration::ZERO)]).await;
    let asked = call(Provider::OpenAICompatible, chatty.base_url());
    let error = outcome(limits, asked).await.1.expect_err("too long");
    assert!(
        error.to_string().contains("a body of more than 3000"),
        "{error}"
    );
}

#[tokio::test]
async fn silence_in_an_answer_is_not_waited_out() {
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = Upstream::always(vec![sse(), token("Hel"), Step::Hang]).await;
    let asked = call(Provider::OpenAICompatible, server.base_url());
    let (text, ended) = outcome(limits, asked).await;
    assert_eq!(text, "Hel");
    assert_eq!(ended, Err(ProviderError::Stalled(limits.idle)));
    server.until("hung up", |counts| counts.given_up == 1).await;

    // Bytes without a line's end are silence as well.
    let drip = Step::Drip("x", Duration::from_millis(5));
    let server = Upstream::always(vec![sse(), token("Hel"), drip]).await;
    let asked = call(Provider::OpenAICompatible, server.base_url());
    let ended = outcome(limits, asked).await.1;
    assert_eq!(ended, Err(ProviderError::Stalled(limits.idle)));
}

#[tokio::test]
async fn an_attempt_has_a_total_time_whatever_the_server_does() {
    let timeout = Duration::from_millis(80);
    let ping = Duration::from_millis(5);
    for steps in [
        vec![Step::Hang],
        vec![Step::Drip("H", ping)],
        vec![sse(), Step::Hang],
        vec![sse(), token("a"), Step::Drip(": ping\n\n", ping)],
    ] {
        let server = Upstream::always(steps.clone()).await;
        let mut asked = call(Provider::OpenAICompatible, server.base_url());
        asked.timeout = timeout;
        let error = outcome(Limits::default(), asked)
            .await
            .1
            .expect_err("too late");
        assert_eq!(error, ProviderError::Timeout(timeout), "{steps:?}");
        assert_eq!((error.http_status(), error.retry()), (504, Retry::Never));
    }
}

#[tokio::test]
async fn a_dropped_stream_hangs_up() {
    let server = Upstream::always(vec![sse(), token("Hel"), Step::Hang]).await;
    let providers = providers(Limits::default());
    let provider = providers.of(Provider::OpenAICompatible).expect("served");
    let mut stream = provider.chat(call(Provider::OpenAICompatible, server.base_url()));
    let first = stream.next().await.expect("an event").expect("a delta");
    assert!(matches!(first, Event::Delta(_)));
    drop(stream);
    server.until("hung up", |counts| counts.given_up == 1).await;
}

#[tokio::test]
async fn nothing_is_sent_before_the_first_poll() {
    let server = Upstream::always(says(&["x"])).await;
    let providers = providers(Limits::default());
    let provider = providers.of(Provider::OpenAICompatible).expect("served");
    drop(provider.chat(call(Provider::OpenAICompatible, server.base_url())));
    let asked = call(Provider::OpenAICompatible, server.base_url());
    assert_eq!(outcome(Limits::default(), asked).await.0, "x");
    assert_eq!(server.counts().requests, 1);
}

#[tokio::test]
async fn the_key_travels_in_the_header_and_requests_in_the_body() {
    let server = Upstream::always(says(&["x"])).await;
    let mut asked = call(Provider::OpenAICompatible, server.base_url());
    asked.credential = Some(Credential::new("sk-secret\n"));
    assert!(!format!("{asked:?}").contains("sk-secret"));
    outcome(Limits::default(), asked)
        .await
        .1
        .expect("an answer");
    let received = server.received().remove(0);
    assert!(
        received.head.starts_with("POST /v1/chat/completions "),
        "{}",
        received.head
    );
    assert!(
        received.head.contains("authorization: Bearer sk-secret"),
        "{}",
        received.head
    );
    assert_eq!(received.body["model"], "tiny");
    assert_eq!(received.body["stream"], true);
}

#[tokio::test]
async fn a_complete_answer_leaves_the_connection_for_the_next() {
    let server = Upstream::always(says_and_keeps("Hello")).await;
    let providers = providers(Limits::default());
    let provider = providers.of(Provider::OpenAICompatible).expect("served");
    for _ in 0..3 {
        let events: Vec<_> = provider
            .chat(call(Provider::OpenAICompatible, server.base_url()))
            .collect()
            .await;
        assert_eq!(events.len(), 2, "{events:?}");
    }
    assert_eq!(
        (server.counts().requests, server.counts().connections),
        (3, 1)
    );
}
