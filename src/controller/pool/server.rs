//! The model server in a pool's pods: a native sidecar, which is up before the worker starts and goes
//! after it. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, ExecAction,
    HTTPGetAction, HostPathVolumeSource, ImageVolumeSource, PersistentVolumeClaimVolumeSource,
    Probe, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use kube::ResourceExt;

use crate::api::names::{MAX_ADAPTERS, MODELS_DIR, SERVER_CONTAINER};
use crate::api::runtime::model_file;
use crate::api::{ContainerOverlay, Gpu, ModelServerKind, Persona};
use crate::placement::requirements::{VLLM_SHARE, requirements};
use crate::placement::server::Server;

/// Home of the server's user, which images of root do not have.
const HOME: &str = "/home/persona";
/// Tries of the start-up probe, one a second: an hour to fetch and load a model.
const LOADING: i32 = 3600;
/// Fetches what is missing, and serves meanwhile: Ollama answers, and the probe waits.
///
/// The shell is the container's first process, to which nothing is delivered that it has no trap for. It runs
/// the trap between two commands, and at once in `wait` only: so it waits for what may take long.
const OLLAMA: &str = "ollama serve & server=$!; set -f; \
    trap 'kill $server; wait $server; exit 0' TERM INT; \
    until ollama list >/dev/null 2>&1; do kill -0 $server || exit 1; sleep 0.2; done; \
    for model in $PERSONA_MODELS; do ollama show \"$model\" >/dev/null 2>&1 || \
    { ollama pull \"$model\" & wait $! || exit 1; }; done; wait $server";
const OLLAMA_READY: &str = "set -f; for model in $PERSONA_MODELS; do \
    ollama show \"$model\" >/dev/null || exit 1; done";

/// What a pool's pods serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// The server.
    pub server: Server,
    /// The models of all personas of the pool.
    pub models: BTreeSet<String>,
    /// MiB that the largest of them needs.
    pub memory_mib: Option<u64>,
    /// Sources of the adapters of its personas, each once, the oldest persona's first: where there are more than
    /// the server holds, a newcomer waits and nobody else is touched.
    pub adapters: Vec<String>,
}

impl Serving {
    /// What the pool's personas run beside the worker. All of a pool that the topology made need the same
    /// server; on an owner's pool the oldest persona says which, and others with another one get none.
    pub fn of(personas: &[Arc<Persona>], slots: u32) -> Option<Self> {
        let mut servers: Vec<_> = personas
            .iter()
            .filter_map(|p| Some((age(p), Server::of(&p.spec.model)?, &p.spec)))
            .collect();
        servers.sort_by(|a, b| a.0.cmp(&b.0));
        let (_, server, _) = servers.first()?.clone();
        let same = servers.iter().filter(|(_, other, _)| *other == server);
        let specs: Vec<_> = same.map(|(_, _, spec)| *spec).collect();
        let models: Vec<_> = specs.iter().map(|spec| &spec.model).collect();
        let mut adapters = Vec::new();
        for adapter in specs.iter().filter_map(|spec| spec.adapter.as_ref()) {
            if !adapters.contains(&adapter.source) {
                adapters.push(adapter.source.clone());
            }
        }
        let needs = models.iter().filter_map(|m| requirements(m, slots).ok());
        Some(Self {
            memory_mib: needs.map(|needs| needs.memory_mib).max(),
            models: models.iter().map(|model| model.name.clone()).collect(),
            adapters,
            server,
        })
    }

    /// Adapters that the server holds at most.
    pub fn max_adapters(&self) -> u32 {
        self.server.max_adapters.unwrap_or(MAX_ADAPTERS)
    }

    /// The models, separated by blanks, which none of their names has.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.models.iter().map(String::as_str).collect();
        names.join(" ")
    }
}

