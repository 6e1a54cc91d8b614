//! Requests that are refused before they reach the queue.

use futures::stream;
use reqwest::Body;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{KEY, PERSONA, Stage, answer_of, chat, error_of, soon, spawn, whole};

async fn send(stage: &Stage, body: impl Into<Body>) -> reqwest::Response {
    let request = stage.ask(&Value::Null).body(body);
    answer_of(spawn(request)).await
}

#[tokio::test]
async fn wrong_type_is_answered_with_the_name_of_the_field() {
    let stage = Stage::start().await;
    for (name, value, param, code) in [
        ("temperature", json!("0.2"), "temperature", "invalid_type"),
        ("max_tokens", json!(1.5), "max_tokens", "invalid_type"),
        ("stream", json!("yes"), "stream", "invalid_type"),
        (
            "messages",
            json!([{"role": "king", "content": "x"}]),
            "messages[0].role",
            "invalid_value",
        ),
        ("messages", json!([]), "messages", "empty_array"),
        (
            "messages",
            json!(null),
            "messages",
            "missing_required_parameter",
        ),
        ("n", json!(2), "n", "unsupported_value"),
        ("model", json!(7), "model", "invalid_type"),
    ] {
        let response = answer_of(stage.send(&chat(PERSONA, json!({name: value})))).await;
        let error = error_of(response, 400, code).await;
        assert_eq!(error["param"], param);
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn body_that_is_no_json_object_is_refused() {
    let stage = Stage::start().await;
    for (body, code) in [
        ("", "invalid_json"),
        ("{\"model\": \"helper\"", "invalid_json"),
        ("\u{fffe}", "invalid_json"),
        ("[1]", "invalid_type"),
    ] {
        let error = error_of(send(&stage, body).await, 400, code).await;
        assert_eq!(error["param"], Value::Null);
    }
    let deep = "[".repeat(100_000);
    error_of(send(&stage, deep).await, 400, "invalid_json").await;
}

#[tokio::test]
async fn small_body_of_many_values_is_refused_before_it_takes_much_memory() {
    let stage = Stage::start().await;
    let values = vec![json!({"": 0}); 500_000];
    let body = chat(PERSONA, json!({"x": values})).to_string();
    assert!(body.len() < 4 << 20);
    error_of(send(&stage, body).await, 400, "too_many_values").await;
}

#[tokio::test]
async fn body_over_the_limit_is_refused_whether_announced_or_not() {
    let stage = Stage::with(&["--max-body-bytes", "100000"]).await;
    let large = chat(PERSONA, json!({"user": "x".repeat(4_000_000)})).to_string();
    error_of(send(&stage, large.clone()).await, 413, "request_too_large").await;
    let parts: Vec<_> = large
        .as_bytes()
        .chunks(10_000)
        .map(<[u8]>::to_vec)
        .collect();
    let parts = Body::wrap_stream(stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>)));
    error_of(send(&stage, parts).await, 413, "request_too_large").await;
    // The limit itself is allowed; it is refused for what it says.
    let mut fits = chat("nobody", json!({"user": ""})).to_string();
    fits.push_str(&" ".repeat(100_000 - fits.len()));
    error_of(send(&stage, fits).await, 404, "model_not_found").await;
}

#[tokio::test]
async fn bodies_of_all_requests_together_are_bounded() {
    let stage = Stage::with(&["--body-memory-bytes", "65536"]).await;
    let body = chat(PERSONA, json!({"user": "x".repeat(40_000)}));
    let worker = stage.worker().await;
    let first = stage.send(&body);
    let job = worker.take().await;
    let refused = answer_of(stage.send(&body)).await;
    assert_eq!(refused.headers()["retry-after"], "1");
    error_of(refused, 503, "gateway_busy").await;
    job.answer("ok").await;
    assert_eq!(answer_of(first).await.status(), 200);
    let second = stage.send(&body);
    worker.take().await.answer("ok").await;
    assert_eq!(answer_of(second).await.status(), 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_the_same_form() {
    let stage = Stage::start().await;
    let response = stage.get("/v1/embeddings").await;
    let error = error_of(response, 404, "unknown_url").await;
    assert_eq!(error["message"], "there is no GET /v1/embeddings");
    error_of(
        stage.get("/v1/chat/completions").await,
        405,
        "method_not_allowed",
    )
    .await;
}

#[tokio::test]
async fn headers_that_cannot_be_meant_are_refused() {
    let stage = Stage::start().await;
    let long = "k".repeat(256);
    let request = stage.ask(&whole()).header("idempotency-key", long);
    error_of(
        answer_of(spawn(request)).await,
        400,
        "invalid_idempotency_key",
    )
    .await;
    let request = stage.ask(&whole()).header("x-persona-namespace", "\u{e4}");
    error_of(answer_of(spawn(request)).await, 400, "invalid_header").await;
}

#[tokio::test]
async fn body_that_breaks_off_leaves_no_task() {
    let stage = Stage::start().await;
    let mut client = TcpStream::connect(stage.address).await.expect("connects");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         content-length: 5000\r\n\r\n{{\"model\""
    );
    client.write_all(head.as_bytes()).await.expect("writes");
    client.shutdown().await.expect("shuts down");
    let mut answer = Vec::new();
    let read = client.read_to_end(&mut answer);
    soon("the end of the connection", read)
        .await
        .expect("closes");
    let (namespace, personas) = (stage.namespace(), [PERSONA.to_owned()]);
    let stats = namespace.persona_stats(&personas).await.expect("stats");
    assert_eq!(stats[0].queued, 0);
    // It was counted as a request, by whichever of the two words fits what was seen of its end.
    let route = "/v1/chat/completions";
    crate::stage::eventually("a count", async || {
        stage.count(route, "400").await + stage.count(route, "499").await > 0.5
    })
    .await;
    assert_eq!(stage.get("/livez").await.status(), 200);
}
