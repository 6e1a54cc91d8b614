//! Placement as a whole: real names, real file sizes, classes.

mod caches;
mod classes;
mod files;
mod models;

use serde_json::json;

use crate::api::{Model, Persona};

/// A persona with this model.
fn persona(model: &serde_json::Value) -> Persona {
    serde_json::from_value(json!({
        "apiVersion": "persona.dev/v1alpha1",
        "kind": "Persona",
        "metadata": {"name": "p"},
        "spec": {"model": model},
    }))
    .expect("a persona")
}

/// The model under a server: `o` Ollama, `v` vLLM, `l` llama.cpp.
fn model(server: char, name: &str) -> Model {
    let model = match server {
        'o' => json!({"provider": "Ollama", "name": name}),
        'v' => json!({"provider": "OpenAICompatible", "name": name, "server": {"kind": "vLLM"}}),
        _ => json!({"provider": "OpenAICompatible", "name": name, "server": {"kind": "LlamaCpp"}}),
    };
    persona(&model).spec.model
}
