//! Which resource class of workers a persona's model needs. Pure.
//!
//! - [`requirements`] memory of a model, from `parameters` (how many weights), `quantization` (bits of
//!   each) and its KV cache; `known` has the models whose names do not tell
//! - [`class`] from memory to a class of workers: `api`, `cpu`, `gpu-24Gi`, `gpu-2x80Gi`

pub mod class;
mod known;
mod parameters;
mod quantization;
pub mod requirements;
#[cfg(test)]
mod tests;

use crate::api::{Persona, Provider};
pub use class::Class;
pub use requirements::{Requirements, requirements};

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
