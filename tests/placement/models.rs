//! From a model's name to the node that its workers land on.

use anyhow::{Result, anyhow};
use persona_operator::api::{Model, PersonaTopologySpec};
use persona_operator::placement::{Offer, local_class};
use serde_json::json;

use crate::fleet::{Fleet, Place};

/// Provider, server, model, class and nodes.
const CASES: &[(&str, &str, &str, &str, &[&str])] = &[
    (
        "Ollama",
        "Ollama",
        "llama3.2:1b",
        "cpu",
        &["cpu-a", "cpu-b"],
    ),
    (
        "Ollama",
        "Ollama",
        "llama3.2:3b",
        "cpu",
        &["cpu-a", "cpu-b"],
    ),
    (
        "OpenAICompatible",
        "LlamaCpp",
        "Qwen2.5-1.5B-Instruct-Q8_0.gguf",
        "cpu",
        &["cpu-a", "cpu-b"],
    ),
    (
        "Ollama",
        "Ollama",
        "llama3.1:8b",
        "gpu-24Gi",
        &["l4", "a10"],
    ),
    ("Ollama", "Ollama", "mistral", "gpu-24Gi", &["l4", "a10"]),
    (
        "OpenAICompatible",
        "vLLM",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "gpu-24Gi",
        &["l4", "a10"],
    ),
    (
        "OpenAICompatible",
        "vLLM",
        "meta-llama/Llama-3.1-8B-Instruct",
        "gpu-24Gi",
        &["l4", "a10"],
    ),
    ("Ollama", "Ollama", "mixtral:8x7b", "gpu-40Gi", &["a100-40"]),
    (
        "OpenAICompatible",
        "vLLM",
        "google/gemma-2-9b-it",
        "gpu-40Gi",
        &["a100-40"],
    ),
    (
        "Ollama",
        "Ollama",
        "llama3.1:70b",
        "gpu-80Gi",
        &["a100-80", "h100"],
    ),
    (
        "OpenAICompatible",
        "vLLM",
        "openai/gpt-oss-120b",
        "gpu-80Gi",
        &["a100-80", "h100"],
    ),
    (
        "OpenAICompatible",
        "vLLM",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "gpu-141Gi",
        &["h200"],
    ),
    (
        "OpenAICompatible",
        "vLLM",
        "meta-llama/Llama-3.3-70B-Instruct",
        "gpu-2x141Gi",
        &["h200"],
    ),
    (
        "OpenAICompatible",
        "vLLM",
        "meta-llama/Llama-3.1-405B-Instruct-FP8",
        "gpu-4x141Gi",
        &["h200"],
    ),
    (
        "OpenAICompatible",
        "vLLM",
        "deepseek-ai/DeepSeek-R1",
        "gpu-8x141Gi",
        &["h200"],
    ),
];

#[tokio::test]
async fn models_land_on_the_smallest_nodes_that_hold_them() -> Result<()> {
    let fleet = Fleet::join().await?;
    let topology: PersonaTopologySpec =
        serde_json::from_value(json!({"gpuSizes": [24, 40, 80, 141]}))?;
    let mut wrong = Vec::new();
    for (at, (provider, server, name, class, nodes)) in CASES.iter().enumerate() {
        let model = json!({"provider": provider, "name": name, "server": {"kind": server}});
        let model: Model = serde_json::from_value(model)?;
        let found = local_class(&model, &Offer::of(&topology)).map_err(|u| anyhow!(u.message))?;
        let place = fleet
            .tried(&format!("model-{at}"), found.placement(None))
            .await?;
        let there = matches!(&place, Place::Node(node) if nodes.contains(&node.as_str()));
        if !there || found.to_string() != *class {
            wrong.push(format!(
                "{name}: {found} on {place:?}, not {class} on {nodes:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
