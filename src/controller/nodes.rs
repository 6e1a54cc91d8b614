//! Nodes that lose their pods: cordoned, about to be removed, or out of reach. Their workers are replaced
//! before they go. And the labels of nodes that have GPUs.

use crate::lock::lock;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

/// Taints of a node that is to be emptied, or cannot be reached.
const TAINTS: [&str; 6] = [
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/out-of-service",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
];

/// Labels of these makers and clouds tell of GPUs.
const GPU_LABELS: [&str; 5] = [
    "nvidia.com/",
    "amd.com/gpu",
    "gpu.intel.com/",
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu",
];

/// The nodes that lose their pods, and those that have GPUs.
#[derive(Default)]
pub struct Nodes(Mutex<State>);

#[derive(Default)]
struct State {
    now: Known,
    listed: Known,
}

#[derive(Default)]
struct Known {
    going: HashSet<String>,
    gpus: HashMap<String, BTreeMap<String, String>>,
}

impl Known {
    fn set(&mut self, node: &Node) {
        self.remove(&node.name_any());
        if is_going(node) {
            self.going.insert(node.name_any());
        }
        let labels = gpu_labels(node);
        if !labels.is_empty() {
            self.gpus.insert(node.name_any(), labels);
        }
    }

    fn remove(&mut self, name: &str) {
        self.going.remove(name);
        self.gpus.remove(name);
    }
}

impl Nodes {
    /// Whether a node loses its pods.
    pub fn is_going(&self, name: &str) -> bool {
        self.lock().now.going.contains(name)
    }

    /// The largest GPU that a node has, in MiB, and its product, as `read` finds them in its labels.
    pub fn largest_gpu(
        &self,
        read: impl Fn(&BTreeMap<String, String>) -> Option<(u64, String)>,
    ) -> Option<(u64, String)> {
        self.lock().now.gpus.values().filter_map(read).max()
    }

    /// What the watch says; answers the nodes for which it is news.
    pub fn hear(&self, event: &Event<Node>) -> HashSet<String> {
        let mut state = self.lock();
        let before = state.now.going.clone();
        match event {
            Event::Apply(node) => state.now.set(node),
            Event::Delete(node) => state.now.remove(&node.name_any()),
            Event::Init => state.listed = Known::default(),
            Event::InitApply(node) => state.listed.set(node),
            Event::InitDone => state.now = std::mem::take(&mut state.listed),
        }
        let changed = before.symmetric_difference(&state.now.going);
        changed.cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.0)
    }
}

fn is_going(node: &Node) -> bool {
    let Some(spec) = &node.spec else { return false };
    let taints = spec.taints.iter().flatten();
    spec.unschedulable == Some(true)
        || taints
            .into_iter()
            .any(|taint| TAINTS.contains(&taint.key.as_str()))
}

fn gpu_labels(node: &Node) -> BTreeMap<String, String> {
    let tells = |key: &String| GPU_LABELS.iter().any(|prefix| key.starts_with(prefix));
    let labels = node.labels().iter().filter(|(key, _)| tells(key));
    labels
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_gpu_is_known_until_its_node_goes() {
        let nodes = Nodes::default();
        let node = |name: &str, mib: &str| -> Node {
            let labels = serde_json::json!({"nvidia.com/gpu.memory": mib, "zone": "a"});
            serde_json::from_value(
                serde_json::json!({"metadata": {"name": name, "labels": labels}}),
            )
            .expect("a node")
        };
        let read = |labels: &BTreeMap<String, String>| {
            assert!(
                !labels.contains_key("zone"),
                "only what tells of GPUs is kept"
            );
            let mib = labels.get("nvidia.com/gpu.memory")?.parse().ok()?;
            Some((mib, "card".to_owned()))
        };
        assert_eq!(nodes.largest_gpu(read), None);
        nodes.hear(&Event::Apply(node("a", "23034")));
        nodes.hear(&Event::Apply(node("b", "81559")));
        assert_eq!(nodes.largest_gpu(read), Some((81_559, "card".into())));
        nodes.hear(&Event::Delete(node("b", "81559")));
        assert_eq!(nodes.largest_gpu(read), Some((23_034, "card".into())));
    }

    fn node(name: &str, spec: serde_json::Value) -> Node {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": spec}))
            .expect("a node")
    }

    #[test]
    fn cordoned_and_unreachable_nodes_are_going_and_come_back() {
        let nodes = Nodes::default();
        let cordoned = node("a", serde_json::json!({"unschedulable": true}));
        let taint =
            serde_json::json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"});
        let lost = node("b", serde_json::json!({"taints": [taint]}));
        let gpu = serde_json::json!({"key": "nvidia.com/gpu", "effect": "NoSchedule"});
        let sound = node("c", serde_json::json!({"taints": [gpu]}));
        for node in [&cordoned, &lost] {
            assert_eq!(nodes.hear(&Event::Apply(node.clone())).len(), 1);
            assert!(
                nodes.hear(&Event::Apply(node.clone())).is_empty(),
                "no news"
            );
        }
        assert!(nodes.hear(&Event::Apply(sound)).is_empty());
        assert!(nodes.is_going("a") && nodes.is_going("b") && !nodes.is_going("c"));
        nodes.hear(&Event::Init);
        nodes.hear(&Event::InitApply(node("a", serde_json::json!({}))));
        nodes.hear(&Event::InitApply(lost));
        assert_eq!(
            nodes.hear(&Event::InitDone),
            HashSet::from(["a".to_owned()])
        );
        assert!(!nodes.is_going("a") && nodes.is_going("b"));
    }
}
