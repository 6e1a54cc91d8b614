//! What names of real models are read as: as people write them for each server.

use super::{model, persona};
use crate::placement::{Offer, local_class, requirements};
use crate::placement::{parameters, requirements::bits};
use serde_json::json;

/// Server (`o` Ollama, `v` vLLM, `l` llama.cpp), name, billions of weights as its public source states
/// them, bits a weight, class with 4 slots of 4096 tokens on the default ladder, source: a repository on
/// huggingface.co, or `ollama/NAME` for ollama.com/library/NAME.
#[rustfmt::skip]
const MODELS: &[(char, &str, f64, f64, &str, &str)] = &[
    // Llama
    ('o', "llama3.2:1b", 1.24, 4.89, "cpu", "meta-llama/Llama-3.2-1B"),
    ('o', "llama3.2:3b", 3.21, 4.89, "cpu", "meta-llama/Llama-3.2-3B"),
    ('o', "llama3.2", 3.21, 4.89, "cpu", "ollama/llama3.2"),
    ('o', "llama3:instruct", 8.03, 4.89, "gpu-16Gi", "ollama/llama3"),
    ('o', "llama3.1:8b-instruct-q8_0", 8.03, 8.50, "gpu-16Gi", "meta-llama/Llama-3.1-8B"),
    ('o', "llama3.1:70b", 70.6, 4.89, "gpu-80Gi", "meta-llama/Llama-3.1-70B"),
    ('o', "llama3.3", 70.6, 4.89, "gpu-80Gi", "meta-llama/Llama-3.3-70B-Instruct"),
    ('o', "llama2:13b", 13.0, 4.89, "gpu-40Gi", "meta-llama/Llama-2-13b-hf"),
    ('o', "llama4:scout", 108.6, 4.89, "gpu-80Gi", "meta-llama/Llama-4-Scout-17B-16E"),
    ('o', "codellama:34b", 33.7, 4.89, "gpu-40Gi", "codellama/CodeLlama-34b-hf"),
    ('v', "meta-llama/Llama-3.2-3B-Instruct", 3.21, 16.0, "gpu-16Gi", "meta-llama/Llama-3.2-3B-Instruct"),
    ('v', "meta-llama/Llama-3.1-8B-Instruct", 8.03, 16.0, "gpu-24Gi", "meta-llama/Llama-3.1-8B-Instruct"),
    ('v', "meta-llama/Llama-3.3-70B-Instruct", 70.6, 16.0, "gpu-192Gi", "meta-llama/Llama-3.3-70B-Instruct"),
    ('v', "meta-llama/Llama-4-Scout-17B-16E-Instruct", 108.6, 16.0, "gpu-2x141Gi", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
    ('v', "meta-llama/Llama-3.1-405B-Instruct-FP8", 405.9, 8.0, "gpu-4x141Gi", "meta-llama/Llama-3.1-405B-Instruct-FP8"),
    ('v', "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4", 70.6, 4.25, "gpu-80Gi", "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"),
    ('v', "nvidia/Llama-3_1-Nemotron-Ultra-253B-v1", 253.0, 16.0, "gpu-4x192Gi", "nvidia/Llama-3_1-Nemotron-Ultra-253B-v1"),
    ('v', "TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1.10, 16.0, "gpu-16Gi", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    ('l', "llama-2-7b-chat.Q4_K_M.gguf", 6.74, 4.89, "gpu-16Gi", "meta-llama/Llama-2-7b-chat-hf"),
    ('l', "bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0", 1.24, 8.50, "cpu", "bartowski/Llama-3.2-1B-Instruct-GGUF"),
    ('l', "/models/Meta-Llama-3.1-8B-Instruct-IQ4_XS.gguf", 8.03, 4.46, "gpu-16Gi", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    // Qwen
    ('o', "qwen2.5:0.5b", 0.49, 4.89, "cpu", "Qwen/Qwen2.5-0.5B-Instruct"),
    ('o', "qwen2.5:7b", 7.62, 4.89, "gpu-16Gi", "Qwen/Qwen2.5-7B-Instruct"),
    ('o', "qwen2.5-coder:32b", 32.8, 4.89, "gpu-40Gi", "Qwen/Qwen2.5-Coder-32B-Instruct"),
    ('o', "qwen3", 8.19, 4.89, "gpu-16Gi", "ollama/qwen3"),
    ('o', "qwen3:30b-a3b", 30.5, 4.89, "gpu-24Gi", "Qwen/Qwen3-30B-A3B"),
    ('o', "qwq", 32.8, 4.89, "gpu-40Gi", "Qwen/QwQ-32B"),
    ('v', "Qwen/Qwen2.5-1.5B-Instruct", 1.54, 16.0, "gpu-16Gi", "Qwen/Qwen2.5-1.5B-Instruct"),
    ('v', "Qwen/Qwen2.5-14B-Instruct-1M", 14.8, 16.0, "gpu-40Gi", "Qwen/Qwen2.5-14B-Instruct-1M"),
    ('v', "Qwen/Qwen2.5-72B-Instruct", 72.7, 16.0, "gpu-192Gi", "Qwen/Qwen2.5-72B-Instruct"),
    ('v', "Qwen/Qwen2.5-72B-Instruct-AWQ", 72.7, 4.25, "gpu-80Gi", "Qwen/Qwen2.5-72B-Instruct-AWQ"),
    ('v', "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", 7.62, 8.25, "gpu-16Gi", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8"),
    ('v', "Qwen/Qwen3-235B-A22B-FP8", 235.0, 8.0, "gpu-2x192Gi", "Qwen/Qwen3-235B-A22B-FP8"),
    ('v', "Qwen/Qwen1.5-MoE-A2.7B-Chat", 14.3, 16.0, "gpu-80Gi", "Qwen/Qwen1.5-MoE-A2.7B-Chat"),
    ('l', "Qwen3-8B-UD-Q4_K_XL.gguf", 8.19, 4.97, "gpu-16Gi", "unsloth/Qwen3-8B-GGUF"),
    // Mistral
    ('o', "mistral", 7.25, 4.89, "gpu-16Gi", "ollama/mistral"),
    ('o', "mistral:7b-instruct-q4_0", 7.25, 4.64, "gpu-16Gi", "mistralai/Mistral-7B-Instruct-v0.3"),
    ('o', "mixtral:8x7b", 46.7, 4.89, "gpu-40Gi", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    ('o', "mixtral:8x22b", 140.6, 4.89, "gpu-141Gi", "mistralai/Mixtral-8x22B-Instruct-v0.1"),
    ('o', "dolphin-mixtral", 46.7, 4.89, "gpu-40Gi", "ollama/dolphin-mixtral"),
    ('o', "mistral-nemo", 12.2, 4.89, "gpu-16Gi", "ollama/mistral-nemo"),
    ('v', "mistralai/Mistral-7B-Instruct-v0.3", 7.25, 16.0, "gpu-24Gi", "mistralai/Mistral-7B-Instruct-v0.3"),
    ('v', "mistralai/Mistral-Nemo-Instruct-2407", 12.2, 16.0, "gpu-40Gi", "mistralai/Mistral-Nemo-Instruct-2407"),
    ('v', "mistralai/Mistral-Small-24B-Instruct-2501", 23.6, 16.0, "gpu-80Gi", "mistralai/Mistral-Small-24B-Instruct-2501"),
    ('v', "mistralai/Mistral-Large-Instruct-2407", 122.6, 16.0, "gpu-2x192Gi", "mistralai/Mistral-Large-Instruct-2407"),
    ('v', "mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7, 16.0, "gpu-141Gi", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    ('v', "mistralai/Codestral-22B-v0.1", 22.2, 16.0, "gpu-80Gi", "mistralai/Codestral-22B-v0.1"),
    ('v', "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ", 46.7, 4.25, "gpu-40Gi", "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ"),
    // Gemma
    ('o', "gemma2:2b", 2.61, 4.89, "cpu", "google/gemma-2-2b-it"),
    ('o', "gemma3", 4.30, 4.89, "cpu", "ollama/gemma3"),
    ('o', "gemma3:27b-it-q8_0", 27.4, 8.50, "gpu-40Gi", "google/gemma-3-27b-it"),
    ('o', "gemma3n:e4b", 7.85, 4.89, "gpu-16Gi", "google/gemma-3n-E4B-it"),
    ('v', "google/gemma-7b-it", 8.54, 16.0, "gpu-40Gi", "google/gemma-7b-it"),
    ('v', "google/gemma-2-9b-it", 9.24, 16.0, "gpu-40Gi", "google/gemma-2-9b-it"),
    ('v', "google/gemma-2-27b-it", 27.2, 16.0, "gpu-80Gi", "google/gemma-2-27b-it"),
    // Phi
    ('o', "phi3:mini", 3.82, 4.89, "cpu", "microsoft/Phi-3-mini-4k-instruct"),
    ('o', "phi3:medium", 14.0, 4.89, "gpu-16Gi", "microsoft/Phi-3-medium-4k-instruct"),
    ('o', "phi4", 14.7, 4.89, "gpu-16Gi", "ollama/phi4"),
    ('v', "microsoft/phi-2", 2.78, 16.0, "gpu-16Gi", "microsoft/phi-2"),
    ('v', "microsoft/Phi-3-mini-128k-instruct", 3.82, 16.0, "gpu-24Gi", "microsoft/Phi-3-mini-128k-instruct"),
    ('v', "microsoft/Phi-3.5-MoE-instruct", 41.9, 16.0, "gpu-141Gi", "microsoft/Phi-3.5-MoE-instruct"),
    ('v', "microsoft/Phi-4-mini-instruct", 3.84, 16.0, "gpu-16Gi", "microsoft/Phi-4-mini-instruct"),
    // DeepSeek
    ('o', "deepseek-r1", 8.19, 4.89, "gpu-16Gi", "ollama/deepseek-r1"),
    ('o', "deepseek-r1:671b", 671.0, 4.89, "gpu-4x141Gi", "ollama/deepseek-r1"),
    ('o', "deepseek-coder-v2", 15.7, 4.89, "gpu-16Gi", "ollama/deepseek-coder-v2"),
    ('v', "deepseek-ai/DeepSeek-R1", 671.0, 8.0, "gpu-8x141Gi", "deepseek-ai/DeepSeek-R1"),
    ('v', "deepseek-ai/DeepSeek-V3-0324", 671.0, 8.0, "gpu-8x141Gi", "deepseek-ai/DeepSeek-V3-0324"),
    ('v', "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.78, 16.0, "gpu-16Gi", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    ('v', "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 70.6, 16.0, "gpu-192Gi", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"),
    ('v', "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 8.19, 16.0, "gpu-24Gi", "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B"),
    ('v', "deepseek-ai/DeepSeek-V2-Lite-Chat", 15.7, 16.0, "gpu-40Gi", "deepseek-ai/DeepSeek-V2-Lite-Chat"),
    ('v', "deepseek-ai/deepseek-coder-6.7b-instruct", 6.74, 16.0, "gpu-40Gi", "deepseek-ai/deepseek-coder-6.7b-instruct"),
    // gpt-oss
    ('o', "gpt-oss", 20.9, 4.89, "gpu-16Gi", "ollama/gpt-oss"),
    ('o', "gpt-oss:120b", 116.8, 4.47, "gpu-80Gi", "openai/gpt-oss-120b"),
    ('v', "openai/gpt-oss-20b", 20.9, 5.27, "gpu-24Gi", "openai/gpt-oss-20b"),
    ('v', "openai/gpt-oss-120b", 116.8, 4.47, "gpu-80Gi", "openai/gpt-oss-120b"),
    // Others
    ('o', "smollm2:135m", 0.135, 4.89, "cpu", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ('o', "command-r-plus", 104.0, 4.89, "gpu-80Gi", "CohereForAI/c4ai-command-r-plus-08-2024"),
    ('o', "starcoder2:15b", 16.0, 4.89, "gpu-16Gi", "bigcode/starcoder2-15b"),
    ('o', "yi:34b", 34.4, 4.89, "gpu-40Gi", "01-ai/Yi-1.5-34B-Chat"),
    ('o', "granite3.1-dense:2b", 2.53, 4.89, "cpu", "ibm-granite/granite-3.1-2b-instruct"),
    ('o', "solar:10.7b", 10.7, 4.89, "gpu-16Gi", "upstage/SOLAR-10.7B-Instruct-v1.0"),
    ('o', "nomic-embed-text", 0.137, 4.89, "cpu", "nomic-ai/nomic-embed-text-v1.5"),
    ('v', "CohereForAI/c4ai-command-r-v01", 35.0, 16.0, "gpu-141Gi", "CohereForAI/c4ai-command-r-v01"),
    ('v', "zai-org/GLM-4.5-Air", 106.0, 16.0, "gpu-2x141Gi", "zai-org/GLM-4.5-Air"),
    ('v', "moonshotai/Kimi-K2-Instruct", 1026.0, 8.0, "gpu-8x192Gi", "moonshotai/Kimi-K2-Instruct"),
    ('v', "tiiuae/falcon-40b-instruct", 41.8, 16.0, "gpu-141Gi", "tiiuae/falcon-40b-instruct"),
    ('v', "databricks/dbrx-instruct", 132.0, 16.0, "gpu-2x192Gi", "databricks/dbrx-instruct"),
    ('v', "allenai/OLMoE-1B-7B-0924-Instruct", 6.92, 16.0, "gpu-24Gi", "allenai/OLMoE-1B-7B-0924-Instruct"),
    ('v', "HuggingFaceH4/zephyr-7b-beta", 7.24, 16.0, "gpu-24Gi", "HuggingFaceH4/zephyr-7b-beta"),
];

#[test]
fn real_names_are_read_as_their_sources_state() {
    assert!(MODELS.len() >= 60, "{} names", MODELS.len());
    let mut wrong = Vec::new();
    for (server, name, billions, per_weight, class, source) in MODELS {
        let model = model(*server, name);
        let read = parameters::of(model.provider, name).unwrap_or_default();
        let found = bits(&model, read).per_weight;
        let needs = requirements(&model, 4).expect(name);
        let placed = local_class(&model, &Offer::default()).expect(name);
        let off = (read / billions - 1.0).abs();
        let same = (found - per_weight).abs() < 0.005 && placed.to_string() == *class;
        if off > 0.04 || !same {
            wrong.push(format!(
                "{server} {name}: {read}B of {billions} at {found} bits: {} MiB on {placed} ({source})",
                needs.memory_mib
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_is_stated_replaces_what_the_name_says() {
    let needs = |requirements: serde_json::Value| {
        let model =
            json!({"provider": "Ollama", "name": "llama3.2:3b", "requirements": requirements});
        requirements_of(&model)
    };
    let plain = needs(json!({}));
    assert!(needs(json!({"parameters": "70B"})).memory_mib > 8 * plain.memory_mib);
    assert!(needs(json!({"quantization": "F16"})).memory_mib > plain.memory_mib + 4000);
    let long = needs(json!({"contextTokens": 131_072}));
    assert!(
        long.memory_mib > 57_344,
        "112 KiB x 131,072 tokens x 4 slots: {long:?}"
    );
    let stated = needs(json!({"memory": "10Gi", "parameters": "70B"}));
    assert_eq!((stated.memory_mib, stated.stated), (10 * 1024, true));
}

fn requirements_of(model: &serde_json::Value) -> crate::placement::Requirements {
    requirements(&persona(model).spec.model, 4).expect("requirements")
}

#[test]
fn memory_alone_places_a_model_of_unknown_size() {
    let model = json!({"provider": "Ollama", "name": "acme", "requirements": {"memory": "20G"}});
    let needs = requirements_of(&model);
    assert_eq!((needs.billions, needs.memory_mib), (None, 19_074));
}

#[test]
fn what_cannot_be_read_says_what_to_set() {
    for (requirements, reason, field) in [
        (
            json!({}),
            "SizeUnknown",
            "spec.model.requirements.parameters",
        ),
        (
            json!({"parameters": "many"}),
            "RequirementsInvalid",
            "like 3B or 8x7B",
        ),
        (
            json!({"parameters": "3B", "quantization": "Q9"}),
            "RequirementsInvalid",
            "Q4_K_M",
        ),
        (json!({"memory": "much"}), "RequirementsInvalid", "like 4Gi"),
    ] {
        let model =
            json!({"provider": "Ollama", "name": "acme-chat", "requirements": requirements});
        let unplaced =
            crate::placement::requirements(&persona(&model).spec.model, 4).expect_err("unplaced");
        assert_eq!(unplaced.reason, reason);
        assert!(unplaced.message.contains(field), "{}", unplaced.message);
    }
}
