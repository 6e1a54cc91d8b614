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

use crate::api::{Model, ModelServerKind, Persona, PersonaTopologySpec, Provider};
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

/// The class of workers that can run a local model: on CPUs where it fits, else on the GPUs of the
/// topology's ladder.
///
/// # Errors
/// [`Unplaced`] where its size is not known, or no GPUs hold it.
pub fn local_class(model: &Model, spec: &PersonaTopologySpec) -> Result<Class, Unplaced> {
    let server = model.server.as_ref().map(|server| server.kind);
    // vLLM's image needs a GPU, however small the model.
    let on_cpu = server != Some(ModelServerKind::Vllm)
        && class::fits_cpu(&requirements(model, spec.pool.slots_per_worker)?);
    if on_cpu {
        return Ok(Class::Cpu);
    }
    let pool = spec.gpu_pool.as_ref().unwrap_or(&spec.pool);
    class::on_gpus(
        &requirements(model, pool.slots_per_worker)?,
        &spec.gpu_sizes,
    )
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