/// The sidecar and its volumes. `gpu` says which those of the pod are; none on CPUs.
pub fn sidecar(
    serving: &Serving,
    slots: u32,
    gpu: Option<&Gpu>,
    overlay: Option<&ContainerOverlay>,
) -> (Container, Vec<Volume>) {
    let none = ContainerOverlay::default();
    let overlay = overlay.unwrap_or(&none);
    let server = &serving.server;
    let (mut volumes, mut mounts) = files(server);
    if server.kind == ModelServerKind::Vllm {
        // NCCL and PyTorch exchange tensors there; 64 MiB, which runtimes give, is too little.
        volumes.push(empty("persona-shm", Some("Memory")));
        mounts.push(mount("persona-shm", "/dev/shm", false));
    }
    mounts.extend(overlay.volume_mounts.clone());
    let (command, args) = command(serving, slots, gpu);
    let mut env = env(serving, slots, gpu);
    let ours: BTreeSet<String> = env.iter().map(|variable| variable.name.clone()).collect();
    let theirs = overlay.env.iter();
    env.extend(theirs.filter(|v| !ours.contains(&v.name)).cloned());
    let mut resources = overlay.resources.clone().unwrap_or_default();
    if overlay.resources.is_none() && gpu.is_none() {
        let memory = serving.memory_mib.map(|mib| Quantity(format!("{mib}Mi")));
        let cpu = Some(Quantity("1".to_owned()));
        let requests = [("cpu", cpu), ("memory", memory)].into_iter();
        let requests = requests.filter_map(|(name, amount)| Some((name.to_owned(), amount?)));
        resources.requests = Some(requests.collect());
    }
    let container = Container {
        name: SERVER_CONTAINER.to_owned(),
        image: Some(image(server, gpu, overlay)),
        restart_policy: Some("Always".to_owned()),
        command,
        args: Some(overlay.args.clone().unwrap_or(args)),
        env: Some(env),
        // Ollama's is on loopback.
        ports: (server.kind != ModelServerKind::Ollama).then(|| {
            vec![ContainerPort {
                name: Some("model".to_owned()),
                container_port: server.port().into(),
                ..ContainerPort::default()
            }]
        }),
        startup_probe: Some(probe(server, 1, LOADING)),
        readiness_probe: Some(probe(server, 5, 3)),
        resources: Some(resources),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    (container, volumes)
}

fn image(server: &Server, gpu: Option<&Gpu>, overlay: &ContainerOverlay) -> String {
    let theirs = overlay.image.as_ref().or(server.image.as_ref());
    theirs.map_or_else(|| default_image(server.kind, gpu).to_owned(), Clone::clone)
}

/// The image for the maker of the GPU. Ollama and vLLM publish none for Intel's: it has to be named.
fn default_image(kind: ModelServerKind, gpu: Option<&Gpu>) -> &'static str {
    use ModelServerKind::{LlamaCpp, Ollama, Vllm};
    match (kind, gpu.map(Maker::of)) {
        (Ollama, Some(Maker::Amd)) => "docker.io/ollama/ollama:0.12.6-rocm",
        (Ollama, _) => "docker.io/ollama/ollama:0.12.6",
        (Vllm, Some(Maker::Amd)) => "docker.io/rocm/vllm:rocm7.0.0_vllm_0.11.1_20251103",
        (Vllm, _) => "docker.io/vllm/vllm-openai:v0.11.0",
        (LlamaCpp, None) => "ghcr.io/ggml-org/llama.cpp:server-b9014",
        (LlamaCpp, Some(Maker::Nvidia)) => "ghcr.io/ggml-org/llama.cpp:server-cuda-b9014",
        (LlamaCpp, Some(Maker::Amd)) => "ghcr.io/ggml-org/llama.cpp:server-rocm-b9014",
        (LlamaCpp, Some(Maker::Intel)) => "ghcr.io/ggml-org/llama.cpp:server-intel-b9014",
    }
}

/// Who made a GPU, by its resource or class of devices.
enum Maker {
    Nvidia,
    Amd,
    Intel,
}

impl Maker {
    fn of(gpu: &Gpu) -> Self {
        let name = gpu.device_class_name.as_ref();
        let name = name.unwrap_or(&gpu.resource_name).as_str();
        if name.contains("amd.com") {
            Self::Amd
        } else if name.contains("intel.com") {
            Self::Intel
        } else {
            Self::Nvidia
        }
    }
}

/// Command, where the image's own does not do, and arguments.
fn command(serving: &Serving, slots: u32, gpu: Option<&Gpu>) -> (Option<Vec<String>>, Vec<String>) {
    let server = &serving.server;
    let name = server.model.clone().unwrap_or_default();
    let port = server.port().to_string();
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match server.kind {
        ModelServerKind::Ollama => (Some(owned(&["/bin/sh", "-c"])), owned(&[OLLAMA])),
        ModelServerKind::Vllm => {
            let mut args: Vec<String> = vec![name.clone()];
            args.extend(["--served-model-name".to_owned(), name]);
            args.extend(["--port".to_owned(), port]);
            // Without it, vLLM wants cache for all that the model was made for, like 131,072 tokens, and does
            // not start where that is more than it has.
            args.extend(["--max-model-len".to_owned(), server.context().to_string()]);
            args.extend([
                "--gpu-memory-utilization".to_owned(),
                VLLM_SHARE.to_string(),
            ]);
            if let Some(count) = gpu.map(|gpu| gpu.count).filter(|count| *count > 1) {
                args.extend(["--tensor-parallel-size".to_owned(), count.to_string()]);
            }
            if !serving.adapters.is_empty() {
                let most = serving.max_adapters().to_string();
                args.push("--enable-lora".to_owned());
                args.extend(["--max-loras".to_owned(), most.clone()]);
                args.extend(["--max-cpu-loras".to_owned(), most]);
                if let Some(rank) = server.max_adapter_rank {
                    // It knows 8, 16, 32, … only.
                    let rank = rank.max(8).next_power_of_two();
                    args.extend(["--max-lora-rank".to_owned(), rank.to_string()]);
                }
            }
            (Some(owned(&["vllm", "serve"])), args)
        }
        ModelServerKind::LlamaCpp => {
            let source = if name.ends_with(".gguf") {
                ["--model".to_owned(), model_file(&name)]
            } else {
                ["--hf-repo".to_owned(), name.clone()]
            };
            let mut args: Vec<String> = source.into();
            args.extend(["--alias".to_owned(), name]);
            args.extend(["--host".to_owned(), "0.0.0.0".to_owned()]);
            args.extend(["--port".to_owned(), port]);
            args.extend(["--parallel".to_owned(), slots.to_string()]);
            // It divides its context among its slots.
            let all = u64::from(server.context()) * u64::from(slots);
            args.extend(["--ctx-size".to_owned(), all.to_string()]);
            if gpu.is_some() {
                args.extend(["--n-gpu-layers".to_owned(), "999".to_owned()]);
            }
            // It takes them at its start; requests say which of them count.
            let most = usize::try_from(serving.max_adapters()).unwrap_or(usize::MAX);
            for source in serving.adapters.iter().take(most) {
                args.extend(["--lora".to_owned(), model_file(source)]);
            }
            if !serving.adapters.is_empty() {
                args.push("--lora-init-without-apply".to_owned());
            }
            (None, args)
        }
    }
}

