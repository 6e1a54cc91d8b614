//! What one call of a provider may take and sends: its bytes, its time, its connection.

use std::time::Duration;

use futures::StreamExt;
use persona_operator::{
    api::Provider,
    provider::{Credential, Event, Limits, ProviderError, Retry},
};

use crate::faults::{call, outcome, providers, sse};
use crate::upstream::{Step, Upstream, says, says_and_keeps, token};

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
