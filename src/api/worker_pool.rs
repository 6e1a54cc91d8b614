//! `WorkerPool`: a set of worker pods that follows its queue.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::NodeAffinity, apimachinery::pkg::apis::meta::v1::Condition,
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::{PodOverlay, Scaling, Span, pod_schema, rules};

/// A set of worker pods that follows its queue.
#[derive(CustomResource, schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "persona.dev",
    version = "v1alpha1",
    kind = "WorkerPool",
    namespaced,
    status = "WorkerPoolStatus",
    derive = "PartialEq",
    shortname = "wp",
    category = "persona-operator",
    doc = "A set of worker pods that follows its queue.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Sizing", type_ = "string", json_path = ".status.sizing"),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".status.desiredReplicas"
    ),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Busy", type_ = "integer", json_path = ".status.busy"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.queued"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.running"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Min",
        type_ = "integer",
        json_path = ".spec.minReplicas",
        priority = 1
    ),
    printcolumn(
        name = "Max",
        type_ = "integer",
        json_path = ".spec.maxReplicas",
        priority = 1
    ),
    printcolumn(
        name = "Oldest wait",
        type_ = "string",
        json_path = ".status.oldestWait",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::worker_pool()))]
pub struct WorkerPoolSpec {
    /// Workers that are always there.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 10_000))]
    pub min_replicas: u32,
    /// Most workers.
    #[serde(default = "default_max_replicas")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_replicas: u32,
    /// Pins the size and turns autoscaling off (what `kubectl scale` writes). Unset: autoscaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub replicas: Option<u32>,
    /// Workers the topology wants ready before personas move in; it sets and unsets this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub warm_replicas: Option<u32>,
    /// Requests a worker answers at once.
    #[serde(default = "default_slots")]
    #[schemars(range(min = 1, max = 1000))]
    pub slots_per_worker: u32,
    /// An idle worker above minReplicas goes after this.
    #[serde(default = "default_idle_timeout")]
    #[schemars(extend("x-kubernetes-validations" = rules::span("1ms", "24h")))]
    pub idle_timeout: Span,
    /// Other pools whose requests an idle worker may serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub steal_from: Vec<String>,
    /// When to grow and shrink.
    #[serde(default)]
    pub scaling: Scaling,
    /// Which nodes its pods need.
    #[serde(default)]
    pub placement: Placement,
    /// When a worker starts afresh.
    #[serde(default)]
    pub recycle: Recycle,
    /// How long a worker may finish its requests before it goes. Default: the longest timeout of its personas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::span("0s", "24h")))]
    pub drain_timeout: Option<Span>,
    /// Pod fields of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodOverlay>,
}

impl Default for WorkerPoolSpec {
    fn default() -> Self {
        Self {
            min_replicas: one(),
            max_replicas: default_max_replicas(),
            replicas: None,
            warm_replicas: None,
            slots_per_worker: default_slots(),
            idle_timeout: default_idle_timeout(),
            steal_from: Vec::new(),
            scaling: Scaling::default(),
            placement: Placement::default(),
            recycle: Recycle::default(),
            drain_timeout: None,
            template: None,
        }
    }
}

const fn one() -> u32 {
    1
}

const fn default_max_replicas() -> u32 {
    8
}

const fn default_slots() -> u32 {
    4
}

const fn default_idle_timeout() -> Span {
    Span::secs(30)
}

/// Where a pool's pods run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    #[default]
    Cpu,
    Gpu,
}

