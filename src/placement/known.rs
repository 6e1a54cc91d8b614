//! What is known of models beside their names. Numbers of weights are in billions, as the model cards
//! state them; a pattern is a run of words of the name, the longest one that is there counts.

/// Names that spell out another size than the model has: marketing sizes, and mixtures that name the
/// share that is active.
const REAL: &[(&str, f64)] = &[
    ("llama-3.2-1b", 1.24),
    ("llama-3.2-3b", 3.21),
    ("llama-3.2-11b", 10.7),
    ("llama-3.2-90b", 88.6),
    ("llama-4-scout-17b", 108.6),
    ("llama-4-17b-scout", 108.6),
    ("llama-4-maverick-17b", 401.6),
    ("llama-4-17b-maverick", 401.6),
    ("llama-2-7b", 6.74),
    ("codellama-7b", 6.74),
    ("codellama-34b", 33.7),
    ("mistral-7b", 7.25),
    ("mistral-small-24b", 23.6),
    ("8x7b", 46.7),
    ("8x22b", 140.6),
    ("gemma-2b", 2.51),
    ("gemma-7b", 8.54),
    ("codegemma-2b", 2.51),
    ("codegemma-7b", 8.54),
    ("gemma-2-2b", 2.61),
    ("gemma-2-9b", 9.24),
    ("gemma-3-4b", 4.30),
    ("gemma-3-12b", 12.2),
    ("qwen-1.5-7b", 7.72),
    ("qwen-1.5-14b", 14.2),
    ("qwen-1.5-72b", 72.3),
    ("qwen-2-7b", 7.62),
    ("qwen-2.5-3b", 3.09),
    ("qwen-2.5-7b", 7.62),
    ("qwen-2.5-14b", 14.8),
    ("qwen-2.5-32b", 32.8),
    ("qwen-2.5-coder-7b", 7.62),
    ("qwen-2.5-coder-14b", 14.8),
    ("qwen-2.5-coder-32b", 32.8),
    ("qwen-2.5-vl-3b", 3.75),
    ("qwen-2.5-vl-7b", 8.29),
    ("qwen-3-14b", 14.8),
    ("distill-qwen-1.5b", 1.78),
    ("distill-qwen-7b", 7.62),
    ("distill-qwen-14b", 14.8),
    ("falcon-40b", 41.8),
    ("falcon-3-7b", 7.46),
    ("starcoder-2-15b", 16.0),
    ("glm-4-9b", 9.40),
    ("internlm-2.5-7b", 7.74),
    ("granite-3.1-2b", 2.53),
    ("granite-3.1-dense-2b", 2.53),
    ("command-r-7b", 8.03),
    ("gpt-oss-20b", 20.9),
    ("gpt-oss-120b", 116.8),
];

/// Names without a size.
const SIZES: &[(&str, f64)] = &[
    ("mixtral", 46.7),
    ("mistral-nemo", 12.2),
    ("mistral-large", 122.6),
    ("mistral-small", 23.6),
    ("mistral-small-instruct-2409", 22.2),
    ("pixtral-large", 124.0),
    ("codestral", 22.2),
    ("mathstral", 7.25),
    ("devstral", 23.6),
    ("magistral", 23.6),
    ("phi-1-5", 1.42),
    ("phi-2", 2.78),
    ("phi-3-mini", 3.82),
    ("phi-3-small", 7.39),
    ("phi-3-medium", 14.0),
    ("phi-3.5", 3.82),
    ("phi-3.5-vision", 4.15),
    ("phi-3.5-moe", 41.9),
    ("phi-4", 14.7),
    ("phi-4-mini", 3.84),
    ("phi-4-multimodal", 5.57),
    ("llama-4-scout", 108.6),
    ("llama-4-maverick", 401.6),
    ("gemma-3n-e2b", 5.44),
    ("gemma-3n-e4b", 7.85),
    ("qwen-1.5-moe-a2.7b", 14.3),
    ("deepseek-v2", 235.7),
    ("deepseek-v2.5", 235.7),
    ("deepseek-v2-lite", 15.7),
    ("deepseek-coder-v2", 235.7),
    ("deepseek-coder-v2-lite", 15.7),
    ("deepseek-v3", 671.0),
    ("deepseek-v3.1", 671.0),
    ("deepseek-v3.2", 671.0),
    ("deepseek-r1", 671.0),
    ("kimi-k2", 1026.0),
    ("glm-4.5", 355.0),
    ("glm-4.5-air", 106.0),
    ("glm-4.6", 355.0),
    ("minimax-text-01", 456.0),
    ("minimax-m1", 456.0),
    ("minimax-m2", 230.0),
    ("hunyuan-a13b", 80.4),
    ("command-r", 35.0),
    ("command-r-08", 32.3),
    ("command-r-plus", 104.0),
    ("command-a", 111.0),
    ("dbrx", 132.0),
    ("grok-1", 314.0),
    ("jamba-v0.1", 51.6),
    ("jamba-1.5-mini", 51.6),
    ("jamba-1.5-large", 398.0),
    ("snowflake-arctic-instruct", 480.0),
    ("tinyllama", 1.10),
    ("nomic-embed-text", 0.137),
    ("mxbai-embed-large", 0.334),
    ("bge-m3", 0.568),
];

