//! Which labels of nodes tell of their GPUs. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSelectorRequirement;

use crate::api::{Gpu, GpuLabels};

/// Product labels of all makers: a node without any of them has no GPU, as far as labels tell.
pub const PRODUCTS: [&str; 5] = [
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "gpu.intel.com/product",
    GKE,
    "karpenter.k8s.aws/instance-gpu-name",
];

const GKE: &str = "cloud.google.com/gke-accelerator";
const AMD: &str = "amd.com/gpu.vram";
const INTEL: &str = "gpu.intel.com/product";

/// Accelerators of GKE and MiB of each (cloud.google.com/kubernetes-engine/docs/how-to/gpus; MiB as
/// drivers report them).
const GKE_MIB: &[(&str, u64)] = &[
    ("nvidia-tesla-t4", 15_360),
    ("nvidia-tesla-v100", 16_160),
    ("nvidia-tesla-p100", 16_280),
    ("nvidia-l4", 23_034),
    ("nvidia-tesla-a100", 40_960),
    ("nvidia-a100-80gb", 81_920),
    ("nvidia-h100-80gb", 81_559),
    ("nvidia-h100-mega-80gb", 81_559),
    ("nvidia-rtx-pro-6000", 97_887),
    ("nvidia-h200-141gb", 143_771),
    ("nvidia-b200", 183_359),
    ("nvidia-gb200", 189_471),
];

/// `amd.com/gpu.vram` in whole GiB, which AMD's node labeller rounds down: an MI300X is seen as `191G`
/// and as `192G`.
const AMD_MIB: &[(&str, u64)] = &[
    ("15G", 15_360),
    ("16G", 16_384),
    ("23G", 23_552),
    ("24G", 24_576),
    ("31G", 31_744),
    ("32G", 32_768),
    ("47G", 48_128),
    ("48G", 49_152),
    ("63G", 64_512),
    ("64G", 65_536),
    ("127G", 130_048),
    ("128G", 131_072),
    ("191G", 195_584),
    ("192G", 196_608),
    ("255G", 261_120),
    ("256G", 262_144),
    ("287G", 293_888),
    ("288G", 294_912),
];

/// Products of Intel's labels, whose memory has no label (intel.com, data centre GPUs and Arc Pro).
const INTEL_MIB: &[(&str, u64)] = &[
    ("Arc_B580", 12_288),
    ("Flex_170", 16_384),
    ("Arc_Pro_B50", 16_384),
    ("Arc_Pro_B60", 24_576),
    ("Max_1100", 49_152),
    ("Max_1550", 131_072),
];

/// How nodes tell the memory of one of their GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Memory {
    /// A number of MiB.
    Mib(String),
    /// A text, with the MiB that each means.
    Texts(&'static str, &'static [(&'static str, u64)]),
}

/// The labels that tell of a pool's GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    memory: Option<Memory>,
    product: Option<String>,
}

impl Labels {
    /// Those of the pool's resource and cluster.
    pub fn of(gpu: &Gpu) -> Self {
        let (domain, _) = gpu.resource_name.split_once('/').unwrap_or_default();
        let texts = |key, texts| Some(Memory::Texts(key, texts));
        let (memory, product) = match (gpu.node_labels, domain) {
            (GpuLabels::Gke, _) => (texts(GKE, GKE_MIB), Some(GKE.to_owned())),
            (GpuLabels::Karpenter, _) => (
                Some(Memory::Mib("karpenter.k8s.aws/instance-gpu-memory".into())),
                Some("karpenter.k8s.aws/instance-gpu-name".into()),
            ),
            (GpuLabels::Gfd, "nvidia.com") => {
                // A slice has labels of its own: nvidia.com/mig-3g.20gb.memory. A time share has not.
                let name = gpu.resource_name.trim_end_matches(".shared");
                (
                    Some(Memory::Mib(format!("{name}.memory"))),
                    Some(format!("{name}.product")),
                )
            }
            (GpuLabels::Gfd, "amd.com") => {
                (texts(AMD, AMD_MIB), Some("amd.com/gpu.product-name".into()))
            }
            (GpuLabels::Gfd, "gpu.intel.com") => (texts(INTEL, INTEL_MIB), Some(INTEL.into())),
            (GpuLabels::Gfd, _) => (None, None),
        };
        Self { memory, product }
    }

    /// Nodes whose GPUs have at least this many MiB.
    pub fn at_least(&self, mib: u64) -> Option<NodeSelectorRequirement> {
        match self.memory.as_ref()? {
            Memory::Mib(key) => Some(requirement(
                key,
                "Gt",
                vec![mib.saturating_sub(1).to_string()],
            )),
            Memory::Texts(key, texts) => {
                let mut found = among(key, texts, |m| m >= mib);
                let values = found.values.get_or_insert_default();
                if values.is_empty() {
                    // The API server refuses a pod with an empty list. With a value that no node has, it waits
                    // and says that it fits nowhere.
                    values.push("none".to_owned());
                }
                Some(found)
            }
        }
    }

    /// Nodes whose GPUs have fewer MiB than `below`; of those that have at least `mib`, where labels
    /// are texts.
    pub fn below(&self, mib: u64, below: u64) -> Option<NodeSelectorRequirement> {
        match self.memory.as_ref()? {
            Memory::Mib(key) => Some(requirement(key, "Lt", vec![below.to_string()])),
            Memory::Texts(key, texts) => {
                let found = among(key, texts, |m| m >= mib && m < below);
                found
                    .values
                    .as_ref()
                    .is_some_and(|v| !v.is_empty())
                    .then_some(found)
            }
        }
    }

    /// Nodes with one of these products.
    pub fn products(&self, products: &[String]) -> Option<NodeSelectorRequirement> {
        let key = self.product.as_ref()?;
        (!products.is_empty()).then(|| requirement(key, "In", products.to_vec()))
    }

    /// MiB and product of a node's GPUs, by its labels.
    pub fn read(&self, labels: &BTreeMap<String, String>) -> Option<(u64, String)> {
        let mib = match self.memory.as_ref()? {
            Memory::Mib(key) => labels.get(key)?.parse().ok()?,
            Memory::Texts(key, texts) => {
                let text = labels.get(*key)?;
                texts.iter().find(|(known, _)| known == text)?.1
            }
        };
        let product = self.product.as_ref().and_then(|key| labels.get(key));
        Some((mib, product.cloned().unwrap_or_default()))
    }
}

fn among(key: &str, texts: &[(&str, u64)], fits: impl Fn(u64) -> bool) -> NodeSelectorRequirement {
    let values = texts
        .iter()
        .filter(|(_, mib)| fits(*mib))
        .map(|(text, _)| (*text).to_owned())
        .collect();
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(values),
    }
}

/// A condition on one label.
pub fn requirement(key: &str, operator: &str, values: Vec<String>) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: (!values.is_empty()).then_some(values),
    }
}
