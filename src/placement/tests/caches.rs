//! KV caches of real models.

use super::model;
use crate::placement::{known, parameters};

/// Server, name, KiB that a token takes at 16 bits, and its source: what `config.json` of a repository on
/// huggingface.co comes to, 2 x layers x KV heads x head size x 2 bytes, or with a latent (MLA)
/// layers x (`kv_lora_rank` + `qk_rope_head_dim`) x 2 bytes.
#[rustfmt::skip]
const CACHES: &[(char, &str, u32, &str)] = &[
    ('v', "deepseek-ai/DeepSeek-R1", 69, "deepseek-ai/DeepSeek-R1: 61 layers, MLA 512 + 64"),
    ('o', "deepseek-r1:671b", 69, "deepseek-ai/DeepSeek-R1"),
    ('v', "deepseek-ai/DeepSeek-V3-0324", 69, "deepseek-ai/DeepSeek-V3-0324"),
    ('v', "deepseek-ai/DeepSeek-V3.1", 69, "deepseek-ai/DeepSeek-V3.1"),
    ('v', "deepseek-ai/DeepSeek-V3.2-Exp", 69, "deepseek-ai/DeepSeek-V3.2-Exp"),
    ('v', "moonshotai/Kimi-K2-Instruct", 69, "moonshotai/Kimi-K2-Instruct: 61 layers, MLA 512 + 64"),
    ('o', "deepseek-coder-v2", 30, "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct: 27 layers, MLA 512 + 64"),
    ('v', "deepseek-ai/deepseek-coder-6.7b-instruct", 512, "deepseek-ai/deepseek-coder-6.7b-instruct: 32 x 32 x 128"),
    ('o', "llama3.2:3b", 112, "meta-llama/Llama-3.2-3B: 28 x 8 x 128"),
    ('o', "llama3.2", 112, "meta-llama/Llama-3.2-3B"),
    ('v', "Qwen/Qwen3-0.6B", 112, "Qwen/Qwen3-0.6B: 28 x 8 x 128"),
    ('o', "qwen3:4b", 144, "Qwen/Qwen3-4B: 36 x 8 x 128"),
    ('o', "qwen3", 144, "Qwen/Qwen3-8B: 36 x 8 x 128"),
    ('o', "qwen3:8b", 144, "Qwen/Qwen3-8B"),
    ('o', "deepseek-r1", 144, "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B: 36 x 8 x 128"),
    ('v', "allenai/OLMo-2-1124-13B-Instruct", 800, "allenai/OLMo-2-1124-13B: 40 x 40 x 128"),
    ('o', "olmo2", 512, "allenai/OLMo-2-1124-7B: 32 x 32 x 128"),
    ('v', "Qwen/Qwen1.5-14B-Chat", 800, "Qwen/Qwen1.5-14B: 40 x 40 x 128"),
    ('o', "gemma", 448, "google/gemma-7b: 28 x 16 x 256"),
    ('o', "gemma:7b", 448, "google/gemma-7b"),
    ('o', "gemma2", 336, "google/gemma-2-9b: 42 x 8 x 256"),
    ('o', "phi", 320, "microsoft/phi-2: 32 x 32 x 80"),
    ('o', "phi3", 384, "microsoft/Phi-3-mini-4k-instruct: 32 x 32 x 96"),
    ('o', "llama2", 512, "meta-llama/Llama-2-7b-hf: 32 x 32 x 128"),
    ('o', "llama2:7b", 512, "meta-llama/Llama-2-7b-hf"),
    ('o', "vicuna", 512, "lmsys/vicuna-7b-v1.5: 32 x 32 x 128"),
    ('o', "codellama", 512, "codellama/CodeLlama-7b-hf: 32 x 32 x 128"),
    ('o', "gpt-oss", 48, "openai/gpt-oss-20b: 24 x 8 x 64"),
    ('o', "mixtral", 128, "mistralai/Mixtral-8x7B-v0.1: 32 x 8 x 128"),
    ('o', "qwen2.5", 56, "Qwen/Qwen2.5-7B: 28 x 4 x 128"),
    ('o', "command-r", 160, "CohereForAI/c4ai-command-r-08-2024: 40 x 8 x 128"),
    ('v', "CohereForAI/c4ai-command-r-v01", 1280, "CohereForAI/c4ai-command-r-v01: 40 x 64 x 128"),
];

fn found(server: char, name: &str) -> Option<f64> {
    let billions = parameters::of(model(server, name).provider, name)?;
    known::cache_kib(name, billions)
}

#[test]
fn caches_of_real_models_are_as_their_sources_state() {
    let wrong: Vec<_> = CACHES
        .iter()
        .filter(|(server, name, kib, _)| {
            found(*server, name).is_none_or(|found| (found - f64::from(*kib)).abs() > 0.5)
        })
        .map(|(server, name, kib, source)| {
            let found = found(*server, name);
            format!("{server} {name}: {found:?} KiB for {kib} ({source})")
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_distilled_model_has_the_cache_of_what_it_was_distilled_into() {
    let name = "deepseek-ai/DeepSeek-R1-Distill-Llama-70B";
    assert_eq!(found('v', name), None, "not DeepSeek-R1's");
}