/// What Ollama's library serves under a name without a tag (ollama.com/library/NAME).
const OLLAMA: &[(&str, f64)] = &[
    ("codegemma", 8.54),
    ("codellama", 6.74),
    ("codestral", 22.2),
    ("command-r", 32.3),
    ("command-r-plus", 104.0),
    ("deepseek-coder", 1.35),
    ("deepseek-coder-v2", 15.7),
    ("deepseek-r1", 8.19),
    ("deepseek-v3", 671.0),
    ("dolphin-mistral", 7.25),
    ("dolphin-mixtral", 46.7),
    ("dolphin3", 8.03),
    ("exaone3.5", 7.82),
    ("falcon3", 7.46),
    ("gemma", 8.54),
    ("gemma2", 9.24),
    ("gemma3", 4.30),
    ("gemma3n", 7.85),
    ("gpt-oss", 20.9),
    ("granite3.1-dense", 8.17),
    ("hermes3", 8.03),
    ("llama2", 6.74),
    ("llama3", 8.03),
    ("llama3.1", 8.03),
    ("llama3.2", 3.21),
    ("llama3.3", 70.6),
    ("llama4", 108.6),
    ("llava", 7.57),
    ("mistral", 7.25),
    ("nous-hermes2", 10.7),
    ("olmo2", 7.30),
    ("openhermes", 7.25),
    ("orca-mini", 3.43),
    ("phi", 2.78),
    ("phi3", 3.82),
    ("phi4", 14.7),
    ("qwen", 3.95),
    ("qwen2", 7.62),
    ("qwen2.5", 7.62),
    ("qwen2.5-coder", 7.62),
    ("qwen3", 8.19),
    ("qwen3-coder", 30.5),
    ("qwq", 32.8),
    ("smollm", 1.71),
    ("smollm2", 1.71),
    ("solar", 10.7),
    ("starcoder2", 3.03),
    ("stable-code", 2.80),
    ("vicuna", 6.74),
    ("wizardlm2", 7.25),
    ("yi", 6.06),
    ("zephyr", 7.25),
];

/// KV cache of models that are far from the rule in `requirements`.
struct Cache {
    /// As for sizes.
    pattern: &'static str,
    /// Billions of weights, as this file reads them: models of one name and several sizes differ.
    billions: f64,
    layers: u32,
    /// Numbers that each layer keeps of a token.
    width: u32,
}

/// Width of a layer whose heads share keys and values: both, for each KV head, of a head's size.
const fn heads(kv_heads: u32, size: u32) -> u32 {
    2 * kv_heads * size
}

/// Width of a layer with a latent for all heads (MLA): `kv_lora_rank` 512 and `qk_rope_head_dim` 64. GGUF files
/// from before llama.cpp knew it (April 2025) need far more: for these `requirements.memory` is to be set.
const LATENT: u32 = 512 + 64;

