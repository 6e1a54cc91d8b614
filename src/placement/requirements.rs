//! Memory that a model needs, from what is stated of it and what its name says.
//!
//! `(weights x bits / 8 + KV cache) x 1.1 + 0.5 GiB`: a tenth for activations and fragments, and half a
//! GiB for the runtime and its compute buffers. vLLM has no fragments, because its cache is paged (`x 1.05`), and
//! takes a share of the GPU only (`/ 0.9`).

use super::{Unplaced, known, parameters, quantization};
use crate::api::{Model, ModelServerKind, Provider};
use quantization::Bits;

/// Tokens of context where `requirements.contextTokens` says nothing: Ollama's default.
const DEFAULT_CONTEXT: u32 = 4096;
/// Share of a GPU that vLLM takes for weights, activations and KV cache (`--gpu-memory-utilization`): the
/// rest is for what it does not count, like CUDA's context and graphs.
pub const VLLM_SHARE: f64 = 0.9;
const MIB: f64 = 1024.0 * 1024.0;
const OVERHEAD: f64 = 1.1;
const VLLM_OVERHEAD: f64 = 1.05;
/// MiB of the runtime itself, on each GPU.
pub const RUNTIME_MIB: u64 = 512;
const RUNTIME: f64 = 512.0;

/// What a model needs of its device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Requirements {
    /// Number of weights in billions; unknown where only the memory is stated.
    pub billions: Option<f64>,
    /// MiB of weights, KV cache and runtime together.
    pub memory_mib: u64,
    /// `requirements.memory` says so: nothing was estimated.
    pub stated: bool,
}

/// What the model needs to serve `slots` requests at once.
///
/// # Errors
/// [`Unplaced`] where neither the name nor `spec.model.requirements` tells.
pub fn requirements(model: &Model, slots: u32) -> Result<Requirements, Unplaced> {
    let stated = model.requirements.clone().unwrap_or_default();
    let billions = match &stated.parameters {
        Some(text) => Some(parameters::stated(text).ok_or_else(|| unreadable(text))?),
        None => parameters::of(model.provider, &model.name),
    };
    if let Some(memory) = &stated.memory {
        let mib = mebibytes(memory).ok_or_else(|| Unplaced {
            reason: "RequirementsInvalid",
            message: format!(
                "spec.model.requirements.memory is {memory}: write a size with a unit, like 4Gi"
            ),
        })?;
        return Ok(Requirements {
            billions,
            memory_mib: whole(mib),
            stated: true,
        });
    }
    let billions = billions.ok_or_else(|| unknown(&model.name))?;
    let bits = match &stated.quantization {
        Some(text) => quantization::in_name(text).ok_or_else(|| Unplaced {
            reason: "RequirementsInvalid",
            message: format!(
                "spec.model.requirements.quantization is {text}, which is not known: write one like \
                 Q4_K_M, Q8_0, F16, AWQ or FP8, or set requirements.memory"
            ),
        })?,
        None => bits(model, billions),
    };
    let tokens = f64::from(context_tokens(model)) * f64::from(slots);
    let cache = tokens * cache_kib(&model.name, billions) / 1024.0;
    let (overhead, share) = match model.served_by() {
        Some(ModelServerKind::Vllm) => (VLLM_OVERHEAD, VLLM_SHARE),
        _ => (OVERHEAD, 1.0),
    };
    let mib = ((weights_mib(billions, bits) + cache) * overhead + RUNTIME) / share;
    Ok(Requirements {
        billions: Some(billions),
        memory_mib: whole(mib),
        stated: false,
    })
}

/// Tokens of context that a request may use: what is stated, else [`DEFAULT_CONTEXT`], or what the model was
/// made for if that is less.
pub fn context_tokens(model: &Model) -> u32 {
    let stated = model.requirements.as_ref().and_then(|r| r.context_tokens);
    stated.unwrap_or_else(|| default_context(&model.name))
}

/// Tokens of context of a model for which nothing is stated.
pub fn default_context(name: &str) -> u32 {
    known::context(name).unwrap_or(DEFAULT_CONTEXT)
}

/// MiB of the weights alone: about the size of their file.
pub(super) fn weights_mib(billions: f64, bits: Bits) -> f64 {
    let at_16 = if bits.embeddings_at_16 {
        // Measured on AWQ and FP8 repositories of 0.5B to 72B: embeddings grow with the root of the size.
        (0.3 * billions.sqrt()).min(billions)
    } else {
        0.0
    };
    (at_16 * 16.0 + (billions - at_16) * bits.per_weight) * 1e9 / 8.0 / MIB
}

/// Bits a weight: what the name says, else what the server takes by default.
pub(super) fn bits(model: &Model, billions: f64) -> Bits {
    let published = known::published_bits(&model.name, billions).map(|per_weight| Bits {
        per_weight,
        embeddings_at_16: false,
    });
    let default = if reads_gguf(model) {
        match published {
            Some(bits) if bits.per_weight < quantization::GGUF_DEFAULT.per_weight => bits,
            _ => quantization::GGUF_DEFAULT,
        }
    } else {
        published.unwrap_or(quantization::FULL)
    };
    quantization::in_name(&model.name).unwrap_or(default)
}

fn reads_gguf(model: &Model) -> bool {
    match &model.server {
        Some(server) => server.kind != ModelServerKind::Vllm,
        None => model.provider == Provider::Ollama,
    }
}

/// KiB of KV cache for a token. With grouped heads, as in most models since 2023, it grows with the
/// root of the size: 128 KiB at 8B (Llama 3), 256 at 32B (Qwen 2.5), 379 for 320 at 70B (Llama 3).
fn cache_kib(name: &str, billions: f64) -> f64 {
    known::cache_kib(name, billions).unwrap_or_else(|| 128.0 * (billions / 8.0).sqrt())
}

/// MiB of a size like `24Gi`, `1.5G` or `512Mi`.
pub fn mebibytes(size: &str) -> Option<f64> {
    let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &size[digits.len()..] {
        "Mi" => 1.0,
        "Gi" => 1024.0,
        "Ti" => 1024.0 * 1024.0,
        "M" => 1e6 / MIB,
        "G" => 1e9 / MIB,
        "T" => 1e12 / MIB,
        _ => return None,
    };
    let size = digits.parse::<f64>().ok()? * factor;
    (size.is_finite() && size > 0.0).then_some(size)
}

/// Rounded up; what is beyond any memory becomes the largest number.
pub(super) fn whole(mib: f64) -> u64 {
    // A cast of a float to an integer stops at the integer's ends.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = mib.ceil() as u64;
    whole
}

fn unknown(name: &str) -> Unplaced {
    Unplaced {
        reason: "SizeUnknown",
        message: format!(
            "the size of model {name} is not known by its name: set spec.model.requirements.parameters \
             to its number of weights, like 3B or 8x7B, or requirements.memory to what it needs, like 4Gi"
        ),
    }
}

fn unreadable(text: &str) -> Unplaced {
    Unplaced {
        reason: "RequirementsInvalid",
        message: format!(
            "spec.model.requirements.parameters is {text}: write a number of weights with M, B or T, \
             like 3B or 8x7B"
        ),
    }
}