impl Device {
    /// As in manifests and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

/// Which nodes a pool's pods need.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::placement()))]
pub struct Placement {
    /// `cpu` or `gpu`.
    #[serde(default)]
    pub device: Device,
    /// The GPUs of a pod, with `device: gpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

impl Placement {
    /// The GPUs of each pod; none on CPUs.
    pub fn gpus(&self) -> Option<Gpu> {
        (self.device == Device::Gpu).then(|| self.gpu.clone().unwrap_or_default())
    }
}

/// The GPUs of one pod.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// GPUs of one pod.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub count: u32,
    /// Memory of each, like `24Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = rules::memory("24Gi")))]
    pub memory: Option<String>,
    /// Products to choose from, as the nodes' product label names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub products: Vec<String>,
    /// Extended resource to ask for.
    #[serde(default = "default_gpu_resource")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::form("^[a-z0-9][-a-z0-9.]*/[a-zA-Z0-9][-a-zA-Z0-9_.]*$", "must be a resource of nodes with its domain, like nvidia.com/gpu")))]
    pub resource_name: String,
    /// DeviceClass for dynamic resource allocation, instead of the extended resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::object_name("gpu.nvidia.com")))]
    pub device_class_name: Option<String>,
    /// Driver by which devices of the class name their memory and product. Default: gpu.nvidia.com for
    /// mig.nvidia.com, else the name of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), extend("x-kubernetes-validations" = rules::object_name("gpu.nvidia.com")))]
    pub driver: Option<String>,
    /// Whose node labels tell of GPUs: `gfd` (feature discovery of NVIDIA, AMD or Intel, by
    /// resourceName), `gke` or `karpenter`.
    #[serde(default)]
    pub node_labels: GpuLabels,
    /// As in a pod; replaces the node affinity that the operator would set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::object::<NodeAffinity>")]
    pub node_affinity: Option<NodeAffinity>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            count: one(),
            memory: None,
            products: Vec::new(),
            resource_name: default_gpu_resource(),
            device_class_name: None,
            driver: None,
            node_labels: GpuLabels::default(),
            node_affinity: None,
        }
    }
}

fn default_gpu_resource() -> String {
    "nvidia.com/gpu".to_owned()
}

/// Whose node labels tell of GPUs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum GpuLabels {
    #[default]
    Gfd,
    Gke,
    Karpenter,
}

/// When a fresh worker takes the place of one, against leaks: first the new one, then the old one drains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Recycle {
    /// Requests it has answered.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub after_tasks: u64,
    /// Time since it started, like `24h`.
    #[schemars(extend("x-kubernetes-validations" = rules::span("1s", "8760h")))]
    pub after_age: Span,
    /// Resident memory, like `512Mi`.
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = rules::memory("512Mi")))]
    pub at_memory: String,
}

impl Default for Recycle {
    fn default() -> Self {
        Self {
            after_tasks: 10_000,
            after_age: Span::secs(86_400),
            at_memory: "512Mi".to_owned(),
        }
    }
}

/// What is known of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolStatus {
    /// `Auto`, or `Pinned` while spec.replicas is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizing: Option<Sizing>,
    /// Pods that are not terminating.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that can take requests.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Pods the pool wants.
    #[serde(default)]
    pub desired_replicas: i32,
    /// Workers with a request.
    #[serde(default)]
    pub busy: i32,
    /// Ready workers without one.
    #[serde(default)]
    pub idle: i32,
    /// Workers that take no more requests and will go.
    #[serde(default)]
    pub draining: i32,
    /// Waiting requests, as of the last write.
    #[serde(default)]
    pub queued: i64,
    /// Requests being answered, as of the last write.
    #[serde(default)]
    pub running: i64,
    /// How long the oldest request that could run has waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_wait: Option<Span>,
    /// Label selector of its pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The last changes of size, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<ScaleRecord>,
    /// `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, ScalingActive, Schedulable, ReplicaFailure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Who decides the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Sizing {
    Auto,
    Pinned,
}

/// One change of size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ScaleRecord {
    /// When it was decided.
    pub at: Time,
    /// Replicas before.
    pub from: i32,
    /// Replicas after.
    pub to: i32,
    /// The decision in words, with the numbers it came from.
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// Node labels by key, as in a node selector.
pub type NodeSelector = BTreeMap<String, String>;