/// How far a size may be from a row's, for the row to count: 4 % are between 7B and 6.74B, 8 % between the models
/// that are told apart.
const SAME_SIZE: f64 = 0.06;

const fn row(pattern: &'static str, billions: f64, layers: u32, width: u32) -> Cache {
    Cache {
        pattern,
        billions,
        layers,
        width,
    }
}

/// By `config.json` (`num_hidden_layers`, `num_key_value_heads`, `head_dim`) of the repository on
/// huggingface.co that is named beside it.
#[rustfmt::skip]
const CACHE: &[Cache] = &[
    row("llama-2", 6.74, 32, heads(32, 128)), // meta-llama/Llama-2-7b-hf
    row("llama-2", 13.0, 40, heads(40, 128)), // meta-llama/Llama-2-13b-hf
    row("codellama", 6.74, 32, heads(32, 128)), // codellama/CodeLlama-7b-hf
    row("codellama", 13.0, 40, heads(40, 128)), // codellama/CodeLlama-13b-hf
    row("vicuna", 6.74, 32, heads(32, 128)), // lmsys/vicuna-7b-v1.5
    row("vicuna", 13.0, 40, heads(40, 128)), // lmsys/vicuna-13b-v1.5
    row("orca-mini", 3.43, 26, heads(32, 100)), // openlm-research/open_llama_3b
    row("llama-3.2", 1.24, 16, heads(8, 64)), // meta-llama/Llama-3.2-1B
    row("llama-3.2", 3.21, 28, heads(8, 128)), // meta-llama/Llama-3.2-3B
    row("llama-3.1", 405.0, 126, heads(8, 128)), // meta-llama/Llama-3.1-405B
    row("llama-4", 108.6, 48, heads(8, 128)), // meta-llama/Llama-4-Scout-17B-16E
    row("llama-4", 401.6, 48, heads(8, 128)), // meta-llama/Llama-4-Maverick-17B-128E
    row("smollm", 1.71, 24, heads(32, 64)), // HuggingFaceTB/SmolLM2-1.7B-Instruct
    row("phi", 2.78, 32, heads(32, 80)), // microsoft/phi-2
    row("phi-3", 3.82, 32, heads(32, 96)), // microsoft/Phi-3-mini-4k-instruct
    row("phi-3.5", 3.82, 32, heads(32, 96)), // microsoft/Phi-3.5-mini-instruct
    row("phi-3.5", 41.9, 32, heads(8, 128)), // microsoft/Phi-3.5-MoE-instruct
    row("phi-4", 3.84, 32, heads(8, 128)), // microsoft/Phi-4-mini-instruct
    row("command-r", 35.0, 40, heads(64, 128)), // CohereForAI/c4ai-command-r-v01
    row("command-r", 32.3, 40, heads(8, 128)), // CohereForAI/c4ai-command-r-08-2024
    row("command-r-plus", 104.0, 64, heads(8, 128)), // CohereForAI/c4ai-command-r-plus
    row("gemma", 2.51, 18, heads(1, 256)), // google/gemma-2b
    row("gemma", 8.54, 28, heads(16, 256)), // google/gemma-7b
    row("codegemma", 8.54, 28, heads(16, 256)), // google/codegemma-7b
    row("gemma-2", 2.61, 26, heads(4, 256)), // google/gemma-2-2b
    row("gemma-2", 9.24, 42, heads(8, 256)), // google/gemma-2-9b
    row("gemma-2", 27.2, 46, heads(16, 128)), // google/gemma-2-27b
    row("mixtral", 46.7, 32, heads(8, 128)), // mistralai/Mixtral-8x7B-v0.1
    row("mixtral", 140.6, 56, heads(8, 128)), // mistralai/Mixtral-8x22B-v0.1
    row("solar", 10.7, 48, heads(8, 128)), // upstage/SOLAR-10.7B-v1.0
    row("gpt-oss", 20.9, 24, heads(8, 64)), // openai/gpt-oss-20b
    row("gpt-oss", 116.8, 36, heads(8, 64)), // openai/gpt-oss-120b
    row("qwen-1.5", 7.72, 32, heads(32, 128)), // Qwen/Qwen1.5-7B
    row("qwen-1.5", 14.2, 40, heads(40, 128)), // Qwen/Qwen1.5-14B
    row("qwen-1.5", 72.3, 80, heads(64, 128)), // Qwen/Qwen1.5-72B
    row("qwen-2", 7.62, 28, heads(4, 128)), // Qwen/Qwen2-7B
    row("qwen-2.5", 0.49, 24, heads(2, 64)), // Qwen/Qwen2.5-0.5B
    row("qwen-2.5", 1.54, 28, heads(2, 128)), // Qwen/Qwen2.5-1.5B
    row("qwen-2.5", 3.09, 36, heads(2, 128)), // Qwen/Qwen2.5-3B
    row("qwen-2.5", 7.62, 28, heads(4, 128)), // Qwen/Qwen2.5-7B
    row("qwen-3", 0.6, 28, heads(8, 128)), // Qwen/Qwen3-0.6B
    row("qwen-3", 1.7, 28, heads(8, 128)), // Qwen/Qwen3-1.7B
    row("qwen-3", 4.02, 36, heads(8, 128)), // Qwen/Qwen3-4B
    row("qwen-3", 8.19, 36, heads(8, 128)), // Qwen/Qwen3-8B
    row("qwen-3", 30.5, 48, heads(4, 128)), // Qwen/Qwen3-30B-A3B
    row("qwen-3", 235.0, 94, heads(4, 128)), // Qwen/Qwen3-235B-A22B
    row("olmo-2", 7.3, 32, heads(32, 128)), // allenai/OLMo-2-1124-7B
    row("olmo-2", 13.7, 40, heads(40, 128)), // allenai/OLMo-2-1124-13B
    row("deepseek-coder", 6.74, 32, heads(32, 128)), // deepseek-ai/deepseek-coder-6.7b-base
    row("deepseek-v2", 15.7, 27, LATENT), // deepseek-ai/DeepSeek-V2-Lite
    row("deepseek-coder-v2", 15.7, 27, LATENT), // deepseek-ai/DeepSeek-Coder-V2-Lite-Base
    row("deepseek-v2", 235.7, 60, LATENT), // deepseek-ai/DeepSeek-V2
    row("deepseek-v2.5", 235.7, 60, LATENT), // deepseek-ai/DeepSeek-V2.5
    row("deepseek-coder-v2", 235.7, 60, LATENT), // deepseek-ai/DeepSeek-Coder-V2-Base
    row("deepseek-v3", 671.0, 61, LATENT), // deepseek-ai/DeepSeek-V3
    row("deepseek-v3.1", 671.0, 61, LATENT), // deepseek-ai/DeepSeek-V3.1
    row("deepseek-v3.2", 671.0, 61, LATENT), // deepseek-ai/DeepSeek-V3.2-Exp
    row("deepseek-r1", 671.0, 61, LATENT), // deepseek-ai/DeepSeek-R1
    row("deepseek-r1", 8.19, 36, heads(8, 128)), // deepseek-ai/DeepSeek-R1-0528-Qwen3-8B
    row("kimi-k2", 1026.0, 61, LATENT), // moonshotai/Kimi-K2-Instruct
];

