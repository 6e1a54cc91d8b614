//! The body of a chat completion request: what the gateway reads of it, and what it refuses.
//!
//! Fields it does not know pass on to the provider; known ones must have the right type, so that a
//! mistake is answered with the field's name and not with a provider's guess.

use serde_json::{Map, Value};

use super::error::ApiError;

/// A request whose fields have the right types.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// `<persona>` or `<namespace>/<persona>`.
    pub model: String,
    /// The client wants server-sent events.
    pub stream: bool,
    /// The client wants a last chunk with the token counts.
    pub include_usage: bool,
    /// The whole body.
    pub body: Value,
}

/// JSON types of the fields of OpenAI's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Flag,
    Integer,
    Number,
    List,
    Object,
    TextOrList,
    TextOrObject,
}

const FIELDS: &[(&str, Type)] = &[
    ("frequency_penalty", Type::Number),
    ("logit_bias", Type::Object),
    ("logprobs", Type::Flag),
    ("max_completion_tokens", Type::Integer),
    ("max_tokens", Type::Integer),
    ("messages", Type::List),
    ("metadata", Type::Object),
    ("modalities", Type::List),
    ("model", Type::Text),
    ("n", Type::Integer),
    ("parallel_tool_calls", Type::Flag),
    ("presence_penalty", Type::Number),
    ("reasoning_effort", Type::Text),
    ("response_format", Type::Object),
    ("seed", Type::Integer),
    ("stop", Type::TextOrList),
    ("store", Type::Flag),
    ("stream", Type::Flag),
    ("stream_options", Type::Object),
    ("temperature", Type::Number),
    ("tool_choice", Type::TextOrObject),
    ("tools", Type::List),
    ("top_logprobs", Type::Integer),
    ("top_p", Type::Number),
    ("user", Type::Text),
];

const ROLES: &[&str] = &[
    "assistant",
    "developer",
    "function",
    "system",
    "tool",
    "user",
];

/// Deepest nesting of a body. The parsers of gateway, worker and model servers have limits of their own
/// (127 levels here), and on its way to them a request gets deeper by a few.
const MOST_LEVELS: usize = 100;
/// Most values of a body, at about 700 bytes of memory each while it is read, in the gateway and in the
/// worker. A conversation of 10,000 messages has 40,000.
const MOST_VALUES: usize = 50_000;

/// Reads a request body.
///
/// # Errors
/// 400 with the name of the field that is missing, of a wrong type, or not served; 400 for a body that is
/// nested too deeply or has too many values.
pub fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
    check_shape(body)?;
    let value: Value = serde_json::from_slice(body).map_err(|e| {
        let message = format!("the body is not valid JSON: {e}");
        ApiError::new(400, "invalid_json", message)
    })?;
    let Value::Object(fields) = &value else {
        let message = format!("the body must be a JSON object, not {}", name_of(&value));
        return Err(ApiError::new(400, "invalid_type", message));
    };
    for &(name, wanted) in FIELDS {
        if let Some(value) = fields.get(name).filter(|v| !v.is_null()) {
            expect(name, value, wanted)?;
        }
    }
    check_messages(required(fields, "messages")?)?;
    check_served(fields)?;
    let model = text(required(fields, "model")?).to_owned();
    let stream = flag(fields, "stream");
    let include_usage = match fields.get("stream_options") {
        Some(Value::Object(options)) if stream => {
            if let Some(value) = options.get("include_usage").filter(|v| !v.is_null()) {
                expect("stream_options.include_usage", value, Type::Flag)?;
            }
            flag(options, "include_usage")
        }
        Some(Value::Object(_)) => {
            let message = "`stream_options` is only allowed when `stream` is true";
            return Err(ApiError::invalid(
                "stream_options",
                "invalid_value",
                message,
            ));
        }
        _ => false,
    };
    Ok(ChatRequest {
        model,
        stream,
        include_usage,
        body: value,
    })
}

