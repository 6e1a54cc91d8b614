//! How far the estimate of weights is from real GGUF files.

use super::model;
use crate::placement::parameters;
use crate::placement::requirements::{bits, weights_mib};

/// File, its size in GB (10^9 bytes) and the repository on huggingface.co that lists it.
#[rustfmt::skip]
const FILES: &[(&str, f64, &str)] = &[
    ("SmolLM2-1.7B-Instruct-Q4_K_M.gguf", 1.06, "bartowski/SmolLM2-1.7B-Instruct-GGUF"),
    ("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", 0.669, "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF"),
    ("qwen2.5-0.5b-instruct-q4_k_m.gguf", 0.398, "bartowski/Qwen2.5-0.5B-Instruct-GGUF"),
    ("Qwen2.5-1.5B-Instruct-Q4_K_M.gguf", 0.986, "bartowski/Qwen2.5-1.5B-Instruct-GGUF"),
    ("Qwen2.5-3B-Instruct-Q4_K_M.gguf", 1.93, "bartowski/Qwen2.5-3B-Instruct-GGUF"),
    ("Qwen2.5-7B-Instruct-Q4_K_M.gguf", 4.68, "bartowski/Qwen2.5-7B-Instruct-GGUF"),
    ("Qwen2.5-7B-Instruct-Q8_0.gguf", 8.10, "bartowski/Qwen2.5-7B-Instruct-GGUF"),
    ("Qwen2.5-14B-Instruct-Q4_K_M.gguf", 8.99, "bartowski/Qwen2.5-14B-Instruct-GGUF"),
    ("Qwen2.5-32B-Instruct-Q4_K_M.gguf", 19.85, "bartowski/Qwen2.5-32B-Instruct-GGUF"),
    ("Qwen2.5-72B-Instruct-Q4_K_M.gguf", 47.42, "bartowski/Qwen2.5-72B-Instruct-GGUF"),
    ("Qwen3-8B-Q4_K_M.gguf", 5.03, "unsloth/Qwen3-8B-GGUF"),
    ("Qwen3-30B-A3B-Q4_K_M.gguf", 18.56, "unsloth/Qwen3-30B-A3B-GGUF"),
    ("Qwen3-235B-A22B-Q4_K_M.gguf", 142.3, "unsloth/Qwen3-235B-A22B-GGUF"),
    ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", 0.808, "bartowski/Llama-3.2-1B-Instruct-GGUF"),
    ("Llama-3.2-1B-Instruct-Q8_0.gguf", 1.32, "bartowski/Llama-3.2-1B-Instruct-GGUF"),
    ("Llama-3.2-3B-Instruct-Q4_K_M.gguf", 2.02, "bartowski/Llama-3.2-3B-Instruct-GGUF"),
    ("Llama-3.2-3B-Instruct-f16.gguf", 6.43, "bartowski/Llama-3.2-3B-Instruct-GGUF"),
    ("Meta-Llama-3.1-8B-Instruct-Q2_K.gguf", 3.18, "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    ("Meta-Llama-3.1-8B-Instruct-IQ4_XS.gguf", 4.45, "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", 4.92, "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    ("Meta-Llama-3.1-8B-Instruct-Q5_K_M.gguf", 5.73, "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    ("Meta-Llama-3.1-8B-Instruct-Q6_K.gguf", 6.60, "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    ("Meta-Llama-3.1-8B-Instruct-Q8_0.gguf", 8.54, "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    ("Llama-3.1-70B-Q3_K_M.gguf", 34.27, "bartowski/Llama-3.1-Nemotron-70B-Instruct-HF-GGUF"),
    ("Llama-3.1-70B-Q4_0.gguf", 40.12, "bartowski/Llama-3.1-Nemotron-70B-Instruct-HF-GGUF"),
    ("Llama-3.1-70B-Q4_K_M.gguf", 42.52, "bartowski/Llama-3.1-Nemotron-70B-Instruct-HF-GGUF"),
    ("Llama-3.1-70B-Q6_K.gguf", 57.89, "bartowski/Llama-3.1-Nemotron-70B-Instruct-HF-GGUF"),
    ("Llama-3.1-70B-Q8_0.gguf", 74.98, "bartowski/Llama-3.1-Nemotron-70B-Instruct-HF-GGUF"),
    ("Llama-3.1-405B-Q4_K_M.gguf", 249.1, "llama.cpp tools/quantize/README.md"),
    ("llama-2-7b-chat.Q4_K_M.gguf", 4.08, "TheBloke/Llama-2-7B-Chat-GGUF"),
    ("llama-2-13b-chat.Q4_K_M.gguf", 7.87, "TheBloke/Llama-2-13B-chat-GGUF"),
    ("codellama-34b.Q4_K_M.gguf", 20.22, "TheBloke/CodeLlama-34B-GGUF"),
    ("mistral-7b-instruct-v0.2.Q4_K_M.gguf", 4.37, "TheBloke/Mistral-7B-Instruct-v0.2-GGUF"),
    ("mistral-7b-instruct-v0.2.Q8_0.gguf", 7.70, "TheBloke/Mistral-7B-Instruct-v0.2-GGUF"),
    ("Mistral-Nemo-Instruct-2407-Q4_K_M.gguf", 7.48, "bartowski/Mistral-Nemo-Instruct-2407-GGUF"),
    ("Mistral-Small-24B-Instruct-2501-Q4_K_M.gguf", 14.33, "bartowski/Mistral-Small-24B-Instruct-2501-GGUF"),
    ("Mistral-Large-Instruct-2407-Q4_K_M.gguf", 73.22, "bartowski/Mistral-Large-Instruct-2407-GGUF"),
    ("mixtral-8x7b-instruct-v0.1.Q4_K_M.gguf", 26.44, "TheBloke/Mixtral-8x7B-Instruct-v0.1-GGUF"),
    ("mixtral-8x7b-instruct-v0.1.Q8_0.gguf", 49.62, "TheBloke/Mixtral-8x7B-Instruct-v0.1-GGUF"),
    ("gemma-2-2b-it-Q4_K_M.gguf", 1.71, "bartowski/gemma-2-2b-it-GGUF"),
    ("gemma-2-9b-it-Q4_K_M.gguf", 5.76, "bartowski/gemma-2-9b-it-GGUF"),
    ("gemma-2-27b-it-Q4_K_M.gguf", 16.65, "bartowski/gemma-2-27b-it-GGUF"),
    ("gemma-3-12b-it-Q4_K_M.gguf", 7.30, "unsloth/gemma-3-12b-it-GGUF"),
    ("Phi-3.5-mini-instruct-Q4_K_M.gguf", 2.39, "bartowski/Phi-3.5-mini-instruct-GGUF"),
    ("phi-4-Q4_K_M.gguf", 9.05, "bartowski/phi-4-GGUF"),
    ("gpt-oss-120b-mxfp4.gguf", 63.39, "ggml-org/gpt-oss-120b-GGUF"),
    ("DeepSeek-Coder-V2-Lite-Instruct-Q4_K_M.gguf", 10.36, "bartowski/DeepSeek-Coder-V2-Lite-Instruct-GGUF"),
    ("DeepSeek-R1-Distill-Qwen-32B-Q4_K_M.gguf", 19.85, "bartowski/DeepSeek-R1-Distill-Qwen-32B-GGUF"),
    ("DeepSeek-R1-Q4_K_M.gguf", 404.4, "unsloth/DeepSeek-R1-GGUF"),
];

#[test]
fn weights_are_close_to_real_files() {
    let mut worst: f64 = 0.0;
    let mut sum = 0.0;
    for (file, gb, source) in FILES {
        let model = model('l', file);
        let billions = parameters::of(model.provider, file).expect(file);
        let estimate = weights_mib(billions, bits(&model, billions)) * 1024.0 * 1024.0 / 1e9;
        let off = estimate / gb - 1.0;
        println!(
            "{:+6.1} %  {estimate:7.2} of {gb:7.2} GB  {file} ({source})",
            off * 100.0
        );
        worst = worst.max(off.abs());
        sum += off.abs();
        // The runtime's half GiB and the tenth on top cover what a file is larger than estimated.
        let covered = estimate * 1.1 + 0.5 * 1.074;
        assert!(covered > *gb, "{file}: {covered:.2} GB for {gb} GB");
        assert!(
            off < 0.12,
            "{file}: {estimate:.2} GB for {gb} GB wastes memory"
        );
        assert!(
            off > -0.09 || *gb < 1.0,
            "{file}: {estimate:.2} GB for {gb} GB"
        );
    }
    // Small numbers of files.
    #[allow(clippy::cast_precision_loss)]
    let mean = sum / FILES.len() as f64;
    println!("mean {:.1} %, worst {:.1} %", mean * 100.0, worst * 100.0);
    assert!(mean < 0.04, "mean deviation {:.1} %", mean * 100.0);
}