/// Models that were made for fewer tokens of context than all servers give by default: `config.json`,
/// `max_position_embeddings`. vLLM refuses to start with more.
const SHORT: &[(&str, u32)] = &[
    ("tinyllama", 2048),
    ("phi-1-5", 2048),
    ("phi-2", 2048),
    ("falcon-7b", 2048),
    ("falcon-40b", 2048),
    ("olmo-1b", 2048),
    ("olmo-7b", 2048),
];

/// Models that are published in fewer than 16 bits: pattern, least billions of weights (smaller models
/// of that name are distilled into others), and bits a weight by the size of their repositories.
const PUBLISHED: &[(&str, f64, f64)] = &[
    ("gpt-oss-20b", 0.0, 5.27),
    ("gpt-oss-120b", 0.0, 4.47),
    ("deepseek-v3", 600.0, 8.0),
    ("deepseek-v3.1", 600.0, 8.0),
    ("deepseek-v3.2", 600.0, 8.0),
    ("deepseek-r1", 600.0, 8.0),
    ("kimi-k2", 600.0, 8.0),
];

/// The part of a name that tells of the model: a repository without its owner, a file without its
/// folder.
pub fn last_part(name: &str) -> &str {
    name.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(name)
}

/// The size of a model whose name spells out another.
pub fn real_size(name: &str) -> Option<f64> {
    longest(REAL.iter().copied(), name)
}

