//! Nodes that lose their pods: cordoned, about to be removed, or out of reach. Their workers are replaced
//! before they go.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

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

/// Names of the nodes that lose their pods.
#[derive(Default)]
pub struct Nodes(Mutex<State>);

#[derive(Default)]
struct State {
    going: HashSet<String>,
    listed: HashSet<String>,
}

impl Nodes {
    /// Whether a node loses its pods.
    pub fn is_going(&self, name: &str) -> bool {
        self.lock().going.contains(name)
    }

    /// What the watch says; answers the nodes for which it is news.
    pub fn hear(&self, event: &Event<Node>) -> HashSet<String> {
        let mut state = self.lock();
        let before = state.going.clone();
        match event {
            Event::Apply(node) => {
                if is_going(node) {
                    state.going.insert(node.name_any());
                } else {
                    state.going.remove(&node.name_any());
                }
            }
            Event::Delete(node) => {
                state.going.remove(&node.name_any());
            }
            Event::Init => state.listed.clear(),
            Event::InitApply(node) => {
                if is_going(node) {
                    state.listed.insert(node.name_any());
                }
            }
            Event::InitDone => state.going = std::mem::take(&mut state.listed),
        }
        before.symmetric_difference(&state.going).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

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
