//! Answers in OpenAI's form: the whole completion, and the server-sent events of a streamed one.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::queue::task::{Chunk, Outcome, Usage};

/// Sent when nothing else is, so that proxies and clients see a living connection.
pub const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// What all parts of one answer say.
#[derive(Clone, Debug)]
pub struct Head {
    /// `chatcmpl-<task>`.
    pub id: String,
    /// Seconds since the epoch.
    pub created: i64,
    /// As the client wrote it.
    pub model: String,
}

/// The body of an answer that is not streamed.
pub fn completion(head: &Head, outcome: &Outcome) -> Value {
    let mut message = json!({
        "role": "assistant",
        "content": outcome.content,
        "refusal": null,
    });
    if let Some(reasoning) = &outcome.reasoning {
        message["reasoning_content"] = json!(reasoning);
    }
    if !outcome.tool_calls.is_empty() {
        message["tool_calls"] = json!(outcome.tool_calls);
    }
    let mut body = json!({
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish_reason(outcome),
        }],
    });
    if let Some(usage) = outcome.usage {
        body["usage"] = tokens(usage);
    }
    body
}

fn finish_reason(outcome: &Outcome) -> &str {
    outcome.finish_reason.as_deref().unwrap_or("stop")
}

fn tokens(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    })
}

/// Writes the events of one streamed answer, in order.
#[derive(Debug)]
pub struct EventWriter {
    head: Head,
    include_usage: bool,
    begun: bool,
}

#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    // With `include_usage` every event has the field, null in all but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: (),
    finish_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<&'a [Value]>,
}

impl EventWriter {
    /// A writer of nothing yet.
    pub fn new(head: Head, include_usage: bool) -> Self {
        Self {
            head,
            include_usage,
            begun: false,
        }
    }

    /// Chunks of the answer; the first ones are led by an event with the role.
    pub fn chunks(&mut self, chunks: &[Chunk]) -> Bytes {
        let mut out = BytesMut::new();
        for chunk in chunks {
            self.begin(&mut out);
            let delta = Delta {
                content: Some(chunk.content.as_str()).filter(|text| !text.is_empty()),
                reasoning_content: Some(chunk.reasoning.as_str()).filter(|text| !text.is_empty()),
                tool_calls: Some(chunk.tool_calls.as_slice()).filter(|calls| !calls.is_empty()),
                ..Delta::default()
            };
            self.choice(&mut out, delta, None);
        }
        out.freeze()
    }

    /// The end of a completed answer: why it ended, the token counts if asked for, `[DONE]`.
    pub fn completed(&mut self, outcome: &Outcome) -> Bytes {
        let mut out = BytesMut::new();
        if !self.begun {
            // An answer may come whole, from a provider that does not stream.
            out.put(self.chunks(&[Chunk {
                content: outcome.content.clone().unwrap_or_default(),
                reasoning: outcome.reasoning.clone().unwrap_or_default(),
                tool_calls: outcome.tool_calls.clone(),
            }]));
        }
        self.choice(&mut out, Delta::default(), Some(finish_reason(outcome)));
        if self.include_usage {
            let usage = outcome.usage.unwrap_or_default();
            self.event(&mut out, &[], Some(tokens(usage)));
        }
        out.put_slice(b"data: [DONE]\n\n");
        out.freeze()
    }

    /// The end of an answer that broke off. SDKs raise it; no `[DONE]` follows.
    pub fn failed(&self, error: &ApiError) -> Bytes {
        let mut out = BytesMut::new();
        data(&mut out, &error.body());
        out.freeze()
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if !self.begun {
            self.begun = true;
            let delta = Delta {
                role: Some("assistant"),
                content: Some(""),
                ..Delta::default()
            };
            self.choice(out, delta, None);
        }
    }

    fn choice(&self, out: &mut BytesMut, delta: Delta<'_>, finish_reason: Option<&str>) {
        let choice = Choice {
            index: 0,
            delta,
            logprobs: (),
            finish_reason,
        };
        self.event(out, &[choice], self.include_usage.then_some(Value::Null));
    }