/// The size of a model whose name has none.
pub fn size(name: &str) -> Option<f64> {
    longest(SIZES.iter().copied(), name)
}

/// The size of what Ollama's library serves when the tag does not choose one.
pub fn ollama_default(name: &str) -> Option<f64> {
    let model = name.split(':').next()?.to_ascii_lowercase();
    let found = OLLAMA.iter().find(|(known, _)| *known == model);
    found.map(|(_, billions)| *billions)
}

/// KiB that a token of context takes at 16 bits, where the rule would be far off. The size is as
/// [`real_size`], [`size`] or [`ollama_default`] have read it.
pub fn cache_kib(name: &str, billions: f64) -> Option<f64> {
    let off = |row: &Cache| (billions / row.billions - 1.0).abs();
    let of_size = CACHE.iter().filter(|row| off(row) < SAME_SIZE);
    let row = longest(of_size.map(|row| (row.pattern, row)), last_part(name))?;
    Some(f64::from(row.layers) * f64::from(row.width) * 2.0 / 1024.0)
}

/// Tokens of context that the model was made for, where they are few.
pub fn context(name: &str) -> Option<u32> {
    longest(SHORT.iter().copied(), last_part(name))
}

/// Bits a weight of a model that is not published in 16.
pub fn published_bits(name: &str, billions: f64) -> Option<f64> {
    let of_size = PUBLISHED
        .iter()
        .filter(|(_, least, _)| billions >= *least)
        .map(|(pattern, _, bits)| (*pattern, *bits));
    longest(of_size, last_part(name))
}

fn longest<T>(table: impl Iterator<Item = (&'static str, T)>, name: &str) -> Option<T> {
    let name = words(name);
    let hits = table.filter_map(|(pattern, value)| {
        let pattern = words(pattern);
        let there = name
            .windows(pattern.len())
            .any(|run| run == pattern.as_slice());
        there.then_some((pattern.len(), value))
    });
    let best = hits.reduce(|best, hit| if hit.0 > best.0 { hit } else { best });
    best.map(|(_, value)| value)
}

/// Words of a name, so that `llama3.2:3b` and `Llama-3.2-3B` are the same: cut at separators and
/// between a letter and a digit after it; a dot between digits belongs to a number.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        let next_is_digit = rest.peek().is_some_and(char::is_ascii_digit);
        let decimal = c == '.' && before.is_ascii_digit() && next_is_digit;
        if !c.is_ascii_alphanumeric() && !decimal {
            words.push(String::new());
        } else {
            if before.is_ascii_alphabetic() && c.is_ascii_digit() {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.push(c.to_ascii_lowercase());
            }
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_model_has_the_same_words_in_every_spelling() {
        for name in ["llama3.2:3b", "Llama-3.2-3B", "llama_3.2_3b"] {
            assert_eq!(words(name), ["llama", "3.2", "3b"], "{name}");
        }
        assert_eq!(words("7B.Q4_K_M.gguf"), ["7b", "q", "4", "k", "m", "gguf"]);
    }

    #[test]
    fn the_longest_pattern_counts() {
        assert_eq!(size("phi-4-mini-instruct"), Some(3.84));
        assert_eq!(size("phi-4"), Some(14.7));
        assert_eq!(size("mistral"), None, "a size must be there to be read");
    }
}
