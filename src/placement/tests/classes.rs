//! From memory to a class.

use proptest::prelude::*;
use serde_json::json;

use super::persona;
use crate::placement::class::{fits_cpu, least_mib, on_gpus};
use crate::placement::{Class, Offer, Requirements, class_of};

const LADDER: [u32; 8] = [192, 141, 96, 80, 48, 40, 24, 16];

fn of(memory_mib: u64) -> Requirements {
    Requirements {
        billions: None,
        memory_mib,
        stated: true,
    }
}

fn placed(model: &serde_json::Value) -> Result<String, &'static str> {
    let class = class_of(&persona(model), &Offer::default());
    class
        .map(|c| c.to_string())
        .map_err(|unplaced| unplaced.reason)
}

#[test]
fn remote_providers_and_endpoints_need_no_model_server() {
    assert_eq!(
        placed(&json!({"provider": "OpenAI", "name": "m"})),
        Ok("api".into())
    );
    let ollama = json!({"provider": "Ollama", "name": "m", "endpoint": "http://ollama:11434"});
    assert_eq!(placed(&ollama), Ok("api".into()));
}

#[test]
fn local_models_are_placed_by_their_size_and_server() {
    let small = json!({"provider": "Ollama", "name": "llama3.2:1b"});
    assert_eq!(placed(&small), Ok("cpu".into()));
    let large = json!({"provider": "Ollama", "name": "llama3.1:70b"});
    assert_eq!(placed(&large), Ok("gpu-80Gi".into()));
    let vllm = json!({"provider": "OpenAICompatible", "name": "Qwen/Qwen2.5-0.5B-Instruct",
        "server": {"kind": "vLLM"}});
    assert_eq!(placed(&vllm), Ok("gpu-16Gi".into()), "vLLM needs a GPU");
    assert_eq!(
        placed(&json!({"provider": "Ollama", "name": "m"})),
        Err("SizeUnknown")
    );
    let nowhere = json!({"provider": "OpenAICompatible", "name": "m"});
    assert_eq!(placed(&nowhere), Err("EndpointRequired"));
}

#[test]
fn rungs_match_what_the_drivers_of_their_cards_report() {
    // MiB by nvidia-smi and amd-smi: the least of the cards that are sold with this size.
    for (gib, card, mib) in [
        (16, "Tesla T4", 15_360),
        (24, "A10", 23_028),
        (24, "L4", 23_034),
        (40, "A100-SXM4-40GB", 40_960),
        (48, "L40S", 46_068),
        (80, "H100 80GB HBM3", 81_559),
        (96, "H100 NVL (94 GB)", 95_830),
        (141, "H200", 143_771),
        (192, "B200 (180 GB)", 183_359),
        (192, "MI300X", 196_288),
    ] {
        assert!(least_mib(gib) <= mib, "{card}");
        let below = LADDER.iter().filter(|rung| **rung > gib).min();
        assert!(
            below.is_none_or(|next| least_mib(*next) > mib || *next == 48),
            "{card}"
        );
    }
}

#[test]
fn as_few_gpus_as_possible_and_then_the_smallest() {
    for (memory_mib, class) in [
        (1, "gpu-16Gi"),
        (20_000, "gpu-24Gi"),
        (100_000, "gpu-141Gi"),
        (180_000, "gpu-192Gi"),
        (200_000, "gpu-2x141Gi"),
        (700_000, "gpu-4x192Gi"),
        (1_000_000, "gpu-8x141Gi"),
    ] {
        let found = on_gpus(&of(memory_mib), &LADDER).expect("a class");
        assert_eq!(found.to_string(), class, "{memory_mib} MiB");
    }
    let small = on_gpus(&of(200_000), &[80]).expect("a class");
    assert_eq!(small.to_string(), "gpu-4x80Gi", "the ladder bounds a card");
}

#[test]
fn what_no_eight_gpus_hold_says_so() {
    let unplaced = on_gpus(&of(2_000_000), &LADDER).expect_err("too large");
    assert_eq!(unplaced.reason, "TooLarge");
    assert!(
        unplaced.message.contains("8 GPUs of 192 GiB"),
        "{}",
        unplaced.message
    );
    assert_eq!(
        on_gpus(&of(1), &[]).expect_err("no rung").reason,
        "TooLarge"
    );
}

#[test]
fn cpus_serve_up_to_4b_or_6_gib() {
    let estimated = |billions, memory_mib| Requirements {
        billions: Some(billions),
        memory_mib,
        stated: false,
    };
    assert!(fits_cpu(&estimated(4.0, 9_000)) && !fits_cpu(&estimated(4.3, 6_145)));
    assert!(fits_cpu(&estimated(7.0, 6_144)));
    assert!(!fits_cpu(&estimated(3.0, 60_000)), "a long context");
    assert!(!fits_cpu(&Requirements {
        stated: true,
        ..estimated(1.0, 20_000)
    }));
}

proptest! {
    #[test]
    fn a_class_is_read_as_it_is_written(count in 1_u32..9, gib in 1_u32..4096) {
        let gpu = Class::Gpu { count, gib };
        prop_assert_eq!(gpu.to_string().parse(), Ok(gpu));
        for class in [Class::Api, Class::Cpu] {
            prop_assert_eq!(class.to_string().parse(), Ok(class));
        }
    }

    #[test]
    fn more_memory_never_gets_a_smaller_class(less in 1_u64..1_500_000, more in 0_u64..200_000) {
        let size = |mib| match on_gpus(&of(mib), &LADDER) {
            Ok(Class::Gpu { count, gib }) => (count, gib),
            _ => (u32::MAX, 0),
        };
        prop_assert!(size(less) <= size(less + more));
    }

    #[test]
    fn any_text_is_a_class_or_none(text in "\\PC{0,30}") {
        let _: Result<Class, ()> = text.parse();
    }
}
