//! Which resource class of workers a persona's model needs. Pure.
//!
//! - [`requirements`] memory of a model, from `parameters` (how many weights), `quantization` (bits of
//!   each) and its KV cache; `known` has the models whose names do not tell
//! - [`server`] what runs it in a pool's pods
//! - [`class`] from memory to a class of workers: `api`, `cpu`, `gpu-24Gi`, `gpu-2x80Gi`

pub mod class;
mod known;
mod parameters;
mod quantization;
pub mod requirements;
pub mod server;
#[cfg(test)]
mod tests;

use crate::api::{Model, ModelServerKind, Persona, PersonaTopologySpec, Provider};
pub use class::Class;
pub use requirements::{Requirements, requirements};
pub use server::Server;

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

/// What a topology offers to local models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its ladder of GPU sizes, nominal GiB; the rest is zero.
    sizes: [u32; MOST_SIZES],
    /// Requests that a CPU worker answers at once.
    cpu_slots: u32,
    /// Requests that a GPU worker answers at once.
    gpu_slots: u32,
}

/// Sizes of GPUs that a topology may have, by its schema.
const MOST_SIZES: usize = 16;

impl Offer {
    /// Of a topology.
    pub fn of(spec: &PersonaTopologySpec) -> Self {
        let mut sizes = [0; MOST_SIZES];
        for (slot, size) in sizes.iter_mut().zip(&spec.gpu_sizes) {
            *slot = *size;
        }
        let gpu_pool = spec.gpu_pool.as_ref().unwrap_or(&spec.pool);
        Self {
            sizes,
            cpu_slots: spec.pool.slots_per_worker,
            gpu_slots: gpu_pool.slots_per_worker,
        }
    }
}

impl Default for Offer {
    fn default() -> Self {
        Self::of(&PersonaTopologySpec::default())
    }
}

/// The class of workers that can run a local model: on CPUs where it fits, else on the GPUs of the
/// topology's ladder.
///
/// # Errors
/// [`Unplaced`] where its size is not known, or no GPUs hold it.
pub fn local_class(model: &Model, offer: &Offer) -> Result<Class, Unplaced> {
    let server = model.server.as_ref().map(|server| server.kind);
    // vLLM's image needs a GPU, however small the model.
    let on_cpu = server != Some(ModelServerKind::Vllm)
        && class::fits_cpu(&requirements(model, offer.cpu_slots)?);
    if on_cpu {
        return Ok(Class::Cpu);
    }
    let sizes = offer.sizes.iter().filter(|size| **size > 0).copied();
    let sizes: Vec<u32> = sizes.collect();
    class::on_gpus(&requirements(model, offer.gpu_slots)?, &sizes)
}

/// The resource class of a persona (topology.md, "Assignment"): the same answer in every phase,
/// because no phase makes a large model fit a small worker.
///
/// # Errors
/// [`Unplaced`] where no class of workers can run the model.
pub fn class_of(persona: &Persona, offer: &Offer) -> Result<Class, Unplaced> {
    let model = &persona.spec.model;
    if Server::of(model).is_some() {
        return local_class(model, offer);
    }
    if model.provider == Provider::OpenAICompatible && model.endpoint.is_none() {
        return Err(Unplaced {
            reason: "EndpointRequired",
            message: "spec.model.endpoint is not set, and OpenAICompatible has no address of its own: \
                      set it to the base URL of the model's API, or spec.model.server to run one in the \
                      pool's pods"
                .to_owned(),
        });
    }
    Ok(Class::Api)
}
