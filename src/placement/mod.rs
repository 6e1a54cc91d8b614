//! Which resource class of workers a persona's model needs. Pure.

use crate::api::{Persona, Provider};

/// Class of workers that run no model themselves: they call an API.
pub const API: &str = "api";

/// Why no class of workers can run a persona's model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// CamelCase, for the condition.
    pub reason: &'static str,
    /// A sentence that names the field and the mend.
    pub message: String,
}

/// The resource class of a persona (topology.md, "Assignment"): the same answer in every phase,
/// because no phase makes a large model fit a small worker.
///
/// # Errors
/// [`Unplaced`] where no class of workers can run the model.
pub fn class_of(persona: &Persona) -> Result<String, Unplaced> {
    let model = &persona.spec.model;
    if model.endpoint.is_some() {
        return Ok(API.to_owned());
    }
    match model.provider {
        Provider::OpenAI | Provider::Anthropic | Provider::Gemini | Provider::DeepSeek => {
            Ok(API.to_owned())
        }
        Provider::Ollama | Provider::OpenAICompatible => Err(Unplaced {
            reason: "EndpointRequired",
            message: format!(
                "spec.model.endpoint is not set: {} has no address of its own, and model servers in \
                 the pool's pods are not served yet. Set it to the base URL of the model's API",
                model.provider.as_str()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persona(provider: &str, endpoint: Option<&str>) -> Persona {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "Persona",
            "metadata": {"name": "p"},
            "spec": {"model": {"provider": provider, "name": "m", "endpoint": endpoint}},
        }))
        .expect("a persona")
    }

    #[test]
    fn remote_providers_and_endpoints_need_no_model_server() {
        assert_eq!(class_of(&persona("OpenAI", None)), Ok("api".into()));
        assert_eq!(
            class_of(&persona("Ollama", Some("http://ollama:11434"))),
            Ok("api".into())
        );
    }

    #[test]
    fn local_provider_without_endpoint_is_not_placed_and_says_what_to_set() {
        let unplaced = class_of(&persona("Ollama", None)).expect_err("not placed");
        assert_eq!(unplaced.reason, "EndpointRequired");
        assert!(unplaced.message.contains("spec.model.endpoint"));
    }
}
