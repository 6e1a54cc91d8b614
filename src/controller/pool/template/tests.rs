use insta::assert_yaml_snapshot;
use serde_json::json;

use super::*;

fn pool(spec: serde_json::Value) -> WorkerPool {
    serde_json::from_value(json!({
        "apiVersion": "persona.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "helpers", "namespace": "team-a", "uid": "pool-uid"},
        "spec": spec,
    }))
    .expect("a pool")
}

fn made(pool: &WorkerPool, keys: &[(&str, &str)]) -> Template {
    let credentials = keys.iter().map(|(name, key)| SecretKeyRef {
        name: (*name).to_owned(),
        key: (*key).to_owned(),
    });
    template(
        pool,
        &Setup {
            image: "ghcr.io/persona-operator/persona-operator:1",
            pull_policy: "IfNotPresent",
            queue_url: "redis://redis:6379",
            queue_prefix: "persona",
            credentials: &credentials.collect(),
            drain_timeout: Span::secs(60),
        },
    )
}

#[test]
fn pod_of_a_plain_pool() {
    let pod = made(&pool(json!({})), &[]).named("helpers-0");
    assert_yaml_snapshot!("plain", pod);
}

#[test]
fn pod_of_a_pool_with_credentials_an_overlay_and_gpus() {
    let overlay = json!({
        "stealFrom": ["others"],
        "placement": {"device": "gpu", "gpu": {"count": 2, "memory": "24Gi", "products": ["NVIDIA-A10"]}},
        "template": {
            "labels": {"team": "a", "persona.dev/pool": "not-this"},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}],
            }}},
            "priorityClassName": "batch",
            "volumes": [{"name": "cache", "emptyDir": {}}],
            "containers": {"worker": {
                "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}, {"name": "PERSONA_POOL", "value": "mine"}],
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                "resources": {"requests": {"cpu": "1"}},
            }},
        },
    });
    let keys = [("openai", "key"), ("openai", "other"), ("azure", "key")];
    let pod = made(&pool(overlay), &keys).named("helpers-0");
    assert_yaml_snapshot!("everything", pod.spec);
    assert_eq!(pod.labels()[LABEL_POOL], "helpers", "not the overlay's");
}

#[test]
fn hash_changes_with_what_a_pod_cannot_change_and_with_nothing_else() {
    let plain = made(&pool(json!({})), &[]);
    assert_eq!(plain, made(&pool(json!({})), &[]));
    let same = made(&pool(json!({"minReplicas": 3, "maxReplicas": 9})), &[]);
    assert_eq!(plain.hash, same.hash);
    let others = [
        made(&pool(json!({})), &[("openai", "key")]),
        made(&pool(json!({"slotsPerWorker": 9})), &[]),
        made(&pool(json!({"template": {"labels": {"a": "b"}}})), &[]),
    ];
    for other in others {
        assert_ne!(plain.hash, other.hash);
    }
}
