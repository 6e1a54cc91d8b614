//! The pod of a pool's workers. Pure: the same input makes the same pod, and the same hash.

mod nodes;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, Probe, ResourceRequirements,
    SeccompProfile, SecurityContext, VolumeMount,
};
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use self::nodes::{prefer, require, spread};
use self::volumes::volumes;
use super::gpu;
use super::server::{self, Serving};
use crate::api::names::{
    CREDENTIALS_DIR, LABEL_MANAGED_BY, LABEL_POOL, LABEL_TEMPLATE, MANAGER, QUEUE_ACCESS_DIR,
    SERVER_CONTAINER, WORKER_CONTAINER,
};
use crate::api::{ContainerOverlay, Gpu, MetricType, PodOverlay, SecretKeyRef, Span, WorkerPool};

/// User and group of the worker: no privilege anywhere.
const USER: i64 = 65532;
/// Port of health, metrics and direct calls.
const PORT: i32 = 8080;
/// On top of the drain timeout before the kubelet kills: to hand tasks back and close connections.
const MARGIN: Span = Span::secs(15);

/// What does not come from the pool itself.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Image of the worker.
    pub image: &'a str,
    /// Its pull policy.
    pub pull_policy: &'a str,
    /// Redis as workers reach it.
    pub queue_url: &'a str,
    /// First part of every key.
    pub queue_prefix: &'a str,
    /// Keys of Secrets that the pool's personas reference.
    pub credentials: &'a BTreeSet<SecretKeyRef>,
    /// What the pool's personas run beside the worker.
    pub serving: Option<&'a Serving>,
    /// How long a worker may finish its requests.
    pub drain_timeout: Span,
}

/// A pod without a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// 8 hex digits of all that a running pod cannot change.
    pub hash: String,
    /// What claims the GPUs of each pod, where a device class is named.
    pub claims: Option<ResourceClaimTemplate>,
    pod: Pod,
}

impl Template {
    /// The pod under a name.
    pub fn named(&self, name: &str) -> Pod {
        let mut pod = self.pod.clone();
        pod.metadata.name = Some(name.to_owned());
        pod
    }
}

/// Whether the pool's workers are ours: a pool that follows metrics from elsewhere alone runs the image
/// of its owner, which knows nothing of the queue.
pub fn follows_queue(pool: &WorkerPool) -> bool {
    let metrics = &pool.spec.scaling.metrics;
    metrics
        .iter()
        .any(|metric| metric.type_ == MetricType::Queue)
}

