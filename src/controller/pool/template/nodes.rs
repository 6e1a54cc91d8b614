//! Which nodes a worker's pod is for. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, PreferredSchedulingTerm, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::api::names::LABEL_POOL;

/// Workers apart, where there are nodes and zones for it.
pub fn spread(pool: &str) -> Vec<TopologySpreadConstraint> {
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(LABEL_POOL.to_owned(), pool.to_owned())])),
            match_expressions: None,
        }),
        ..TopologySpreadConstraint::default()
    };
    vec![
        over("kubernetes.io/hostname"),
        over("topology.kubernetes.io/zone"),
    ]
}

/// Adds what a node must have.
pub fn require(affinity: &mut Option<Affinity>, terms: Option<NodeSelector>) {
    let Some(terms) = terms else { return };
    let node = affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default();
    match &mut node.required_during_scheduling_ignored_during_execution {
        // Terms are alternatives: each of the user's must hold together with ours.
        Some(theirs) => {
            for term in &mut theirs.node_selector_terms {
                let ours = terms.node_selector_terms.iter();
                let expressions =
                    ours.flat_map(|t| t.match_expressions.clone().unwrap_or_default());
                term.match_expressions
                    .get_or_insert_default()
                    .extend(expressions);
            }
        }
        none => *none = Some(terms),
    }
}

/// Adds what a node should have.
pub fn prefer(affinity: &mut Option<Affinity>, terms: Vec<PreferredSchedulingTerm>) {
    if terms.is_empty() {
        return;
    }
    affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default()
        .preferred_during_scheduling_ignored_during_execution
        .get_or_insert_default()
        .extend(terms);
}
