//! Against a real llama.cpp server.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use persona_operator::{
    api::Provider,
    provider::{Call, Event, Limits, Providers},
};
use serde_json::json;
use testbed::{ModelOptions, ModelServer};

use crate::faults::config;

fn asked(endpoint: String, limit: u32) -> Call {
    let messages = json!([{"role": "user", "content": "Tell me a long story about the sea."}]);
    let request = json!({"messages": messages, "max_tokens": limit});
    let mut config = config(Provider::OpenAICompatible, endpoint);
    config.instructions = "You are a poet.".into();
    Call {
        selection: Default::default(),
        config: Arc::new(config),
        request: request.as_object().expect("an object").clone(),
        credential: None,
        timeout: Duration::from_secs(120),
    }
}

fn providers() -> Providers {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    Providers::new(Limits::default()).expect("an HTTP client")
}

#[tokio::test]
async fn a_real_model_answers_in_pieces_with_usage() {
    let server = ModelServer::start(ModelOptions::default())
        .await
        .expect("a model server");
    let providers = providers();
    let provider = providers.of(Provider::OpenAICompatible).expect("served");
    let mut stream = provider.chat(asked(server.base_url(), 8));
    let mut pieces = 0;
    let mut end = None;
    while let Some(event) = stream.next().await {
        match event.expect("no fault") {
            Event::Delta(_) => pieces += 1,
            Event::End(it) => end = Some(it),
        }
    }
    let end = end.expect("an end");
    assert!(pieces > 2, "{pieces}");
    assert_eq!(end.finish_reason, "length");
    assert_eq!(end.usage.expect("usage").output_tokens, 8);
}

#[tokio::test]
async fn a_real_model_stops_computing_when_the_stream_is_dropped() {
    let server = ModelServer::start(ModelOptions::default())
        .await
        .expect("a model server");
    let providers = providers();
    let provider = providers.of(Provider::OpenAICompatible).expect("served");
    let mut stream = provider.chat(asked(server.base_url(), 900));
    stream.next().await.expect("an event").expect("a token");
    drop(stream);
    let idle = async {
        while server
            .metric("requests_processing")
            .await
            .expect("a metric")
            > 0.0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), idle)
        .await
        .expect("the model server stopped");
    let predicted = server.metric("tokens_predicted_total").await;
    assert!(predicted.expect("a metric") < 800.0);
}