/// The pool's pod.
pub fn template(pool: &WorkerPool, setup: &Setup<'_>) -> Template {
    let none = PodOverlay::default();
    let overlay = pool.spec.template.as_ref().unwrap_or(&none);
    let name = pool.name_any();
    let gpu = pool.spec.placement.gpus();
    let claims = gpu.as_ref().and_then(|gpu| gpu::claim::template(pool, gpu));
    let spec = spec(pool, setup, overlay, gpu.as_ref(), claims.as_ref());
    let hash = {
        let shape = serde_json::json!([spec, overlay.labels, overlay.annotations]);
        hex::encode(&Sha256::digest(shape.to_string())[..4])
    };
    let mut labels = overlay.labels.clone();
    labels.extend([
        (LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (LABEL_POOL.to_owned(), name),
        (LABEL_TEMPLATE.to_owned(), hash.clone()),
    ]);
    let mut annotations = BTreeMap::new();
    if follows_queue(pool) {
        annotations.extend([
            ("prometheus.io/scrape".to_owned(), "true".to_owned()),
            ("prometheus.io/port".to_owned(), PORT.to_string()),
            ("prometheus.io/path".to_owned(), "/metrics".to_owned()),
        ]);
    }
    annotations.extend(overlay.annotations.clone());
    let pod = Pod {
        metadata: ObjectMeta {
            namespace: pool.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: pool.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    };
    Template { hash, claims, pod }
}

fn spec(
    pool: &WorkerPool,
    setup: &Setup<'_>,
    overlay: &PodOverlay,
    gpu: Option<&Gpu>,
    claims: Option<&ResourceClaimTemplate>,
) -> PodSpec {
    let grace = setup.drain_timeout.as_duration() + MARGIN.as_duration();
    let (mut volumes, mounts) = if follows_queue(pool) {
        volumes(setup.credentials)
    } else {
        (Vec::new(), Vec::new())
    };
    volumes.extend(overlay.volumes.clone());
    let mut tolerations = overlay.tolerations.clone();
    let mut affinity = overlay.affinity.clone();
    let mut worker = worker(
        pool,
        setup,
        overlay.containers.get(WORKER_CONTAINER),
        mounts,
    );
    let mut claimed = PodSpec::default();
    match gpu {
        Some(gpu) => {
            tolerations.extend(gpu::tolerations(gpu));
            let ours = gpu::affinity(gpu);
            require(
                &mut affinity,
                ours.required_during_scheduling_ignored_during_execution,
            );
            let preferred = ours.preferred_during_scheduling_ignored_during_execution;
            prefer(&mut affinity, preferred.unwrap_or_default());
        }
        None => prefer(&mut affinity, vec![gpu::avoidance()]),
    }
    let mut server = setup.serving.map(|serving| {
        let overlay = overlay.containers.get(SERVER_CONTAINER);
        let (server, files) = server::sidecar(serving, pool.spec.slots_per_worker, gpu, overlay);
        volumes.extend(files);
        server
    });
    // The GPUs are for who computes: the model server, or a worker of the owner's that does so itself.
    let computes = server.as_mut().unwrap_or(&mut worker);
    match (gpu, claims) {
        (_, Some(claims)) => gpu::claim::attach(claims, &mut claimed, computes),
        (Some(gpu), None) => gpu::limit(gpu, computes.resources.get_or_insert_default()),
        (None, None) => {}
    }
    let not_empty = |list: Vec<_>| (!list.is_empty()).then_some(list);
    PodSpec {
        restart_policy: Some("Always".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: i64::try_from(grace.as_secs()).ok(),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        init_containers: server.map(|server| vec![server]),
        containers: vec![worker],
        volumes: Some(volumes),
        node_selector: (!overlay.node_selector.is_empty()).then(|| overlay.node_selector.clone()),
        affinity,
        tolerations: not_empty(tolerations),
        topology_spread_constraints: if !overlay.topology_spread_constraints.is_empty() {
            Some(overlay.topology_spread_constraints.clone())
        } else if gpu.is_none() {
            Some(spread(&pool.name_any()))
        } else {
            // It would send the second worker to a node of larger, dearer GPUs.
            None
        },
        priority_class_name: overlay.priority_class_name.clone(),
        runtime_class_name: overlay.runtime_class_name.clone(),
        image_pull_secrets: (!overlay.image_pull_secrets.is_empty())
            .then(|| overlay.image_pull_secrets.clone()),
        ..claimed
    }
}

fn worker(
    pool: &WorkerPool,
    setup: &Setup<'_>,
    overlay: Option<&ContainerOverlay>,
    mut mounts: Vec<VolumeMount>,
) -> Container {
    let none = ContainerOverlay::default();
    let overlay = overlay.unwrap_or(&none);
    mounts.extend(overlay.volume_mounts.clone());
    let is_ours = follows_queue(pool);
    let mut env = if is_ours {
        env(pool, setup)
    } else {
        Vec::new()
    };
    let ours: BTreeSet<String> = env.iter().map(|variable| variable.name.clone()).collect();
    env.extend(
        overlay
            .env
            .iter()
            .filter(|variable| !ours.contains(&variable.name))
            .cloned(),
    );
    Container {
        name: WORKER_CONTAINER.to_owned(),
        image: Some(
            overlay
                .image
                .clone()
                .unwrap_or_else(|| setup.image.to_owned()),
        ),
        image_pull_policy: Some(setup.pull_policy.to_owned()),
        args: overlay
            .args
            .clone()
            .or_else(|| is_ours.then(|| vec!["worker".to_owned()])),
        env: Some(env),
        ports: is_ours.then(|| {
            vec![ContainerPort {
                name: Some("http".to_owned()),
                container_port: PORT,
                ..ContainerPort::default()
            }]
        }),
        readiness_probe: is_ours.then(|| probe("/readyz", 1, 3)),
        liveness_probe: is_ours.then(|| probe("/livez", 10, 6)),
        resources: Some(overlay.resources.clone().unwrap_or_else(resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// Without phase and pools to steal from: those reach workers through the queue, so that a change of
/// phase replaces no pod.
fn env(pool: &WorkerPool, setup: &Setup<'_>) -> Vec<EnvVar> {
    let spec = &pool.spec;
    let recycle = &spec.recycle;
    let beside = setup.serving.map(|serving| {
        [
            value("PERSONA_MODEL_ENDPOINT", serving.server.endpoint()),
            value("PERSONA_MODELS", serving.names()),
            value("PERSONA_MODEL_SERVER", serving.server.kind.as_str()),
            value("PERSONA_MAX_ADAPTERS", serving.max_adapters().to_string()),
        ]
    });
    let mut env = vec![
        value("PERSONA_LISTEN", format!("0.0.0.0:{PORT}")),
        value("PERSONA_QUEUE_URL", setup.queue_url),
        value("PERSONA_QUEUE_PREFIX", setup.queue_prefix),
        value("PERSONA_QUEUE_ACCESS_DIR", QUEUE_ACCESS_DIR),
        value("PERSONA_CREDENTIALS_DIR", CREDENTIALS_DIR),
        value("PERSONA_POOL", pool.name_any()),
        value("PERSONA_SLOTS", spec.slots_per_worker.to_string()),
        value("PERSONA_DEVICE", spec.placement.device.as_str()),
        value("PERSONA_DRAIN_TIMEOUT", setup.drain_timeout.to_string()),
        value(
            "PERSONA_RECYCLE_AFTER_TASKS",
            recycle.after_tasks.to_string(),
        ),
        value("PERSONA_RECYCLE_AFTER_AGE", recycle.after_age.to_string()),
        value("PERSONA_RECYCLE_AT_MEMORY", recycle.at_memory.clone()),
        field("PERSONA_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
    ];
    env.extend(beside.into_iter().flatten());
    env
}

fn value(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.into()),
        value_from: None,
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn resources() -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        Some(
            pairs
                .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
                .collect(),
        )
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "50m"), ("memory", "64Mi")]),
        // Above recycle.atMemory, which ends a worker in good order.
        limits: quantities(&[("memory", "1Gi")]),
        claims: None,
    }
}

#[cfg(test)]
mod tests;
