use std::collections::BTreeMap;

use serde_json::json;

use super::*;

fn gpu(spec: serde_json::Value) -> Gpu {
    serde_json::from_value(spec).expect("the GPUs of a pod")
}

fn required(gpu: &Gpu) -> serde_json::Value {
    let required = affinity(gpu).required_during_scheduling_ignored_during_execution;
    let terms = required.map(|r| r.node_selector_terms).unwrap_or_default();
    json!(terms.first().and_then(|t| t.match_expressions.clone()))
}

#[test]
fn a_nominal_size_matches_what_drivers_report() {
    let mib = least_mib("24Gi").expect("a size");
    assert!(mib < 23_028, "an A10 reports 23,028 MiB");
    assert!(mib > 16_384, "a 16 GB card is too small");
    assert_eq!(least_mib("80G"), Some(70_190));
    assert_eq!(least_mib("much"), None);
}

#[test]
fn each_maker_and_cloud_has_labels_of_its_own() {
    let nvidia = gpu(json!({"memory": "24Gi", "products": ["NVIDIA-L4"]}));
    assert_eq!(
        required(&nvidia),
        json!([
            {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["22608"]},
            {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]},
        ])
    );
    let slice = gpu(json!({"memory": "20Gi", "resourceName": "nvidia.com/mig-3g.20gb"}));
    assert_eq!(required(&slice)[0]["key"], "nvidia.com/mig-3g.20gb.memory");
    let amd = gpu(json!({"memory": "192Gi", "resourceName": "amd.com/gpu"}));
    let large = json!(["191G", "192G", "255G", "256G", "287G", "288G"]);
    assert_eq!(required(&amd)[0]["values"], large);
    let intel = gpu(json!({"memory": "48Gi", "resourceName": "gpu.intel.com/i915"}));
    assert_eq!(
        required(&intel)[0]["values"],
        json!(["Max_1100", "Max_1550"])
    );
    let gke = gpu(json!({"memory": "141Gi", "nodeLabels": "gke"}));
    let large = json!(["nvidia-h200-141gb", "nvidia-b200", "nvidia-gb200"]);
    assert_eq!(required(&gke)[0]["values"], large);
    let karpenter = gpu(json!({"memory": "24Gi", "nodeLabels": "karpenter"}));
    assert_eq!(
        required(&karpenter)[0]["key"],
        "karpenter.k8s.aws/instance-gpu-memory"
    );
    // Beyond all that is known: a list of values must not be empty.
    for (name, memory) in [("amd.com/gpu", "320Gi"), ("gpu.intel.com/i915", "192Gi")] {
        let beyond = gpu(json!({"memory": memory, "resourceName": name}));
        assert_eq!(required(&beyond)[0]["values"], json!(["none"]), "{name}");
    }
    let other = gpu(json!({"memory": "24Gi", "resourceName": "habana.ai/gaudi"}));
    assert_eq!(required(&other), json!(null), "no label is known");
}

#[test]
fn the_users_affinity_replaces_ours() {
    let theirs = json!({"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}},
    ]});
    let gpu = gpu(json!({"memory": "24Gi", "nodeAffinity": theirs}));
    assert_eq!(json!(affinity(&gpu)), theirs);
}

#[test]
fn each_size_is_preferred_to_all_larger_ones() {
    let preferred = |gpu: &Gpu| {
        let affinity = affinity(gpu);
        affinity
            .preferred_during_scheduling_ignored_during_execution
            .unwrap_or_default()
    };
    let terms = preferred(&gpu(json!({"memory": "24Gi"})));
    let score = |mib: u64| -> i32 {
        let met = terms.iter().filter(|term| {
            let expressions = term.preference.match_expressions.as_ref();
            let values = expressions.and_then(|e| e[0].values.clone()).expect("Lt");
            mib < values[0].parse().expect("a number")
        });
        met.map(|term| term.weight).sum()
    };
    let cards = [23_034, 40_960, 46_068, 81_559, 97_871, 143_771, 183_359];
    for (small, large) in cards.iter().zip(&cards[1..]) {
        assert!(score(*small) > score(*large), "{small} before {large}");
    }
    assert!(
        preferred(&gpu(json!({}))).is_empty(),
        "no size, no preference"
    );
}

#[test]
fn labels_are_read_as_they_are_asked_for() {
    let read = |spec, labels: &[(&str, &str)]| {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let labels: BTreeMap<_, _> = labels.iter().map(owned).collect();
        Labels::of(&gpu(spec)).read(&labels).map(|(mib, _)| mib)
    };
    let nvidia = [
        ("nvidia.com/gpu.memory", "81559"),
        ("nvidia.com/gpu.product", "H100"),
    ];
    assert_eq!(read(json!({}), &nvidia), Some(81_559));
    assert_eq!(read(json!({"resourceName": "amd.com/gpu"}), &nvidia), None);
    let amd = [("amd.com/gpu.vram", "191G")];
    assert_eq!(
        read(json!({"resourceName": "amd.com/gpu"}), &amd),
        Some(195_584)
    );
    assert_eq!(read(json!({}), &[("nvidia.com/gpu.memory", "much")]), None);
}
