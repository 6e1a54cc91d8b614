//! `PersonaTopology`: how a namespace's personas share pools.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::{Span, WorkerPoolSpec, rules};

/// Sizes of GPUs that are sold, nominal GiB: T4, L4, A100-40, L40S, H100, H100 NVL, H200, B200.
pub const DEFAULT_GPU_SIZES: [u32; 8] = [16, 24, 40, 48, 80, 96, 141, 192];

/// How a namespace's personas share pools. One a namespace, named `default`.
#[derive(CustomResource, schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "persona.dev",
    version = "v1alpha1",
    kind = "PersonaTopology",
    plural = "personatopologies",
    namespaced,
    status = "PersonaTopologyStatus",
    derive = "PartialEq",
    shortname = "ptopo",
    category = "persona-operator",
    doc = "How a namespace's personas share worker pools. One a namespace, named default.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Personas", type_ = "integer", json_path = ".status.personas"),
    printcolumn(name = "Pools", type_ = "integer", json_path = ".status.poolCount"),
    printcolumn(
        name = "Transition",
        type_ = "string",
        json_path = ".status.transition.progress"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::topology()))]
pub struct PersonaTopologySpec {
    /// `Auto` follows the number of personas; a phase pins it.
    pub mode: Mode,
    /// Numbers of personas above which the next phase begins.
    pub thresholds: Thresholds,
    /// Personas below a threshold before going back.
    #[schemars(range(min = 0, max = 1000))]
    pub hysteresis: u32,
    /// How long the number must stay low before going back.
    #[schemars(extend("x-kubernetes-validations" = rules::span("0s", "24h")))]
    pub stabilization: Span,
    /// Nominal memory in GiB of the GPUs that pools may ask for: a local model gets the smallest that
    /// holds it. Fixed, so that no pool is renamed when a node comes or goes.
    #[schemars(
        length(min = 1, max = 16),
        inner(range(min = 1, max = 4096)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub gpu_sizes: Vec<u32>,
    /// WorkerPool defaults for the pools it makes.
    pub pool: WorkerPoolSpec,
    /// WorkerPool defaults for pools on GPUs; `pool` where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_pool: Option<WorkerPoolSpec>,
}

impl Default for PersonaTopologySpec {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            thresholds: Thresholds::default(),
            hysteresis: 2,
            stabilization: Span::secs(30),
            gpu_sizes: DEFAULT_GPU_SIZES.to_vec(),
            pool: WorkerPoolSpec::default(),
            gpu_pool: None,
        }
    }
}

/// How pools are shared.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
pub enum Phase {
    /// A pool for each persona.
    #[default]
    PerPersona,
    /// A pool for each resource class.
    Generic,
    /// A pool for each type; idle workers help other types.
    Hybrid,
    /// A pool for each type, dedicated.
    Specialized,
}

impl Phase {
    /// All phases, in order of growth.
    pub const ALL: [Self; 4] = [
        Self::PerPersona,
        Self::Generic,
        Self::Hybrid,
        Self::Specialized,
    ];

    /// As in manifests and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PerPersona => "PerPersona",
            Self::Generic => "Generic",
            Self::Hybrid => "Hybrid",
            Self::Specialized => "Specialized",
        }
    }
}

/// Who chooses the phase.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum Mode {
    #[default]
    Auto,
    PerPersona,
    Generic,
    Hybrid,
    Specialized,
}

impl Mode {
    /// The pinned phase, if there is one.
    pub const fn pinned(self) -> Option<Phase> {
        match self {
            Self::Auto => None,
            Self::PerPersona => Some(Phase::PerPersona),
            Self::Generic => Some(Phase::Generic),
            Self::Hybrid => Some(Phase::Hybrid),
            Self::Specialized => Some(Phase::Specialized),
        }
    }
}

/// Numbers of personas above which the next phase begins.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[schemars(extend("x-kubernetes-validations" = rules::thresholds()))]
pub struct Thresholds {
    /// Above this, personas share a pool for each resource class.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub generic: u32,
    /// Above this, a pool for each type, whose idle workers help other types.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub hybrid: u32,
    /// Above this, and with adapters in use, a dedicated pool for each type.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub specialized: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            generic: 10,
            hybrid: 50,
            specialized: 100,
        }
    }
}

/// What is known of a topology.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersonaTopologyStatus {
    /// How pools are shared now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Personas that count: neither suspended, being deleted nor on a pool of their owner's.
    #[serde(default)]
    pub personas: i32,
    /// Grows with each change of phase or spec; a route with an older one is refused.
    #[serde(default)]
    pub epoch: i64,
    /// When N first was low enough to go back; unset when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below_since: Option<Time>,
    /// The highest phase that N has asked for since then: the one to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below_phase: Option<Phase>,
    /// Pools that personas are assigned to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10_000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pools: Vec<TopologyPool>,
    /// Length of `pools`.
    #[serde(default)]
    pub pool_count: i32,
    /// The move that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
    /// The last changes of phase, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<PhaseRecord>,
    /// `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Stable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A pool of the topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TopologyPool {
    /// Name of the WorkerPool.
    pub name: String,
    /// Resource class: `api`, `cpu`, `gpu-24Gi` or, on several GPUs, `gpu-2x80Gi`.
    pub class: String,
    /// Personas assigned to it.
    pub personas: i32,
}

/// A move from one phase to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// Phase before.
    pub from: Phase,
    /// Phase after.
    pub to: Phase,
    /// Personas that are routed to their pool of the new phase.
    pub moved: i32,
    /// Personas that are routed: those, and those who have still to move.
    pub total: i32,
    /// In words, like `Generic -> Hybrid 37/51`.
    pub progress: String,
    /// When it began.
    pub started_at: Time,
}

/// A change of phase that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PhaseRecord {
    /// When the phase changed.
    pub at: Time,
    /// Phase before.
    pub from: Phase,
    /// Phase after.
    pub to: Phase,
    /// Why, with the numbers.
    #[schemars(length(max = 1024))]
    pub reason: String,
}
