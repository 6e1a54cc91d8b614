//! `Persona`: who answers, with which model, under which limits.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::{Phase, Span, rules};

/// A persona answers messages with a language model.
#[derive(CustomResource, schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "persona.dev",
    version = "v1alpha1",
    kind = "Persona",
    namespaced,
    status = "PersonaStatus",
    derive = "PartialEq",
    shortname = "pn",
    category = "persona-operator",
    doc = "A persona answers messages with a language model, on a pool of workers.",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model.name"),
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
    printcolumn(name = "Pool", type_ = "string", json_path = ".status.pool"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.queued"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.running"),
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
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::persona()))]
pub struct PersonaSpec {
    /// Specialization key: personas of one type share a pool where pools are split by type.
    #[serde(rename = "type", default = "default_type")]
    #[schemars(length(min = 1, max = 63), extend("x-kubernetes-validations" = rules::trimmed()))]
    pub type_: String,
    /// The model that answers.
    pub model: Model,
    /// LoRA adapter to apply to a local model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// System prompt, put before the messages of each request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 65_536))]
    pub instructions: String,
    /// Settings for fields that a request leaves out.
    #[serde(default)]
    pub generation: Generation,
    /// Limits of its queue.
    #[serde(default)]
    pub queue: QueueLimits,
    /// How long one attempt at an answer may take.
    #[serde(default = "default_timeout")]
    #[schemars(extend("x-kubernetes-validations" = rules::span("1ms", "24h")))]
    pub timeout: Span,
    /// Attempts before a request that kills its worker is given up.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 20))]
    pub max_attempts: u32,
    /// Stops answering; requests are refused, queued ones wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// A WorkerPool of your own to run on; takes the persona out of the topology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_ref: Option<PoolRef>,
}

fn default_type() -> String {
    "General".to_owned()
}

const fn default_timeout() -> Span {
    Span::secs(60)
}

const fn default_max_attempts() -> u32 {
    3
}

/// Which API a model is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Provider {
    OpenAI,
    Anthropic,
    Gemini,
    DeepSeek,
    Ollama,
    OpenAICompatible,
}

impl Provider {
    /// The name as it is written in manifests; the `provider` label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAI => "OpenAI",
            Self::Anthropic => "Anthropic",
            Self::Gemini => "Gemini",
            Self::DeepSeek => "DeepSeek",
            Self::Ollama => "Ollama",
            Self::OpenAICompatible => "OpenAICompatible",
        }
    }
}

/// The model of a persona and how to reach it.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::model()))]
pub struct Model {
    /// Which API the model is behind.
    pub provider: Provider,
    /// The provider's name of the model, like `gpt-4o-mini` or `llama3.2:3b`.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::word("llama3.2:3b")))]
    pub name: String,
    /// Base URL of the API, like `http://ollama:11434`. Ollama without one means a model server in the
    /// pool's own pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = rules::base_url("http://ollama:11434 or https://vllm.example.com/v1")))]
    pub endpoint: Option<String>,
    /// Key of a Secret in the persona's namespace that holds the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// What the model needs, where its name does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<ModelRequirements>,
    /// The server that runs a local model in the pool's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ModelServer>,
}

impl Model {
    /// The server that runs the model in the pods of the persona's pool; none where it is reached
    /// elsewhere.
    pub fn served_by(&self) -> Option<ModelServerKind> {
        match (self.provider, &self.endpoint, &self.server) {
            (Provider::Ollama | Provider::OpenAICompatible, None, Some(server)) => {
                Some(server.kind)
            }
            (Provider::Ollama, None, None) => Some(ModelServerKind::Ollama),
            _ => None,
        }
    }
}

/// One key of a Secret in the same namespace.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::object_name("openai")))]
    pub name: String,
    /// Key in it.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::secret_key()))]
    pub key: String,
}

/// Overrides of what is inferred from a model's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRequirements {
    /// Number of weights, like `3B` or `8x7B`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-validations" = rules::form(r"^([0-9]+x)?[0-9]+(\.[0-9]+)?[MBT]$", "must be a number of weights with M, B or T, like 3B or 8x7B"))
    )]
    pub parameters: Option<String>,
    /// Quantization, like `Q4_K_M` or `F16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = rules::form("^[A-Za-z0-9_]+$", "must be a quantization of letters, digits and _, like Q4_K_M or F16")))]
    pub quantization: Option<String>,
    /// Memory of the device, like `4Gi`; replaces the estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-validations" = rules::form(r"^[0-9]*[1-9][0-9]*(\.[0-9]+)?(Mi|Gi|Ti|M|G|T)$", "must be a size with a unit, like 4Gi"))
    )]
    pub memory: Option<String>,
    /// Tokens of context a request may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 128, max = 10_000_000))]
    pub context_tokens: Option<u32>,
}

/// Kinds of model servers that run beside a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ModelServerKind {
    Ollama,
    #[serde(rename = "vLLM")]
    Vllm,
    LlamaCpp,
}

impl ModelServerKind {
    /// As in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "Ollama",
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "LlamaCpp",
        }
    }
}

/// The server that runs a local model in the pool's pods.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelServer {
    /// Which server.
    pub kind: ModelServerKind,
    /// Image to run instead of the kind's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Where model files come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<ModelCache>,
    /// LoRA adapters that the server holds at once, beside its model; 8 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max_adapters: Option<u32>,
    /// Largest rank of its adapters; vLLM takes up to 16 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max_adapter_rank: Option<u32>,
}

/// Where model files come from: exactly one of the fields.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::model_cache()))]
pub struct ModelCache {
    /// Name of a PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::object_name("models")))]
    pub persistent_volume_claim: Option<String>,
    /// Reference of an image volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Absolute path on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = rules::absolute_path("/var/lib/models")))]
    pub host_path: Option<String>,
}

/// A LoRA adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adapter {
    /// Its name, under which a server elsewhere has it.
    #[schemars(
        length(min = 1, max = 63),
        extend("x-kubernetes-validations" = rules::object_name("review-lora"))
    )]
    pub name: String,
    /// Where its files are, as the model server sees them: for LlamaCpp a GGUF file, absolute or in the
    /// folder of model files; for vLLM a folder or a repository of Hugging Face. Not used where
    /// model.endpoint is set: a server elsewhere serves the adapter under its name.
    #[schemars(length(min = 1, max = 1024))]
    pub source: String,
}

/// Settings for fields that a request leaves out; passed on to the provider as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Sampling temperature, 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f64>,
    /// Nucleus sampling, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f64>,
    /// Most tokens of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_tokens: Option<u32>,
    /// Texts that end an answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub stop: Vec<String>,
}

/// Limits of a persona's queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueLimits {
    /// Waiting requests before more are refused with 429.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_length: u32,
    /// Requests answered at once; 1 makes the persona an actor.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrency: u32,
    /// Between personas of a pool: the higher goes first.
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
    /// Share of a pool's time between personas of one priority.
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            max_length: 100,
            max_concurrency: 4,
            priority: 0,
            weight: 1,
        }
    }
}

/// A WorkerPool in the same namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PoolRef {
    /// Name of the WorkerPool.
    #[schemars(length(min = 1, max = 63), extend("x-kubernetes-validations" = rules::object_name("mine")))]
    pub name: String,
}

/// What is known of a persona.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersonaStatus {
    /// The pool its route points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The phase of the topology it is served in; absent on a pool of its owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Waiting requests, as of the last write.
    #[serde(default)]
    pub queued: i64,
    /// Requests being answered, as of the last write.
    #[serde(default)]
    pub running: i64,
    /// `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Routed, ModelPlaced, AdapterLoaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
