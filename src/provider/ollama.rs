//! Ollama's native `/api/chat`: one JSON object a line, the last one with `done: true`.

mod request;

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Call, ChatProvider, Delta, End, Event, ProviderError, ReplyStream, Usage,
    error::Said,
    reply::{Decoder, Http, Request},
};

/// The client.
#[derive(Clone, Debug)]
pub struct Ollama {
    http: Http,
}

impl Ollama {
    pub(super) const fn new(http: Http) -> Self {
        Self { http }
    }
}

impl ChatProvider for Ollama {
    fn chat(&self, mut call: Call) -> ReplyStream {
        let request = address(&call).and_then(|url| {
            let body = request::body(&call.config, std::mem::take(&mut call.request))?;
            Ok(Request { url, body })
        });
        self.http.reply(request, &call, LineDecoder::default())
    }
}

fn address(call: &Call) -> Result<String, ProviderError> {
    match &call.config.endpoint {
        Some(endpoint) => Ok(format!("{}/api/chat", endpoint.trim_end_matches('/'))),
        None => Err(ProviderError::Endpoint("Ollama needs an endpoint".into())),
    }
}

#[derive(Deserialize)]
struct Line {
    message: Option<Message>,
    #[serde(default)]
    done: bool,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: String,
    #[serde(default)]
    thinking: String,
    #[serde(default)]
    tool_calls: Vec<Value>,
}

#[derive(Default)]
struct LineDecoder {
    tool_calls: u64,
}

impl Decoder for LineDecoder {
    const CONTENT_TYPES: &'static [&'static str] = &["application/x-ndjson", "application/json"];
    const END_MARK: &'static str = "done: true";

    fn line(&mut self, line: &[u8], events: &mut VecDeque<Event>) -> Result<(), ProviderError> {
        if line.is_empty() {
            return Ok(());
        }
        let line: Line = serde_json::from_slice(line)
            .map_err(|error| ProviderError::Malformed(error.to_string()))?;
        if let Some(error) = line.error {
            return Err(ProviderError::Reported(Said::of(&error).message));
        }
        if let Some(message) = line.message {
            let delta = self.delta(message);
            if !delta.is_empty() {
                events.push_back(Event::Delta(delta));
            }
        }
        if line.done {
            events.push_back(Event::End(End {
                finish_reason: self.finish_reason(line.done_reason),
                usage: usage(line.prompt_eval_count, line.eval_count),
            }));
        }
        Ok(())
    }
}

impl LineDecoder {
    fn delta(&mut self, message: Message) -> Delta {
        let calls = message.tool_calls.iter();
        Delta {
            content: message.content,
            reasoning: message.thinking,
            tool_calls: calls.map(|call| self.tool_call(call)).collect(),
        }
    }

    /// Ollama sends a call in one piece, its arguments as an object, often without an id.
    fn tool_call(&mut self, call: &Value) -> Value {
        let index = self.tool_calls;
        self.tool_calls += 1;
        let id = call.get("id").and_then(Value::as_str);
        let id = id.map_or_else(
            || format!("call_{:016x}", rand::random::<u64>()),
            Into::into,
        );
        let function = call.get("function").unwrap_or(&Value::Null);
        let arguments = function.get("arguments").unwrap_or(&Value::Null);
        json!({
            "index": index,
            "id": id,
            "type": "function",
            "function": {"name": function["name"], "arguments": arguments.to_string()},
        })
    }

    fn finish_reason(&self, reason: Option<String>) -> String {
        match reason {
            _ if self.tool_calls > 0 => "tool_calls".into(),
            Some(reason) => reason,
            None => "stop".into(),
        }
    }
}

/// The count of a prompt that was answered from the cache may be absent.
fn usage(input: Option<u64>, output: Option<u64>) -> Option<Usage> {
    (input.is_some() || output.is_some()).then(|| Usage {
        input_tokens: input.unwrap_or_default(),
        output_tokens: output.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(lines: &[&str]) -> Result<Vec<Event>, ProviderError> {
        let mut decoder = LineDecoder::default();
        let mut events = VecDeque::new();
        for line in lines {
            decoder.line(line.as_bytes(), &mut events)?;
        }
        Ok(events.into())
    }

    #[test]
    fn text_thinking_end_and_usage_are_read() {
        let events = decode(&[
            r#"{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
            r#"{"message":{"role":"assistant","content":"Hi"},"done":false}"#,
            r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"length","prompt_eval_count":7,"eval_count":3}"#,
        ])
        .expect("well-formed");
        let [Event::Delta(first), Event::Delta(second), Event::End(end)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((&*first.reasoning, &*second.content), ("hm", "Hi"));
        assert_eq!(end.finish_reason, "length");
        let usage = Usage {
            input_tokens: 7,
            output_tokens: 3,
        };
        assert_eq!(end.usage, Some(usage));
    }

    #[test]
    fn tool_calls_take_openais_form() {
        let call =
            r#"{"message":{"tool_calls":[{"function":{"name":"add","arguments":{"a":1}}}]}}"#;
        let events = decode(&[call, call, r#"{"done":true,"done_reason":"stop"}"#]);
        let events = events.expect("well-formed");
        let [Event::Delta(_), Event::Delta(second), Event::End(end)] = &events[..] else {
            panic!("{events:?}");
        };
        let call = &second.tool_calls[0];
        assert_eq!(call["index"], 1);
        assert_eq!(call["function"]["name"], "add");
        assert_eq!(call["function"]["arguments"], r#"{"a":1}"#);
        assert!(call["id"].as_str().expect("an id").starts_with("call_"));
        assert_eq!(end.finish_reason, "tool_calls");
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let error = decode(&[r#"{"error":"model runner has stopped"}"#]).expect_err("failed");
        assert_eq!(
            error,
            ProviderError::Reported("model runner has stopped".into())
        );
        assert_eq!(
            decode(&["{"]).expect_err("cut").reason(),
            "provider_malformed"
        );
    }
}
