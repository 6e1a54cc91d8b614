//! What a worker needs to know of a persona, as it travels through the queue. No secrets: a
//! credential is a reference to a file that the worker has mounted.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::names::MODELS_DIR;
use super::{Adapter, Generation, ModelServerKind, Persona, Provider, SecretKeyRef};

/// The runtime configuration of a persona, stored as JSON beside its queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PersonaConfig {
    /// `metadata.generation` it was made from; workers cache by it.
    pub generation: i64,
    /// Which API the model is behind.
    pub provider: Provider,
    /// The provider's name of the model.
    pub model: String,
    /// Base URL of the model's API; absent where the provider's own or the pod's sidecar is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The key of a mounted Secret that authorizes the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretKeyRef>,
    /// LoRA adapter to select.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// System prompt, put before the client's messages.
    #[serde(default)]
    pub instructions: String,
    /// Defaults for fields that the client's request leaves out.
    #[serde(default)]
    pub generation_settings: Generation,
    /// Milliseconds one attempt may run.
    pub timeout_ms: u64,
    /// Attempts before a task is dead.
    pub max_attempts: u32,
}

impl PersonaConfig {
    /// Reads the configuration off the manifest.
    pub fn of(persona: &Persona) -> Self {
        let spec = &persona.spec;
        Self {
            generation: persona.metadata.generation.unwrap_or_default(),
            provider: spec.model.provider,
            model: spec.model.name.clone(),
            endpoint: spec.model.endpoint.clone(),
            api_key: spec.model.api_key_secret_ref.clone(),
            adapter: spec.adapter.clone(),
            instructions: spec.instructions.clone(),
            generation_settings: spec.generation.clone(),
            timeout_ms: spec.timeout.as_millis(),
            max_attempts: spec.max_attempts,
        }
    }
}

/// The name that vLLM has an adapter under: of two personas' adapters of one name each is another one, if their
/// sources are.
pub fn served_name(adapter: &Adapter) -> String {
    let digest = Sha256::digest(&adapter.source);
    format!("{}-{}", adapter.name, hex::encode(&digest[..4]))
}

/// What a worker says that its model server holds, for an adapter that is named so there.
pub fn adapter_item(name: &str) -> String {
    format!("adapter/{name}")
}

/// What a worker says that Ollama has in memory, for a model of this name.
pub fn model_item(name: &str) -> String {
    if name.contains(':') {
        format!("model/{name}")
    } else {
        // The tag that Ollama means by none.
        format!("model/{name}:latest")
    }
}

/// The lane of a persona that needs no credential.
pub const PLAIN_LANE: &str = "-";

/// What a worker must hold to serve the persona (data-plane.md, "lane"): `-`, `<secret>/<key>`, or the
/// model in its own pod, with the adapter where the server has only those that it was started with.
pub fn lane(persona: &Persona) -> String {
    let model = &persona.spec.model;
    if let Some(reference) = &model.api_key_secret_ref {
        return format!("{}/{}", reference.name, reference.key);
    }
    match (model.served_by(), &persona.spec.adapter) {
        (Some(ModelServerKind::LlamaCpp), Some(adapter)) => {
            adapter_lane(&model.name, &model_file(&adapter.source))
        }
        (Some(_), _) => model_lane(&model.name),
        (None, _) => PLAIN_LANE.to_owned(),
    }
}

/// The lane of personas whose model is served in the worker's own pod: a hash, because names of models
/// may have any letter. No Secret is called `_model`.
pub fn model_lane(model: &str) -> String {
    hashed_lane(&[model])
}

/// The lane of personas whose model is served in the worker's own pod with an adapter of this file.
pub fn adapter_lane(model: &str, file: &str) -> String {
    hashed_lane(&[model, file])
}

fn hashed_lane(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\n"));
    format!("_model/{}", hex::encode(&digest[..8]))
}

/// Where a model server finds a file that a persona names: in the folder of model files, unless the name
/// is absolute. Controller and worker both know a file by this.
pub fn model_file(name: &str) -> String {
    if name.starts_with('/') {
        name.to_owned()
    } else {
        format!("{MODELS_DIR}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lane_of(kind: &str, adapter: Option<&str>) -> String {
        let adapter = adapter.map(|source| json!({"name": "a", "source": source}));
        let mut spec = json!({"model": {
            "provider": "OpenAICompatible", "name": "m", "server": {"kind": kind},
        }});
        if let Some(adapter) = adapter {
            spec["adapter"] = adapter;
        }
        let persona = json!({
            "apiVersion": "persona.dev/v1alpha1", "kind": "Persona", "metadata": {"name": "p"}, "spec": spec,
        });
        lane(&serde_json::from_value(persona).expect("a persona"))
    }

    #[test]
    fn adapters_of_one_name_are_told_apart_by_their_sources() {
        let served = |source: &str| {
            served_name(&Adapter {
                name: "v1".into(),
                source: source.into(),
            })
        };
        assert_ne!(served("/one"), served("/two"));
        assert_eq!(served("/one"), served("/one"));
    }

    #[test]
    fn only_workers_whose_llama_cpp_has_the_adapter_serve_its_persona() {
        assert_eq!(lane_of("LlamaCpp", None), model_lane("m"));
        let with = lane_of("LlamaCpp", Some("lora/a.gguf"));
        assert_eq!(with, adapter_lane("m", "/models/lora/a.gguf"));
        assert_ne!(with, lane_of("LlamaCpp", Some("lora/b.gguf")));
        // vLLM loads it when a request comes.
        assert_eq!(lane_of("vLLM", Some("lora/a")), model_lane("m"));
    }

    #[test]
    fn files_are_in_the_folder_of_models_unless_their_names_are_absolute() {
        assert_eq!(model_file("lora/a.gguf"), "/models/lora/a.gguf");
        assert_eq!(model_file("/weights/a.gguf"), "/weights/a.gguf");
    }
}
