//! What a persona adds to a client's request. Pure; in OpenAI's form, from which others are made.

use serde_json::{Map, Value, json};

use super::ProviderError;
use crate::api::{Generation, runtime::PersonaConfig};

/// The client's request with the persona's model, its instructions before the client's messages, and
/// its generation settings where the request leaves a field out (or sends `null`). Fields that are
/// unknown here stay as they are. `limit_field` is the name under which the most tokens of an answer go.
///
/// # Errors
/// [`ProviderError::Rejected`] for what a stream of one answer cannot carry.
pub fn compose(
    config: &PersonaConfig,
    mut request: Map<String, Value>,
    limit_field: &str,
) -> Result<Map<String, Value>, ProviderError> {
    refuse_unserved(&request)?;
    let Some(Value::Array(messages)) = request.get_mut("messages") else {
        return Err(rejected("`messages` must be a list of messages"));
    };
    if !config.instructions.is_empty() {
        messages.insert(0, json!({"role": "system", "content": config.instructions}));
    }
    fill(&mut request, &config.generation_settings, limit_field);
    request.insert("model".into(), config.model.clone().into());
    Ok(request)
}

fn refuse_unserved(request: &Map<String, Value>) -> Result<(), ProviderError> {
    if request
        .get("n")
        .and_then(Value::as_f64)
        .is_some_and(|n| n > 1.0)
    {
        return Err(rejected("`n` above 1 is not served: send more requests"));
    }
    if request.get("logprobs").and_then(Value::as_bool) == Some(true) {
        return Err(rejected("`logprobs` are not served"));
    }
    Ok(())
}

fn fill(request: &mut Map<String, Value>, settings: &Generation, limit_field: &str) {
    let left_out =
        |request: &Map<String, Value>, field: &str| request.get(field).is_none_or(Value::is_null);
    let mut default = |field: &str, value: Option<Value>| {
        if let Some(value) = value
            && left_out(request, field)
        {
            request.insert(field.into(), value);
        }
    };
    default("temperature", settings.temperature.map(Value::from));
    default("top_p", settings.top_p.map(Value::from));
    let stop = (!settings.stop.is_empty()).then(|| Value::from(settings.stop.clone()));
    default("stop", stop);
    if LIMIT_FIELDS.iter().all(|field| left_out(request, field))
        && let Some(limit) = settings.max_tokens
    {
        request.insert(limit_field.into(), limit.into());
    }
}

/// Both names that OpenAI's API has for the most tokens of an answer, the newer first.
pub const LIMIT_FIELDS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// A request that the client must change.
pub fn rejected(message: &str) -> ProviderError {
    ProviderError::Rejected {
        status: 400,
        code: Some("invalid_request_error".into()),
        message: message.into(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::api::Provider;

    pub fn config() -> PersonaConfig {
        PersonaConfig {
            generation: 1,
            provider: Provider::OpenAICompatible,
            model: "tiny".into(),
            endpoint: Some("http://127.0.0.1:1/v1".into()),
            api_key: None,
            adapter: None,
            instructions: String::new(),
            generation_settings: Generation::default(),
            timeout_ms: 60_000,
            max_attempts: 3,
        }
    }

    pub fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    fn composed(config: &PersonaConfig, request: Value) -> Value {
        compose(config, object(request), "max_tokens")
            .expect("acceptable")
            .into()
    }

    #[test]
    fn instructions_go_before_the_clients_messages() {
        let mut config = config();
        config.instructions = "Be brief.".into();
        let messages =
            json!([{"role": "system", "content": "mine"}, {"role": "user", "content": "hi"}]);
        let body = composed(&config, json!({"messages": messages, "model": "helper"}));
        assert_eq!(
            body["messages"][0],
            json!({"role": "system", "content": "Be brief."})
        );
        assert_eq!(body["messages"][1], messages[0]);
        assert_eq!(body["messages"][2], messages[1]);
        assert_eq!(body["model"], "tiny");
    }

    #[test]
    fn settings_fill_only_what_the_request_leaves_out() {
        let mut config = config();
        config.generation_settings = Generation {
            temperature: Some(0.2),
            top_p: Some(0.9),
            max_tokens: Some(64),
            stop: vec!["END".into()],
        };
        let body = composed(
            &config,
            json!({"messages": [], "temperature": 1, "top_p": null, "max_completion_tokens": 5}),
        );
        assert_eq!(body["temperature"], 1);
        assert_eq!(body["top_p"], 0.9);
        assert_eq!(body["stop"], json!(["END"]));
        assert_eq!(body["max_completion_tokens"], 5);
        assert_eq!(body.get("max_tokens"), None);
        assert_eq!(composed(&config, json!({"messages": []}))["max_tokens"], 64);
    }

    #[test]
    fn unknown_fields_pass() {
        let body = composed(
            &config(),
            json!({"messages": [], "x_new": {"a": 1}, "tools": []}),
        );
        assert_eq!(body["x_new"], json!({"a": 1}));
        assert_eq!(body["tools"], json!([]));
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for request in [
            json!({}),
            json!({"messages": "hi"}),
            json!({"messages": [], "n": 2}),
            json!({"messages": [], "logprobs": true}),
        ] {
            let error =
                compose(&config(), object(request.clone()), "max_tokens").expect_err("refused");
            assert_eq!(error.http_status(), 400, "{request}");
        }
    }
}