fn env(serving: &Serving, slots: u32, gpu: Option<&Gpu>) -> Vec<EnvVar> {
    // PyTorch asks for the user's name, which an image does not know.
    let mut pairs = vec![("HOME", HOME.to_owned()), ("USER", "persona".to_owned())];
    match serving.server.kind {
        ModelServerKind::Ollama => {
            pairs.push(("PERSONA_MODELS", serving.names()));
            pairs.push(("OLLAMA_MODELS", MODELS_DIR.to_owned()));
            // Its probes run in its container, so that nobody but the worker has to reach it. The kubelet
            // asks the others at the pod's address.
            pairs.push((
                "OLLAMA_HOST",
                format!("127.0.0.1:{}", serving.server.port()),
            ));
            // As many as the worker takes, each with the context that the memory was estimated for.
            pairs.push(("OLLAMA_NUM_PARALLEL", slots.to_string()));
            pairs.push((
                "OLLAMA_CONTEXT_LENGTH",
                serving.server.context().to_string(),
            ));
            // Models stay loaded as long as there is memory for them.
            pairs.push(("OLLAMA_KEEP_ALIVE", "-1".to_owned()));
            if gpu.is_none() {
                // On CPUs it would fill the node; the pod asks for room for the largest only.
                pairs.push(("OLLAMA_MAX_LOADED_MODELS", "1".to_owned()));
            }
        }
        ModelServerKind::Vllm => {
            pairs.push(("HF_HOME", MODELS_DIR.to_owned()));
            if !serving.adapters.is_empty() {
                pairs.push(("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True".to_owned()));
            }
        }
        ModelServerKind::LlamaCpp => pairs.push(("LLAMA_CACHE", MODELS_DIR.to_owned())),
    }
    let variable = |(name, value): (&str, String)| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    pairs.into_iter().map(variable).collect()
}

fn probe(server: &Server, period: i32, failures: i32) -> Probe {
    let mut probe = Probe {
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    if server.kind == ModelServerKind::Ollama {
        let command = ["/bin/sh", "-c", OLLAMA_READY];
        let command = command.map(str::to_owned).into();
        probe.exec = Some(ExecAction {
            command: Some(command),
        });
        probe.timeout_seconds = Some(10);
    } else {
        probe.http_get = Some(HTTPGetAction {
            path: Some("/health".to_owned()),
            port: IntOrString::String("model".to_owned()),
            ..HTTPGetAction::default()
        });
    }
    probe
}

/// Model files and the home of the server's user.
fn files(server: &Server) -> (Vec<Volume>, Vec<VolumeMount>) {
    let cache = server.cache.clone().unwrap_or_default();
    let read_only = cache.image.is_some();
    let mut models = empty("persona-models", None);
    if let Some(claim_name) = cache.persistent_volume_claim {
        models.empty_dir = None;
        models.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
            claim_name,
            read_only: None,
        });
    } else if let Some(reference) = cache.image {
        models.empty_dir = None;
        models.image = Some(ImageVolumeSource {
            reference: Some(reference),
            pull_policy: None,
        });
    } else if let Some(path) = cache.host_path {
        models.empty_dir = None;
        models.host_path = Some(HostPathVolumeSource {
            path,
            type_: Some("Directory".to_owned()),
        });
    }
    let mounts = vec![
        mount("persona-models", MODELS_DIR, read_only),
        mount("persona-home", HOME, false),
    ];
    (vec![models, empty("persona-home", None)], mounts)
}

fn empty(name: &str, medium: Option<&str>) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: None,
        }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn age(persona: &Persona) -> (Option<Timestamp>, String) {
    let made = persona.metadata.creation_timestamp.as_ref();
    (made.map(|time| time.0), persona.name_any())
}

#[cfg(test)]
mod tests;
