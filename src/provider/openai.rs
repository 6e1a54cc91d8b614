//! OpenAI's chat completions over server-sent events; also what vLLM, llama.cpp, TGI, DeepSeek and
//! many others speak.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Call, ChatProvider, Delta, End, Event, ProviderError, ReplyStream, Selection, Usage,
    error::Said,
    lines::Sse,
    reply::{Decoder, Http, Request},
    request::compose,
};
use crate::api::{Provider, runtime::PersonaConfig};

/// The client.
#[derive(Clone, Debug)]
pub struct OpenAi {
    http: Http,
}

impl OpenAi {
    pub(super) const fn new(http: Http) -> Self {
        Self { http }
    }
}

impl ChatProvider for OpenAi {
    fn chat(&self, mut call: Call) -> ReplyStream {
        let request = request(&mut call);
        self.http.reply(request, &call, ChunkDecoder::default())
    }
}

fn request(call: &mut Call) -> Result<Request, ProviderError> {
    let config = &call.config;
    let base = base_url(config)?;
    // OpenAI's newer models refuse `max_tokens`, most others know only that.
    let limit_field = match config.provider {
        Provider::OpenAI => "max_completion_tokens",
        _ => "max_tokens",
    };
    let mut body = compose(config, std::mem::take(&mut call.request), limit_field)?;
    match &call.selection {
        Selection::Base => {}
        Selection::Model(name) => {
            body.insert("model".into(), name.clone().into());
        }
        Selection::Scales(scales) => {
            let scale = |(id, scale): &(u32, f64)| json!({"id": id, "scale": scale});
            body.insert("lora".into(), scales.iter().map(scale).collect());
        }
    }
    body.insert("stream".into(), true.into());
    match body
        .get_mut("stream_options")
        .and_then(Value::as_object_mut)
    {
        Some(options) => {
            options.insert("include_usage".into(), true.into());
        }
        None => {
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
    }
    Ok(Request {
        url: format!("{}/chat/completions", base.trim_end_matches('/')),
        body,
    })
}

fn base_url(config: &PersonaConfig) -> Result<&str, ProviderError> {
    match (&config.endpoint, config.provider) {
        (Some(endpoint), _) => Ok(endpoint),
        (None, Provider::OpenAI) => Ok("https://api.openai.com/v1"),
        (None, Provider::DeepSeek) => Ok("https://api.deepseek.com"),
        (None, provider) => Err(ProviderError::Endpoint(format!(
            "{} needs an endpoint",
            provider.as_str()
        ))),
    }
}

/// `chat.completion.chunk`, as far as it is used.
#[derive(Deserialize)]
struct Frame {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<FrameUsage>,
    error: Option<Value>,
    /// vLLM's form of an error: the object itself is one.
    object: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<FrameDelta>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FrameDelta {
    content: Option<Value>,
    refusal: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct FrameUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

#[derive(Default)]
struct ChunkDecoder {
    sse: Sse,
    finish_reason: Option<String>,
    usage: Option<Usage>,
}

impl Decoder for ChunkDecoder {
    const CONTENT_TYPES: &'static [&'static str] = &["text/event-stream"];
    const END_MARK: &'static str = "data: [DONE]";

    fn line(&mut self, line: &[u8], events: &mut VecDeque<Event>) -> Result<(), ProviderError> {
        let Some(data) = self.sse.line(line) else {
            return Ok(());
        };
        if data == b"[DONE]" {
            events.push_back(Event::End(End {
                finish_reason: self.finish_reason.take().unwrap_or_else(|| "stop".into()),
                usage: self.usage.take(),
            }));
            return Ok(());
        }
        let frame: Frame = serde_json::from_slice(&data)
            .map_err(|error| ProviderError::Malformed(error.to_string()))?;
        if let Some(error) = frame.error.filter(|error| !error.is_null()) {
            return Err(reported(&error));
        }
        if frame.object.as_ref().and_then(Value::as_str) == Some("error") {
            return Err(reported(&serde_json::from_slice(&data).unwrap_or_default()));
        }
        if let Some(usage) = frame.usage {
            self.usage = Some(Usage {
                input_tokens: usage.prompt_tokens,
                output_tokens: usage.completion_tokens,
            });
        }
        if let Some(choice) = frame.choices.into_iter().next() {
            self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
            let delta = choice.delta.map(delta).unwrap_or_default();
            if !delta.is_empty() {
                events.push_back(Event::Delta(delta));
            }
        }
        Ok(())
    }

    fn pending(&self) -> usize {
        self.sse.pending()
    }
}

/// A refusal is text that the client must see: this service's compact chunks have one field for it.
fn delta(wire: FrameDelta) -> Delta {
    let mut content = wire.content.map(text).unwrap_or_default();
    content.push_str(&wire.refusal.unwrap_or_default());
    Delta {
        content,
        reasoning: wire
            .reasoning_content
            .or(wire.reasoning)
            .unwrap_or_default(),
        tool_calls: wire.tool_calls.unwrap_or_default(),
    }
}

/// Content is a string; Mistral's reasoning models send a list of parts, of which the text counts.
fn text(content: Value) -> String {
    match content {
        Value::String(text) => text,
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.get("text")?.as_str())
            .collect(),
        _ => String::new(),
    }
}

/// An error object in the stream; vLLM and OpenRouter put an HTTP status into its code.
fn reported(error: &Value) -> ProviderError {
    let said = Said::of(error);
    let status = error.get("code").and_then(Value::as_u64);
    match status.and_then(|status| u16::try_from(status).ok()) {
        Some(status @ 400..=599) => ProviderError::from_status(status, said, None),
        _ if said.code.as_deref() == Some("rate_limit_exceeded") => {
            ProviderError::from_status(429, said, None)
        }
        _ => ProviderError::Reported(said.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::request::tests::{config, object};
    use std::{sync::Arc, time::Duration};

    fn decode(lines: &[&str]) -> Result<Vec<Event>, ProviderError> {
        let mut decoder = ChunkDecoder::default();
        let mut events = VecDeque::new();
        for line in lines {
            decoder.line(line.as_bytes(), &mut events)?;
            decoder.line(b"", &mut events)?;
        }
        Ok(events.into())
    }

    fn call(config: PersonaConfig, request: Value) -> Call {
        Call {
            selection: Selection::Base,
            config: Arc::new(config),
            request: object(request),
            credential: None,
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn deltas_finish_reason_and_usage_are_read() {
        let events = decode(&[
            r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}"#,
            r#"data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
            r#"data: {"choices":[{"delta":{},"finish_reason":"length"}]}"#,
            r#"data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
            "data: [DONE]",
        ]);
        let delta = |content: &str, reasoning: &str| {
            Event::Delta(Delta {
                content: content.into(),
                reasoning: reasoning.into(),
                tool_calls: vec![],
            })
        };
        let end = Event::End(End {
            finish_reason: "length".into(),
            usage: Some(Usage {
                input_tokens: 5,
                output_tokens: 2,
            }),
        });
        assert_eq!(events, Ok(vec![delta("Hi", ""), delta("", "hm"), end]));
    }

    #[test]
    fn errors_in_the_stream_are_judged_by_their_code() {
        for (line, reason) in [
            (r#"data: {"error":{"message":"boom"}}"#, "provider_error"),
            (
                r#"error: {"message":"boom","error":{"message":"x"}}"#,
                "provider_error",
            ),
            (
                r#"data: {"error":{"message":"m","code":400}}"#,
                "provider_rejected",
            ),
            (
                r#"data: {"object":"error","message":"m","code":503}"#,
                "provider_failed",
            ),
            (
                r#"data: {"error":{"message":"m","code":"rate_limit_exceeded"}}"#,
                "rate_limit_exceeded",
            ),
            ("data: {nonsense", "provider_malformed"),
            (r#"data: {"choices":5}"#, "provider_malformed"),
        ] {
            let error = decode(&[line]).expect_err(line);
            assert_eq!(error.reason(), reason, "{line}");
        }
    }

    #[test]
    fn requests_stream_with_usage_at_the_right_address() {
        let mut config = config();
        config.generation_settings.max_tokens = Some(9);
        let sent = request(&mut call(
            config.clone(),
            json!({"messages": [], "stream": false}),
        ));
        let sent = sent.expect("acceptable");
        assert_eq!(sent.url, "http://127.0.0.1:1/v1/chat/completions");
        assert_eq!(sent.body["stream"], true);
        assert_eq!(sent.body["stream_options"], json!({"include_usage": true}));
        assert_eq!(sent.body["max_tokens"], 9);
        for (provider, url) in [
            (
                Provider::OpenAI,
                "https://api.openai.com/v1/chat/completions",
            ),
            (
                Provider::DeepSeek,
                "https://api.deepseek.com/chat/completions",
            ),
        ] {
            let config = PersonaConfig {
                provider,
                endpoint: None,
                ..config.clone()
            };
            let sent = request(&mut call(config, json!({"messages": []}))).expect("acceptable");
            assert_eq!(sent.url, url);
        }
        config.endpoint = None;
        let error = request(&mut call(config, json!({"messages": []}))).expect_err("no address");
        assert_eq!(error.reason(), "endpoint_invalid");
    }
}
