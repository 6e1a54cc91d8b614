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
    serving(pool, keys, None)
}

fn serving(pool: &WorkerPool, keys: &[(&str, &str)], serving: Option<&Serving>) -> Template {
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
            serving,
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

/// The pod of a pool whose personas have these models; the first says which server.
fn with_models(placement: serde_json::Value, models: &[serde_json::Value]) -> PodSpec {
    with_adapters(placement, models, &[])
}

fn with_adapters(
    placement: serde_json::Value,
    models: &[serde_json::Value],
    adapters: &[&str],
) -> PodSpec {
    let models: Vec<crate::api::Model> = models
        .iter()
        .map(|model| serde_json::from_value(model.clone()).expect("a model"))
        .collect();
    let served = Serving {
        server: crate::placement::Server::of(&models[0]).expect("a server"),
        models: models.into_iter().map(|model| model.name).collect(),
        memory_mib: Some(4000),
        adapters: adapters.iter().map(|source| (*source).to_owned()).collect(),
    };
    let made = serving(&pool(json!({"placement": placement})), &[], Some(&served));
    made.named("helpers-0").spec.expect("a spec")
}

#[test]
fn ollama_beside_a_cpu_worker_holds_all_models_of_the_pool() {
    let cache = json!({"persistentVolumeClaim": "models"});
    let model = |name| json!({"provider": "Ollama", "name": name, "server": {"kind": "Ollama", "cache": cache}});
    let pod = with_models(json!({}), &[model("llama3.2:1b"), model("llama3.2:3b")]);
    assert_yaml_snapshot!("ollama", json!([pod.init_containers, pod.volumes]));
    let worker = &pod.containers[0];
    let mut env = worker.env.iter().flatten();
    let endpoint = env.find(|v| v.name == "PERSONA_MODEL_ENDPOINT");
    assert_eq!(
        endpoint.and_then(|v| v.value.as_deref()),
        Some("http://127.0.0.1:11434")
    );
}

#[test]
fn vllm_gets_the_gpus_and_spreads_its_model_over_them() {
    let model = json!({
        "provider": "OpenAICompatible", "name": "meta-llama/Llama-3.3-70B-Instruct",
        "server": {"kind": "vLLM", "cache": {"hostPath": "/var/lib/models"}},
        "requirements": {"contextTokens": 8192},
    });
    let placement = json!({"device": "gpu", "gpu": {"count": 2, "memory": "80Gi"}});
    let pod = with_models(placement, &[model]);
    assert_yaml_snapshot!("vllm", json!([pod.init_containers, pod.volumes]));
    let limits = pod.containers[0]
        .resources
        .as_ref()
        .and_then(|r| r.limits.as_ref());
    assert!(limits.is_some_and(|l| !l.contains_key("nvidia.com/gpu")));
}

#[test]
fn servers_of_personas_with_adapters_are_told_how_many_and_which() {
    let args = |kind: &str, adapters: &[&str]| {
        let model = json!({"provider": "OpenAICompatible", "name": "base.gguf",
            "server": {"kind": kind, "maxAdapters": 2}});
        let pod = with_adapters(json!({}), &[model], adapters);
        let worker = pod.containers[0].env.clone().unwrap_or_default();
        let most = worker
            .into_iter()
            .find(|v| v.name == "PERSONA_MAX_ADAPTERS");
        assert_eq!(most.and_then(|v| v.value).as_deref(), Some("2"));
        let server = pod.init_containers.expect("a sidecar").remove(0);
        let env = server.env.unwrap_or_default().into_iter();
        let updates = env
            .clone()
            .any(|v| v.name == "VLLM_ALLOW_RUNTIME_LORA_UPDATING");
        (server.args.unwrap_or_default().join(" "), updates)
    };
    let (vllm, updates) = args("vLLM", &["a", "b", "c"]);
    assert!(
        vllm.ends_with("--enable-lora --max-loras 2 --max-cpu-loras 2"),
        "{vllm}"
    );
    assert!(updates);
    assert_eq!(
        args("vLLM", &["a"]).0,
        vllm,
        "which ones is no reason to replace pods"
    );
    let (llama, updates) = args("LlamaCpp", &["b.gguf", "/elsewhere/a.gguf", "c.gguf"]);
    assert!(
        llama.ends_with("--lora /models/b.gguf --lora /elsewhere/a.gguf --lora-init-without-apply"),
        "{llama}"
    );
    assert!(!updates);
    let model = json!({"provider": "OpenAICompatible", "name": "base",
        "server": {"kind": "vLLM", "maxAdapterRank": 48}});
    let server = with_adapters(json!({}), &[model], &["a"]).init_containers;
    let ranked = server
        .expect("a sidecar")
        .remove(0)
        .args
        .unwrap_or_default();
    assert!(
        ranked.join(" ").ends_with("--max-lora-rank 64"),
        "{ranked:?}"
    );
    for kind in ["vLLM", "LlamaCpp"] {
        let (plain, updates) = args(kind, &[]);
        assert!(!plain.contains("lora") && !updates, "{plain}");
    }
}

#[test]
fn llama_cpp_reads_a_file_of_an_image_volume() {
    let model = |name| {
        json!({"provider": "OpenAICompatible", "name": name, "server": {
            "kind": "LlamaCpp", "cache": {"image": "registry.example.com/models/smollm2:1"},
        }})
    };
    let pod = with_models(json!({}), &[model("SmolLM2-135M-Instruct.Q4_1.gguf")]);
    assert_yaml_snapshot!("llama_cpp", json!([pod.init_containers, pod.volumes]));
    let gpu = json!({"device": "gpu"});
    let pod = with_models(gpu, &[model("bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M")]);
    let server = &pod.init_containers.expect("a sidecar")[0];
    let args = server.args.clone().unwrap_or_default().join(" ");
    assert!(args.starts_with("--hf-repo bartowski/"), "{args}");
    assert!(args.ends_with("--n-gpu-layers 999"), "{args}");
}

#[test]
fn a_server_has_the_context_and_share_of_its_gpu_that_it_was_placed_with() {
    let args = |name: &str| {
        let model =
            json!({"provider": "OpenAICompatible", "name": name, "server": {"kind": "vLLM"}});
        let pod = with_models(json!({"device": "gpu"}), &[model]);
        let server = pod.init_containers.expect("a sidecar").remove(0);
        server.args.unwrap_or_default().join(" ")
    };
    let plain = args("meta-llama/Llama-3.1-8B-Instruct");
    assert!(
        plain.contains("--max-model-len 4096 --gpu-memory-utilization 0.9"),
        "{plain}"
    );
    let short = args("TinyLlama/TinyLlama-1.1B-Chat-v1.0");
    assert!(
        short.contains("--max-model-len 2048 "),
        "it was made for no more: {short}"
    );
    let model = json!({"provider": "Ollama", "name": "llama3.1:8b",
        "requirements": {"contextTokens": 32_768}});
    let pod = with_models(json!({"device": "gpu"}), &[model]);
    let env = pod.init_containers.expect("a sidecar").remove(0).env;
    let env = env.unwrap_or_default();
    let value = |name: &str| env.iter().find(|v| v.name == name)?.value.clone();
    assert_eq!(value("OLLAMA_CONTEXT_LENGTH").as_deref(), Some("32768"));
    assert_eq!(value("OLLAMA_NUM_PARALLEL").as_deref(), Some("4"));
    assert_eq!(
        value("OLLAMA_MAX_LOADED_MODELS"),
        None,
        "on a GPU Ollama counts itself"
    );
}

#[test]
fn a_server_has_the_image_of_its_gpus_maker() {
    let image = |kind: &str, resource: Option<&str>| {
        let model =
            json!({"provider": "OpenAICompatible", "name": "m.gguf", "server": {"kind": kind}});
        let placement = match resource {
            Some(name) => json!({"device": "gpu", "gpu": {"resourceName": name}}),
            None => json!({}),
        };
        let pod = with_models(placement, &[model]);
        let image = pod.init_containers.expect("a sidecar").remove(0).image;
        image.unwrap_or_default()
    };
    let (amd, intel) = (Some("amd.com/gpu"), Some("gpu.intel.com/i915"));
    let nvidia = Some("nvidia.com/mig-3g.20gb");
    for (resource, part) in [
        (None, ":server-b"),
        (nvidia, ":server-cuda-b"),
        (amd, ":server-rocm-b"),
        (intel, ":server-intel-b"),
    ] {
        let image = image("LlamaCpp", resource);
        assert!(image.contains(part), "{image} without {part}");
    }
    assert!(image("vLLM", amd).contains("rocm/vllm"));
    assert!(image("vLLM", nvidia).contains("vllm/vllm-openai"));
}

#[test]
fn a_claimed_gpu_goes_to_the_model_server() {
    let placement =
        json!({"device": "gpu", "gpu": {"memory": "80Gi", "deviceClassName": "gpu.nvidia.com"}});
    let mut owner = pool(json!({"placement": placement}));
    let claims = made(&owner, &[]).claims;
    assert_yaml_snapshot!("claims", claims);
    owner.metadata.uid = Some("uid-of-the-next".into());
    let next = made(&owner, &[]).claims;
    let name = |claims: &Option<ResourceClaimTemplate>| claims.as_ref().map(ResourceExt::name_any);
    assert_ne!(name(&next), name(&claims), "it goes with the deleted pool");
    let model = json!({"provider": "Ollama", "name": "llama3.1:70b"});
    let pod = with_models(placement, &[model]);
    let server = &pod.init_containers.expect("a sidecar")[0];
    let claims = server.resources.as_ref().and_then(|r| r.claims.clone());
    assert_eq!(claims.map(|c| c.len()), Some(1));
    assert!(
        pod.affinity.is_none(),
        "the scheduler looks at devices itself"
    );
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