    fn event(&self, out: &mut BytesMut, choices: &[Choice<'_>], usage: Option<Value>) {
        let event = Event {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage,
        };
        data(out, &event);
    }
}

/// One event. JSON has no line breaks outside of its escapes, so one `data:` line holds it.
fn data(out: &mut BytesMut, value: &impl Serialize) {
    let before = out.len();
    out.put_slice(b"data: ");
    match serde_json::to_writer((&mut *out).writer(), value) {
        Ok(()) => out.put_slice(b"\n\n"),
        Err(error) => {
            // Cannot happen: all keys are strings, and a buffer takes every write.
            tracing::error!(%error, "an event of a stream cannot be written");
            out.truncate(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            id: "chatcmpl-1".into(),
            created: 7,
            model: "helper".into(),
        }
    }

    fn usage() -> Usage {
        Usage {
            input_tokens: 3,
            output_tokens: 2,
        }
    }

    #[test]
    fn a_stream_has_role_text_reason_usage_and_done() {
        let mut writer = EventWriter::new(head(), true);
        let mut text = String::new();
        for part in [
            writer.chunks(&[Chunk::text("Hel\nlo"), Chunk::text(" you")]),
            writer.completed(&Outcome::completed(None, "length", Some(usage()))),
        ] {
            text.push_str(std::str::from_utf8(&part).expect("UTF-8"));
        }
        let common =
            r#""id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"helper""#;
        let choice = |delta: &str, reason: &str| {
            format!(
                "data: {{{common},\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\
                 \"finish_reason\":{reason}}}],\"usage\":null}}\n\n"
            )
        };
        let expected = [
            choice(r#"{"role":"assistant","content":""}"#, "null"),
            choice(r#"{"content":"Hel\nlo"}"#, "null"),
            choice(r#"{"content":" you"}"#, "null"),
            choice("{}", "\"length\""),
            format!(
                "data: {{{common},\"choices\":[],\"usage\":{{\"completion_tokens\":2,\
                 \"prompt_tokens\":3,\"total_tokens\":5}}}}\n\n"
            ),
            "data: [DONE]\n\n".to_owned(),
        ]
        .concat();
        assert_eq!(text, expected);
    }

    #[test]
    fn without_include_usage_no_event_has_the_field() {
        let mut writer = EventWriter::new(head(), false);
        let begun = writer.chunks(&[Chunk::text("a")]);
        let end = writer.completed(&Outcome::completed(None, "stop", Some(usage())));
        let text = String::from_utf8([begun, end].concat()).expect("UTF-8");
        assert!(!text.contains("usage"), "{text}");
    }

    #[test]
    fn an_answer_that_came_whole_is_streamed_as_one_chunk() {
        let mut writer = EventWriter::new(head(), false);
        let end = writer.completed(&Outcome::completed(Some("whole".into()), "stop", None));
        let text = std::str::from_utf8(&end).expect("UTF-8");
        let at = |part: &str| {
            text.find(part)
                .unwrap_or_else(|| panic!("{part} in {text}"))
        };
        assert!(at("\"role\":\"assistant\"") < at("\"content\":\"whole\""));
        assert!(at("\"content\":\"whole\"") < at("\"finish_reason\":\"stop\""));
    }

    #[test]
    fn a_broken_stream_ends_in_one_error_event() {
        let writer = EventWriter::new(head(), false);
        let end = writer.failed(&ApiError::new(502, "interrupted", "the worker was lost"));
        assert_eq!(
            end,
            "data: {\"error\":{\"code\":\"interrupted\",\"message\":\"the worker was lost\",\
             \"param\":null,\"type\":\"server_error\"}}\n\n"
        );
    }

    #[test]
    fn a_whole_answer_carries_text_tools_and_usage() {
        let mut outcome = Outcome::completed(Some("hi".into()), "tool_calls", Some(usage()));
        outcome.tool_calls = vec![json!({"id": "c1", "type": "function"})];
        let body = completion(&head(), &outcome);
        assert_eq!(body["object"], "chat.completion");
        assert_eq!(body["choices"][0]["message"]["content"], "hi");
        assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["id"], "c1");
        assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
        assert_eq!(body["usage"]["total_tokens"], 5);
        let bare = completion(
            &head(),
            &Outcome::completed(Some("hi".into()), "stop", None),
        );
        assert!(bare.get("usage").is_none());
    }
}
