//! What a pod needs to get GPUs, or to leave them to others. Pure.

pub mod claim;
mod labels;

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelector, NodeSelectorTerm, PreferredSchedulingTerm, ResourceRequirements,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub use self::labels::Labels;
use crate::api::{DEFAULT_GPU_SIZES, Gpu};
use crate::placement::class::{self, REAL_SHARE};
use crate::placement::requirements::mebibytes;

/// Pods of GPUs may go where others are kept off: by the taint of their resource, and, for slices of
/// a GPU, by that of whole ones.
pub fn tolerations(gpu: &Gpu) -> Vec<Toleration> {
    let mut keys = vec![gpu.resource_name.clone()];
    if let Some((domain, _)) = gpu.resource_name.split_once('/') {
        let whole = format!("{domain}/gpu");
        if domain.starts_with("nvidia") && whole != gpu.resource_name {
            keys.push(whole);
        }
    }
    let tolerated = |key| Toleration {
        key: Some(key),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    keys.into_iter().map(tolerated).collect()
}

/// Asks for the GPUs: extended resources are limits, and requests follow them.
pub fn limit(gpu: &Gpu, resources: &mut ResourceRequirements) {
    resources
        .limits
        .get_or_insert_default()
        .insert(gpu.resource_name.clone(), Quantity(gpu.count.to_string()));
}

/// Nodes whose GPUs are large enough and of the right product; of those, the smallest first. Where
/// devices are claimed the scheduler looks at them itself, and labels may be missing.
pub fn affinity(gpu: &Gpu) -> NodeAffinity {
    if let Some(theirs) = &gpu.node_affinity {
        return theirs.clone();
    }
    let mut affinity = NodeAffinity::default();
    if gpu.device_class_name.is_some() {
        return affinity;
    }
    let labels = Labels::of(gpu);
    let mib = gpu.memory.as_deref().and_then(least_mib);
    let enough = mib.and_then(|mib| labels.at_least(mib));
    let product = labels.products(&gpu.products);
    let expressions: Vec<_> = enough.into_iter().chain(product).collect();
    if !expressions.is_empty() {
        affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(expressions),
                match_fields: None,
            }],
        });
    }
    let smaller = mib.map_or_else(Vec::new, |mib| smaller_first(&labels, mib));
    if !smaller.is_empty() {
        affinity.preferred_during_scheduling_ignored_during_execution = Some(smaller);
    }
    affinity
}

/// A term for each size of card above the one that is needed, which all smaller cards meet: their
/// weights add up, so that each size is worth twice the next.
fn smaller_first(labels: &Labels, mib: u64) -> Vec<PreferredSchedulingTerm> {
    let sizes = DEFAULT_GPU_SIZES.iter().map(|gib| class::least_mib(*gib));
    let terms = sizes
        .filter(|size| *size > mib)
        .filter_map(|size| labels.below(mib, size));
    let mut weight = 200;
    terms
        .map(|term| {
            weight = (weight / 2).max(1);
            PreferredSchedulingTerm {
                weight,
                preference: NodeSelectorTerm {
                    match_expressions: Some(vec![term]),
                    match_fields: None,
                },
            }
        })
        .collect()
}

/// Pods without GPUs would rather not take room on nodes that have some. Where those have a taint, as
/// GPU operators and clouds set it, they cannot.
pub fn avoidance() -> PreferredSchedulingTerm {
    let none = labels::PRODUCTS
        .iter()
        .map(|key| labels::requirement(key, "DoesNotExist", Vec::new()));
    PreferredSchedulingTerm {
        weight: 100,
        preference: NodeSelectorTerm {
            match_expressions: Some(none.collect()),
            match_fields: None,
        },
    }
}

/// MiB that a card of this nominal size has at least. The schema admits sizes like `24Gi` or `512Mi`.
pub fn least_mib(memory: &str) -> Option<u64> {
    let least = mebibytes(memory)? * REAL_SHARE;
    // A cast of a float to an integer stops at the integer's ends.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = least as u64;
    Some(whole.max(1))
}

#[cfg(test)]
mod tests;
