//! From OpenAI's request to Ollama's. Pure.

use serde_json::{Map, Value, json};

use crate::api::runtime::PersonaConfig;
use crate::provider::{
    ProviderError,
    request::{LIMIT_FIELDS, compose, rejected},
};

/// OpenAI's settings that are Ollama's `options`, with their names there.
const OPTIONS: [(&str, &str); 6] = [
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("stop", "stop"),
    ("seed", "seed"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
];

/// The body of `/api/chat`. Fields unknown to OpenAI's API (`options`, `keep_alive`, `think`, …) stay as
/// they are; an option that the client sent itself goes before the one made from OpenAI's field.
pub fn body(
    config: &PersonaConfig,
    request: Map<String, Value>,
) -> Result<Map<String, Value>, ProviderError> {
    let mut body = compose(config, request, "max_tokens")?;
    let mut options = Map::new();
    for (field, option) in OPTIONS {
        move_into(&mut options, option, body.remove(field));
    }
    for field in LIMIT_FIELDS {
        let limit = body.remove(field);
        if !options.contains_key("num_predict") {
            move_into(&mut options, "num_predict", limit);
        }
    }
    if let Some(Value::Object(own)) = body.remove("options") {
        options.extend(own);
    }
    if let Some(Value::Array(messages)) = body.get_mut("messages") {
        *messages = convert(std::mem::take(messages))?;
    }
    if let Some(format) = body.remove("response_format") {
        move_into(&mut body, "format", output_format(&format));
    }
    for field in ["stream_options", "n", "logprobs"] {
        body.remove(field);
    }
    if !options.is_empty() {
        body.insert("options".into(), options.into());
    }
    body.insert("stream".into(), true.into());
    Ok(body)
}

fn move_into(target: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    if let Some(value) = value.filter(|value| !value.is_null()) {
        target.insert(field.into(), value);
    }
}

fn output_format(format: &Value) -> Option<Value> {
    match format["type"].as_str() {
        Some("json_object") => Some("json".into()),
        Some("json_schema") => Some(format["json_schema"]["schema"].clone()),
        _ => None,
    }
}

fn convert(messages: Vec<Value>) -> Result<Vec<Value>, ProviderError> {
    // Tool results name the call in OpenAI's form, the tool in Ollama's.
    let mut tools: Map<String, Value> = Map::new();
    let mut converted = Vec::with_capacity(messages.len());
    for message in messages {
        let Value::Object(mut message) = message else {
            return Err(rejected("each of `messages` must be an object"));
        };
        if let Some(Value::Array(parts)) = message.get("content") {
            let (text, images) = split(parts)?;
            message.insert("content".into(), text.into());
            if !images.is_empty() {
                message.insert("images".into(), images.into());
            }
        }
        if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
            for call in calls {
                remember(&mut tools, call);
                arguments_as_object(call);
            }
        }
        let answered = message.get("tool_call_id").and_then(Value::as_str);
        if let Some(name) = answered.and_then(|id| tools.get(id)) {
            let name = name.clone();
            message.entry("tool_name").or_insert(name);
        }
        if message.get("role").and_then(Value::as_str) == Some("developer") {
            message.insert("role".into(), "system".into());
        }
        converted.push(message.into());
    }
    Ok(converted)
}

fn remember(tools: &mut Map<String, Value>, call: &Value) {
    if let Some(id) = call["id"].as_str() {
        tools.insert(id.into(), call["function"]["name"].clone());
    }
}

fn arguments_as_object(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else {
        return;
    };
    if let Some(text) = arguments.as_str() {
        *arguments = serde_json::from_str(text).unwrap_or_else(|_| json!({}));
    }
}

fn split(parts: &[Value]) -> Result<(String, Vec<Value>), ProviderError> {
    let mut text = String::new();
    let mut images = Vec::new();
    for part in parts {
        match part["type"].as_str() {
            Some("text") => text.push_str(part["text"].as_str().unwrap_or_default()),
            Some("image_url") => {
                let url = part["image_url"]["url"].as_str().unwrap_or_default();
                let data = url
                    .strip_prefix("data:")
                    .and_then(|rest| rest.split_once("base64,"));
                let (_, data) = data.ok_or_else(|| {
                    rejected("Ollama takes images as `data:` URLs with base64 only")
                })?;
                images.push(data.into());
            }
            _ => {
                return Err(rejected(
                    "Ollama takes message parts of type text and image_url",
                ));
            }
        }
    }
    Ok((text, images))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::request::tests::{config, object};

    fn made(request: Value) -> Value {
        body(&config(), object(request)).expect("acceptable").into()
    }

    #[test]
    fn settings_become_options_and_the_clients_own_options_go_first() {
        let body = made(json!({
            "messages": [], "temperature": 0.5, "max_tokens": 5, "max_completion_tokens": 7, "seed": 1,
            "stream_options": {}, "options": {"temperature": 0.1, "num_ctx": 512}, "keep_alive": "1m",
        }));
        assert_eq!(
            body["options"],
            json!({"temperature": 0.1, "num_predict": 7, "seed": 1, "num_ctx": 512})
        );
        assert_eq!(body["keep_alive"], "1m");
        assert_eq!(body["stream"], true);
        assert_eq!(body["model"], "tiny");
        assert_eq!(body.get("temperature"), None);
        assert_eq!(body.get("stream_options"), None);
    }

    #[test]
    fn message_parts_and_tool_calls_are_translated() {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}});
        let body = made(json!({"messages": [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ]}));
        let messages = &body["messages"];
        assert_eq!(messages[0]["role"], "system");
        assert_eq!(messages[1]["content"], "see");
        assert_eq!(messages[1]["images"], json!(["QUJD"]));
        let arguments = &messages[2]["tool_calls"][0]["function"]["arguments"];
        assert_eq!(arguments, &json!({"a": 1}));
        assert_eq!(messages[3]["tool_name"], "add");
    }

    #[test]
    fn response_formats_are_translated() {
        let object = made(json!({"messages": [], "response_format": {"type": "json_object"}}));
        assert_eq!(object["format"], "json");
        let schema = made(json!({"messages": [], "response_format":
            {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}}));
        assert_eq!(schema["format"], json!({"type": "object"}));
    }

    #[test]
    fn images_elsewhere_are_refused() {
        let part = json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}});
        let request = json!({"messages": [{"role": "user", "content": [part]}]});
        let error = body(&config(), object(request)).expect_err("refused");
        assert_eq!(error.http_status(), 400);
    }
}
