//! How many bits a weight takes.

/// Bits of a quantization, and of the tensors that it leaves alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bits {
    /// Bits of a weight, on average.
    pub per_weight: f64,
    /// Embeddings and output stay at 16 bits. llama.cpp quantizes them too, and its figures are averages.
    pub embeddings_at_16: bool,
}

/// By name, the longest first where one is in another. Figures of llama.cpp: table of Llama 3.1 8B in
/// tools/quantize/README.md (Q3_K_M, Q4_0 … Q5_1, TQ and the XL mixtures: file sizes of the same model
/// and block sizes in ggml-common.h). AWQ and GPTQ: 4 bits with a 16-bit scale and a 4-bit zero for
/// each 128 weights; NF4 of bitsandbytes: a scale for each 64; MXFP4: 8 bits for each 32.
const LLAMA_CPP: &[(&str, f64)] = &[
    ("iq1_s", 2.00),
    ("iq1_m", 2.15),
    ("iq2_xxs", 2.38),
    ("iq2_xs", 2.59),
    ("iq2_s", 2.74),
    ("iq2_m", 2.93),
    ("iq3_xxs", 3.25),
    ("iq3_xs", 3.50),
    ("iq3_s", 3.66),
    ("iq3_m", 3.76),
    ("iq4_xs", 4.46),
    ("iq4_nl", 4.68),
    ("tq1_0", 1.69),
    ("tq2_0", 2.06),
    ("q2_k_xl", 3.40),
    ("q2_k_l", 3.70),
    ("q2_k_s", 2.97),
    ("q2_k", 3.16),
    ("q3_k_xl", 4.40),
    ("q3_k_l", 4.30),
    ("q3_k_m", 4.00),
    ("q3_k_s", 3.64),
    ("q4_k_xl", 4.97),
    ("q4_k_l", 5.29),
    ("q4_k_m", 4.89),
    ("q4_k_s", 4.67),
    ("q4_0", 4.64),
    ("q4_1", 5.10),
    ("q5_k_xl", 5.75),
    ("q5_k_l", 6.03),
    ("q5_k_m", 5.70),
    ("q5_k_s", 5.57),
    ("q5_0", 5.57),
    ("q5_1", 6.05),
    ("q6_k_xl", 7.50),
    ("q6_k_l", 6.82),
    ("q6_k", 6.56),
    ("q8_k_xl", 10.5),
    ("q8_0", 8.50),
    ("q2", 3.16),
    ("q3", 4.00),
    ("q4", 4.89),
    ("q5", 5.70),
    ("q6", 6.56),
    ("q8", 8.50),
    ("bf16", 16.0),
    ("fp16", 16.0),
    ("f16", 16.0),
    ("float16", 16.0),
    ("bfloat16", 16.0),
    ("fp32", 32.0),
    ("f32", 32.0),
    ("float32", 32.0),
];

const OTHERS: &[(&str, f64)] = &[
    ("w8a8", 8.0),
    ("w8a16", 8.25),
    ("w4a16", 4.25),
    ("int8", 8.25),
    ("8bit", 8.25),
    ("fp8", 8.0),
    ("mxfp4", 4.25),
    ("nvfp4", 4.50),
    ("nf4", 4.50),
    ("bnb_4bit", 4.50),
    ("int4", 4.25),
    ("4bit", 4.25),
    ("3bit", 3.25),
    ("2bit", 2.25),
    ("awq", 4.25),
    ("gptq", 4.25),
];

/// The quantization that a text is the name of, or that a model's name has in it.
pub fn in_name(text: &str) -> Option<Bits> {
    named(&format!("_{}_", joined(text)))
}

/// Bits of a model that is not quantized.
pub const FULL: Bits = Bits {
    per_weight: 16.0,
    embeddings_at_16: false,
};

/// What servers of GGUF files take where a name says nothing: Ollama's library and the `-hf` option of
/// llama.cpp have Q4_K_M as their default.
pub const GGUF_DEFAULT: Bits = Bits {
    per_weight: 4.89,
    embeddings_at_16: false,
};

fn joined(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    name.chars().map(plain).collect()
}

fn named(name: &str) -> Option<Bits> {
    let found = |table: &[(&str, f64)]| {
        let mut names = table.iter();
        let hit = names.find(|(pattern, _)| name.contains(&format!("_{pattern}_")));
        hit.map(|(_, bits)| *bits)
    };
    let of = |embeddings_at_16| {
        move |per_weight| Bits {
            per_weight,
            embeddings_at_16,
        }
    };
    found(OTHERS)
        .map(of(true))
        .or_else(|| found(LLAMA_CPP).map(of(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizations_are_found_in_names_of_all_makers() {
        let per_weight = |name| in_name(name).map(|bits| bits.per_weight);
        for (name, expected) in [
            ("llama-2-7b-chat.Q4_K_M.gguf", 4.89),
            ("llama3.1:8b-instruct-q8_0", 8.50),
            ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:IQ4_XS", 4.46),
            ("Qwen/Qwen2.5-72B-Instruct-AWQ", 4.25),
            ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", 8.25),
            ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", 4.50),
            ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", 4.25),
            ("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8", 8.0),
            ("Qwen3-8B-UD-Q4_K_XL.gguf", 4.97),
            ("gemma3:27b-it-fp16", 16.0),
        ] {
            assert_eq!(per_weight(name), Some(expected), "{name}");
        }
        assert_eq!(per_weight("meta-llama/Llama-3.1-8B-Instruct"), None);
    }

    #[test]
    fn stated_quantizations_are_taken_in_either_case() {
        for name in ["Q4_K_M", "q4_k_m", "F16", "AWQ", "FP8", "IQ2_XXS"] {
            assert!(in_name(name).is_some(), "{name}");
        }
        assert_eq!(in_name("Q9_Z"), None);
        assert_eq!(in_name(""), None);
    }
}
