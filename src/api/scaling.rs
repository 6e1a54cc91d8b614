//! `WorkerPool.spec.scaling`: what the size follows, and how fast.

use serde::{Deserialize, Serialize};

use super::{Span, rules};

/// When to grow and shrink.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::scaling()))]
pub struct Scaling {
    /// How long a request may wait for a worker.
    #[schemars(extend("x-kubernetes-validations" = rules::span("1ms", "1h")))]
    pub target_wait: Span,
    /// What the size follows; of several the largest wins.
    #[schemars(length(min = 1, max = 8))]
    pub metrics: Vec<MetricSource>,
    /// Speed limits, names and meaning as in autoscaling/v2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
    /// What to do while a metric cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<ScalingFallback>,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            target_wait: Span::millis(500),
            metrics: vec![MetricSource::default()],
            behavior: None,
            fallback: None,
        }
    }
}

/// Kinds of metric sources.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum MetricType {
    #[default]
    Queue,
    Prometheus,
    RabbitMQ,
}

/// One thing the size follows: `type`, and the field of that type.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::metric_source()))]
pub struct MetricSource {
    /// Which source.
    #[serde(rename = "type")]
    pub type_: MetricType,
    /// With `type: Prometheus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusMetric>,
    /// With `type: RabbitMQ`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rabbitmq: Option<RabbitMqMetric>,
}

/// The value of a PromQL query, per worker.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusMetric {
    /// Base URL of the server.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = rules::base_url("http://prometheus:9090")))]
    pub server_address: String,
    /// PromQL that answers one number.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// Value that one worker can take.
    #[schemars(extend("x-kubernetes-validations" = rules::target()))]
    pub target: f64,
}

/// The length of a RabbitMQ queue, per worker.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RabbitMqMetric {
    /// Base URL of the management API.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = rules::base_url("http://rabbitmq:15672")))]
    pub management_address: String,
    /// Virtual host.
    #[serde(default = "default_vhost")]
    #[schemars(length(min = 1, max = 255))]
    pub vhost: String,
    /// Queue name.
    #[schemars(length(min = 1, max = 255))]
    pub queue: String,
    /// Messages that one worker can take.
    #[schemars(extend("x-kubernetes-validations" = rules::target()))]
    pub target: f64,
}

fn default_vhost() -> String {
    "/".to_owned()
}

/// Speed limits in both directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::behavior()))]
pub struct Behavior {
    /// Growing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// Shrinking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// Rules of one direction, names and meaning as in autoscaling/v2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// How far back recommendations count: growing follows the lowest of them, shrinking the highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub stabilization_window_seconds: Option<u32>,
    /// Relative change below which nothing is done, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub tolerance: Option<f64>,
    /// Most change a period; unset: the default of the direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub policies: Vec<ScalingPolicy>,
    /// Which of several policies counts; Disabled turns the direction off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<SelectPolicy>,
}

/// Which of several policies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum SelectPolicy {
    Max,
    Min,
    Disabled,
}

/// A limit on change a period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingPolicy {
    /// What `value` counts.
    #[serde(rename = "type")]
    pub type_: PolicyType,
    /// Pods, or percent of the pods there are.
    #[schemars(range(min = 1, max = 100_000))]
    pub value: u32,
    /// Length of the period.
    #[schemars(range(min = 1, max = 1800))]
    pub period_seconds: u32,
}

/// The unit of a policy's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum PolicyType {
    Pods,
    Percent,
}

/// The size to hold while a metric cannot be read; it never shrinks a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ScalingFallback {
    /// Workers to have at least.
    #[schemars(range(min = 0, max = 10_000))]
    pub replicas: u32,
}
