//! What a pod needs to get GPUs, or to leave them to others. Pure.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm,
    ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::Gpu;

/// Memory of one GPU in MiB, as GPU feature discovery labels nodes.
const MEMORY_LABEL: &str = "nvidia.com/gpu.memory";
/// Product name, as GPU feature discovery labels nodes.
const PRODUCT_LABEL: &str = "nvidia.com/gpu.product";
/// A card has less than its nominal size: 24 GB ones report 23,034 to 24,564 MiB.
const REAL_SHARE: f64 = 0.92;

/// Pods of GPUs may go where others are kept off.
pub fn toleration(gpu: &Gpu) -> Toleration {
    Toleration {
        key: Some(gpu.resource_name.clone()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    }
}

/// Asks for the GPUs: extended resources are limits, and requests follow them.
pub fn limit(gpu: &Gpu, resources: &mut ResourceRequirements) {
    resources
        .limits
        .get_or_insert_default()
        .insert(gpu.resource_name.clone(), Quantity(gpu.count.to_string()));
}

/// Nodes whose GPUs are large enough, and of the right product.
pub fn required_affinity(gpu: &Gpu) -> Option<NodeSelector> {
    if let Some(theirs) = &gpu.node_affinity {
        return theirs
            .required_during_scheduling_ignored_during_execution
            .clone();
    }
    let mut expressions = Vec::new();
    if let Some(mib) = gpu.memory.as_deref().and_then(least_mib) {
        expressions.push(requirement(MEMORY_LABEL, "Gt", vec![(mib - 1).to_string()]));
    }
    if !gpu.products.is_empty() {
        expressions.push(requirement(PRODUCT_LABEL, "In", gpu.products.clone()));
    }
    (!expressions.is_empty()).then(|| NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: Some(expressions),
            match_fields: None,
        }],
    })
}

/// Pods without GPUs would rather not take room on nodes that have some.
pub fn avoidance() -> PreferredSchedulingTerm {
    PreferredSchedulingTerm {
        weight: 100,
        preference: NodeSelectorTerm {
            match_expressions: Some(vec![requirement(PRODUCT_LABEL, "DoesNotExist", Vec::new())]),
            match_fields: None,
        },
    }
}

fn requirement(key: &str, operator: &str, values: Vec<String>) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: (!values.is_empty()).then_some(values),
    }
}

/// MiB that a card of this nominal size has at least. The schema admits sizes like `24Gi` or `512Mi`.
fn least_mib(memory: &str) -> Option<u64> {
    let digits = memory.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &memory[digits.len()..] {
        "Mi" => 1.0,
        "Gi" => 1024.0,
        "Ti" => 1024.0 * 1024.0,
        "M" => 1e6 / 1_048_576.0,
        "G" => 1e9 / 1_048_576.0,
        "T" => 1e12 / 1_048_576.0,
        _ => return None,
    };
    let nominal: f64 = digits.parse::<f64>().ok()? * factor;
    // In range: the schema bounds the text to 16 characters, and a negative size has no form.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(((nominal * REAL_SHARE) as u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nominal_size_matches_what_drivers_report() {
        let mib = least_mib("24Gi").expect("a size");
        assert!(mib < 23_034, "an A10 reports 23,034 MiB");
        assert!(mib > 16_384, "a 16 GB card is too small");
        assert_eq!(least_mib("80G"), Some(70_190));
        assert_eq!(least_mib("much"), None);
    }
}