/// Counts before anything is parsed: what a value takes in memory has little to do with its text.
fn check_shape(body: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut values) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => (depth, values) = (depth + 1, values + 1),
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > MOST_LEVELS {
            let message = format!(
                "the body is nested more than {MOST_LEVELS} levels deep; send a flatter one"
            );
            return Err(ApiError::new(400, "invalid_json", message));
        }
        if values > MOST_VALUES {
            let message = format!(
                "the body has more than {MOST_VALUES} values; send fewer, or long texts instead of lists"
            );
            return Err(ApiError::new(400, "too_many_values", message));
        }
    }
    Ok(())
}

fn required<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a Value, ApiError> {
    fields.get(name).filter(|v| !v.is_null()).ok_or_else(|| {
        let message = format!("missing required parameter: `{name}`");
        ApiError::invalid(name, "missing_required_parameter", message)
    })
}

fn check_messages(messages: &Value) -> Result<(), ApiError> {
    let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
    if messages.is_empty() {
        let message = "`messages` must have at least one message";
        return Err(ApiError::invalid("messages", "empty_array", message));
    }
    for (index, message) in messages.iter().enumerate() {
        let at = format!("messages[{index}]");
        expect(&at, message, Type::Object)?;
        let role = message.get("role").unwrap_or(&Value::Null);
        expect(&format!("{at}.role"), role, Type::Text)?;
        if !ROLES.contains(&text(role)) {
            let message = format!(
                "`{}` is no role: use one of {}",
                text(role),
                ROLES.join(", ")
            );
            return Err(ApiError::invalid(
                format!("{at}.role"),
                "invalid_value",
                message,
            ));
        }
        if let Some(content) = message.get("content").filter(|v| !v.is_null()) {
            expect(&format!("{at}.content"), content, Type::TextOrList)?;
        }
        if let Some(calls) = message.get("tool_calls").filter(|v| !v.is_null()) {
            expect(&format!("{at}.tool_calls"), calls, Type::List)?;
        }
    }
    Ok(())
}

