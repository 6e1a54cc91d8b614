//! How many weights a model has: as it is stated, as its name says, or as is known of it.

use super::known;
use crate::api::Provider;

/// Of one expert, the share that all experts of a mixture have in common (attention, embeddings).
/// Measured: Mixtral 8x7B has 46.7 and 8x22B has 141 billion weights, not 56 and 176.
const SHARED: f64 = 0.2;

/// A number of weights in billions, from `3B`, `8x7B`, `500M` or `1T`, in either case.
pub fn stated(text: &str) -> Option<f64> {
    let text = text.trim().to_ascii_lowercase();
    let (digits, unit) = match text.strip_suffix(['b', 'm', 't']) {
        Some(digits) => (digits, text.chars().last()?),
        None => return None,
    };
    let billions = match unit {
        'b' => 1.0,
        'm' => 1e-3,
        _ => 1e3,
    };
    let (experts, size) = match digits.split_once('x') {
        Some((experts, size)) => (number(experts)?, number(size)?),
        None => (1.0, number(digits)?),
    };
    let weights = size * (SHARED + experts * (1.0 - SHARED)) * billions;
    (weights > 0.0).then_some(weights)
}

fn number(text: &str) -> Option<f64> {
    let plain = |c: char| c.is_ascii_digit() || c == '.';
    (!text.is_empty() && text.len() <= 8 && text.chars().all(plain)).then(|| text.parse().ok())?
}

/// A number of weights in billions, as far as the model's name tells.
pub fn of(provider: Provider, name: &str) -> Option<f64> {
    let file = known::last_part(name);
    if let Some(size) = in_name(file) {
        return Some(known::real_size(file).unwrap_or(size));
    }
    let tag_is_default = !file.contains(':') || file.ends_with(":latest");
    let ollama = || (provider == Provider::Ollama).then(|| known::ollama_default(file))?;
    if tag_is_default && let Some(size) = ollama() {
        return Some(size);
    }
    known::size(file).or_else(ollama).or_else(|| in_name(name))
}

/// The size that the name spells out. Where it has several, the total of a mixture is the largest
/// (`OLMoE-1B-7B`, `Qwen3-30B-A3B`); `1M` beside it is a context length, `3T` an amount of training.
fn in_name(name: &str) -> Option<f64> {
    let name = name.to_ascii_lowercase();
    let sizes: Vec<(char, f64)> = tokens(&name)
        .filter_map(|token| Some((token.chars().last()?, stated(token)?)))
        // Fewer than 10 million weights are no language model: such a number is a context length.
        .filter(|(_, size)| *size >= 0.01)
        .collect();
    ['b', 'm', 't'].into_iter().find_map(|unit| {
        let of_unit = sizes.iter().filter(|(u, _)| *u == unit);
        of_unit.map(|(_, size)| *size).reduce(f64::max)
    })
}

/// The parts between separators; a dot between digits belongs to a number.
fn tokens(name: &str) -> impl Iterator<Item = &str> {
    let bytes = name.as_bytes();
    let digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_digit)
    };
    let mut parts = Vec::new();
    let mut from = 0;
    for (at, c) in name.char_indices() {
        let decimal = c == '.' && digit(at.checked_sub(1)) && digit(Some(at + 1));
        if !c.is_ascii_alphanumeric() && !decimal {
            parts.push(&name[from..at]);
            from = at + c.len_utf8();
        }
    }
    parts.push(&name[from..]);
    parts.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        for (text, size) in [("3B", 3.0), ("0.5b", 0.5), ("500M", 0.5), ("1T", 1000.0)] {
            assert_eq!(stated(text), Some(size), "{text}");
        }
        for text in [
            "", "b", "4bit", "x7b", "8xb", "infb", "1e9b", "a3b", "0b", "7",
        ] {
            assert_eq!(stated(text), None, "{text}");
        }
    }

    #[test]
    fn a_mixture_has_fewer_weights_than_its_name_multiplies_to() {
        let off = |text: &str, real: f64| (stated(text).expect("a size") / real - 1.0).abs();
        assert!(off("8x7B", 46.7) < 0.03, "mistralai/Mixtral-8x7B-v0.1");
        assert!(off("8x22B", 140.6) < 0.04, "mistralai/Mixtral-8x22B-v0.1");
    }

    #[test]
    fn numbers_that_are_no_size_are_passed_over() {
        let size = |name| of(Provider::OpenAICompatible, name);
        assert_eq!(size("Qwen2.5-14B-Instruct-1M"), Some(14.8), "a context");
        assert_eq!(size("TinyLlama-1.1B-step-1431k-3T"), Some(1.1), "training");
        assert_eq!(size("acme-128k-4bit-v2"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_an_answer(name in "\\PC{0,80}") {
            for provider in [Provider::Ollama, Provider::OpenAICompatible] {
                let size = of(provider, &name);
                proptest::prop_assert!(size.is_none_or(|size| size.is_finite() && size > 0.0));
            }
        }
    }
}
