//! What a client gets of an answer, whole or streamed.

use persona_operator::queue::task::{Chunk, Outcome};
use persona_operator::queue::work::Fenced;
use serde_json::json;

use crate::stage::{KEY, NAMESPACE, PERSONA, Stage, answer_of, chat, streamed, whole};
use crate::stream::{Event, Events, ends_well};
use crate::worker::usage;

#[tokio::test]
async fn whole_answer_has_text_usage_and_the_model_as_it_was_asked_for() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let model = format!("{NAMESPACE}/{PERSONA}");
    let request = stage.send(&chat(&model, json!({})));
    worker.take().await.answer("Hello!").await;
    let response = answer_of(request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let id = response.headers()["x-request-id"].to_str().expect("text");
    assert!(id.starts_with("req_") && id.len() == 36, "{id}");
    let body: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], model);
    assert!(
        body["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("chatcmpl-"))
    );
    assert!(
        body["created"]
            .as_i64()
            .is_some_and(|at| at > 1_700_000_000)
    );
    assert_eq!(
        body["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }])
    );
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18})
    );
}

#[tokio::test]
async fn streamed_answer_leaves_word_by_word_from_role_to_done() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("Hel").await;
    let response = answer_of(request).await;
    let headers = response.headers();
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(headers["cache-control"], "no-cache");
    assert_eq!(headers["x-accel-buffering"], "no");
    assert!(headers.contains_key("x-request-id"));
    let mut events = Events::of(response);
    // The task still runs: what has come has not waited for its end.
    let role = events.data().await;
    assert_eq!(role["object"], "chat.completion.chunk");
    assert_eq!(role["model"], PERSONA);
    assert_eq!(
        role["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let first = events.data().await;
    assert_eq!(first["id"], role["id"]);
    assert_eq!(first["choices"][0]["delta"], json!({"content": "Hel"}));
    assert_eq!(first["choices"][0]["finish_reason"], json!(null));
    job.say("lo").await;
    assert_eq!(events.text().await, "lo");
    let outcome = Outcome::completed(None, "length", Some(usage()));
    assert_eq!(job.finish(&outcome).await, Fenced::Accepted);
    let last = events.data().await;
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(events.next().await, Event::Done);
    assert_eq!(events.next().await, Event::End);
    for event in [&role, &first, &last] {
        assert!(event.get("usage").is_none(), "{event}");
    }
}

#[tokio::test]
async fn usage_is_the_last_chunk_where_it_is_asked_for() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let request = stage.send(&chat(PERSONA, options));
    let job = worker.take().await;
    job.say("Hi").await;
    job.end().await;
    let mut events = Events::of(answer_of(request).await);
    for _ in 0..3 {
        assert_eq!(events.data().await.get("usage"), Some(&json!(null)));
    }
    let last = events.data().await;
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], 18);
    assert_eq!(events.next().await, Event::Done);
    assert_eq!(events.next().await, Event::End);
}

#[tokio::test]
async fn tool_calls_and_reasoning_pass_through() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let call =
        json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let request = stage.send(&whole());
    let outcome = Outcome {
        reasoning: Some("thought".into()),
        tool_calls: vec![call.clone()],
        ..Outcome::completed(None, "tool_calls", None)
    };
    assert_eq!(worker.take().await.finish(&outcome).await, Fenced::Accepted);
    let body: serde_json::Value = answer_of(request).await.json().await.expect("JSON");
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], json!(null));
    assert_eq!(message["reasoning_content"], "thought");
    assert_eq!(message["tool_calls"], json!([call]));
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
    assert!(
        body.get("usage").is_none(),
        "a provider may count nothing: {body}"
    );

    let request = stage.send(&streamed());
    let job = worker.take().await;
    let thought = Chunk {
        reasoning: "hm".into(),
        ..Chunk::default()
    };
    let mut delta = call.clone();
    delta["index"] = json!(0);
    let calls = Chunk {
        tool_calls: vec![delta.clone()],
        ..Chunk::default()
    };
    assert_eq!(job.emit(&[thought, calls]).await, Fenced::Accepted);
    let mut events = Events::of(answer_of(request).await);
    events.data().await;
    let thought = events.data().await;
    assert_eq!(
        thought["choices"][0]["delta"],
        json!({"reasoning_content": "hm"})
    );
    let calls = events.data().await;
    assert_eq!(calls["choices"][0]["delta"], json!({"tool_calls": [delta]}));
    job.end().await;
    ends_well(events).await;
}

#[tokio::test]
async fn answer_larger_than_all_buffers_comes_whole_and_in_order() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("0 ").await;
    let response = answer_of(request).await;
    // Nothing is read meanwhile: 8 MB are more than sockets and inboxes hold.
    let filler = "x".repeat(4000);
    let word = |number: usize| format!("{number}{filler} ");
    for number in 1..2000 {
        job.say(&word(number)).await;
    }
    job.end().await;
    let text = ends_well(Events::of(response)).await;
    let numbers = text
        .split_whitespace()
        .map(|word| word.trim_end_matches('x'));
    let expected: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    assert_eq!(numbers.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn requests_of_one_gateway_do_not_mix() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let requests: Vec<_> = (0..6)
        .map(|number| {
            let more = json!({"stream": number % 2 == 0, "user": number.to_string()});
            (number, stage.send(&chat(PERSONA, more)))
        })
        .collect();
    for _ in 0..6 {
        let job = worker.take().await;
        let user = job.request()["user"].as_str().expect("text").to_owned();
        if job.taken.stream {
            job.say(&user).await;
            job.end().await;
        } else {
            job.answer(&user).await;
        }
    }
    for (number, request) in requests {
        let response = answer_of(request).await;
        let text = if number % 2 == 0 {
            ends_well(Events::of(response)).await
        } else {
            let body: serde_json::Value = response.json().await.expect("JSON");
            body["choices"][0]["message"]["content"]
                .as_str()
                .expect("text")
                .to_owned()
        };
        assert_eq!(text, number.to_string());
    }
}

#[tokio::test]
async fn what_the_gateway_does_not_know_reaches_the_worker() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let more = json!({
        "temperature": 0.25, "reasoning_budget": {"tokens": [1, null]}, "x": "\u{e4}\u{1f600}",
        "tools": [{"type": "function", "function": {"name": "f"}}], "seed": 18_446_744_073_709_551_615_u64,
    });
    let body = chat(PERSONA, more);
    let request = stage.send(&body);
    let job = worker.take().await;
    assert_eq!(job.request(), body);
    assert_eq!(job.taken.persona, PERSONA);
    assert!(!job.taken.stream);
    job.answer("ok").await;
    assert_eq!(answer_of(request).await.status(), 200);
}

#[tokio::test]
async fn key_is_kept_from_the_worker() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let request = stage.send(&whole());
    let job = worker.take().await;
    assert!(!job.taken.payload.contains(KEY));
    job.answer("ok").await;
    assert_eq!(answer_of(request).await.status(), 200);
}