/// What the answer could not carry is refused, rather than dropped in silence.
fn check_served(fields: &Map<String, Value>) -> Result<(), ApiError> {
    let refuse =
        |param: &str, message: &str| Err(ApiError::invalid(param, "unsupported_value", message));
    if fields.get("n").and_then(Value::as_i64).unwrap_or(1) != 1 {
        return refuse("n", "a persona gives one answer: `n` must be 1");
    }
    if flag(fields, "logprobs") {
        return refuse("logprobs", "personas give no log probabilities");
    }
    let modalities = fields.get("modalities").and_then(Value::as_array);
    if modalities.is_some_and(|all| all.iter().any(|one| one != "text")) {
        return refuse("modalities", "personas answer with text only");
    }
    for deprecated in ["functions", "function_call"] {
        if fields.get(deprecated).is_some_and(|v| !v.is_null()) {
            return refuse(deprecated, "use `tools` and `tool_choice`");
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn flag(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn expect(param: &str, value: &Value, wanted: Type) -> Result<(), ApiError> {
    let fits = match wanted {
        Type::Text => value.is_string(),
        Type::Flag => value.is_boolean(),
        Type::Integer => value.is_i64() || value.is_u64(),
        Type::Number => value.is_number(),
        Type::List => value.is_array(),
        Type::Object => value.is_object(),
        Type::TextOrList => value.is_string() || value.is_array(),
        Type::TextOrObject => value.is_string() || value.is_object(),
    };
    if fits {
        return Ok(());
    }
    let wanted = match wanted {
        Type::Text => "a string",
        Type::Flag => "a boolean",
        Type::Integer => "an integer",
        Type::Number => "a number",
        Type::List => "an array",
        Type::Object => "an object",
        Type::TextOrList => "a string or an array",
        Type::TextOrObject => "a string or an object",
    };
    let message = format!(
        "invalid type for `{param}`: expected {wanted}, but got {}",
        name_of(value)
    );
    Err(ApiError::invalid(param, "invalid_type", message))
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(name: &str, value: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"model": "helper", "messages": [{"role": "user", "content": "hi"}]});
        body[name] = value;
        parse(body.to_string().as_bytes())
    }

    #[test]
    fn unknown_fields_pass_and_known_ones_are_read() {
        let request = with("reasoning_budget", json!({"x": [1, null]})).expect("passes");
        assert_eq!(request.body["reasoning_budget"]["x"][0], 1);
        assert_eq!((request.model.as_str(), request.stream), ("helper", false));
        let request = parse(
            br#"{"model":"a/b","stream":true,"stream_options":{"include_usage":true},
                 "temperature":null,"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}]}"#,
        )
        .expect("passes");
        assert!(request.stream && request.include_usage);
    }

    #[test]
    fn wrong_types_are_answered_with_the_name_of_the_field() {
        for (name, value, param) in [
            ("temperature", json!("0.2"), "temperature"),
            ("max_tokens", json!(1.5), "max_tokens"),
            ("stream", json!("true"), "stream"),
            ("stop", json!(3), "stop"),
            ("tools", json!({}), "tools"),
            ("tool_choice", json!([]), "tool_choice"),
            ("messages", json!("hi"), "messages"),
            ("messages", json!([]), "messages"),
            ("messages", json!(["hi"]), "messages[0]"),
            ("messages", json!([{"content": "hi"}]), "messages[0].role"),
            ("messages", json!([{"role": "king"}]), "messages[0].role"),
            (
                "messages",
                json!([{"role": "user", "content": 1}]),
                "messages[0].content",
            ),
            ("messages", Value::Null, "messages"),
            ("model", json!(4), "model"),
            ("model", Value::Null, "model"),
            ("n", json!(2), "n"),
            ("logprobs", json!(true), "logprobs"),
            ("modalities", json!(["text", "audio"]), "modalities"),
            ("functions", json!([]), "functions"),
            (
                "stream_options",
                json!({"include_usage": true}),
                "stream_options",
            ),
        ] {
            let error = with(name, value.clone()).expect_err(name);
            assert_eq!(error.status, 400, "{name} = {value}");
            assert_eq!(error.param.as_deref(), Some(param), "{name} = {value}");
            assert!(!error.message.is_empty());
        }
        let error = with("temperature", json!("0.2")).expect_err("a string");
        assert_eq!(
            error.message,
            "invalid type for `temperature`: expected a number, but got a string"
        );
    }

    #[test]
    fn a_body_is_neither_nested_too_deeply_nor_of_too_many_values() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            let value = serde_json::from_str(&format!("{open}{close}")).expect("JSON");
            with("x", value)
        };
        // The object around it is a level, too.
        assert!(nested(MOST_LEVELS - 1).is_ok());
        let error = nested(MOST_LEVELS).expect_err("too deep");
        assert_eq!((error.status, error.code.as_str()), (400, "invalid_json"));
        assert!(error.message.contains("100 levels"), "{}", error.message);
        let objects = |count: usize| with("x", json!(vec![json!({"": 0}); count]));
        assert!(objects(MOST_VALUES / 2 - 10).is_ok());
        let error = objects(MOST_VALUES / 2).expect_err("too many");
        assert_eq!(
            (error.status, error.code.as_str()),
            (400, "too_many_values")
        );
    }

    #[test]
    fn what_looks_like_values_in_a_text_is_text() {
        let text = r#"\",[{"#.repeat(MOST_VALUES);
        let request = with("messages", json!([{"role": "user", "content": text}]));
        assert!(request.is_ok());
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        for body in ["", "{", "[]", "3", "null", "\u{0}"] {
            let error = parse(body.as_bytes()).expect_err(body);
            assert_eq!((error.status, error.param), (400, None), "{body:?}");
        }
    }
}
