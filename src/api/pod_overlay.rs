//! `PodOverlay`: the pod fields that a user of a WorkerPool may set. Not a PodTemplateSpec: its schema
//! is 349 KB and demands containers (kubernetes.md, "API shapes").

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use serde::{Deserialize, Serialize};

use super::{pod_schema, rules};

/// Pod fields of a user's own. No host namespaces, privilege or service account.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::pod_overlay()))]
pub struct PodOverlay {
    /// Labels of the pods, besides the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "pod_schema::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods, besides the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "pod_schema::annotations")]
    pub annotations: BTreeMap<String, String>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "pod_schema::node_selector")]
    pub node_selector: BTreeMap<String, String>,
    /// As in a pod; see `kubectl explain pod.spec.affinity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::object::<Affinity>")]
    pub affinity: Option<Affinity>,
    /// As in a pod; added to the operator's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pod_schema::list::<Toleration>")]
    pub tolerations: Vec<Toleration>,
    /// As in a pod; replaces the operator's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pod_schema::list::<TopologySpreadConstraint>")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::object_name("batch")))]
    pub priority_class_name: Option<String>,
    /// RuntimeClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::object_name("gvisor")))]
    pub runtime_class_name: Option<String>,
    /// As in a pod: Secrets to pull images with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pod_schema::named_list::<LocalObjectReference>")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// As in a pod; added to the operator's own. See `kubectl explain pod.spec.volumes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pod_schema::volumes")]
    pub volumes: Vec<Volume>,
    /// Fields of a container, by its name: `worker`, or `model-server`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend("maxProperties" = 2),
        extend("x-kubernetes-validations" = rules::container_names())
    )]
    pub containers: BTreeMap<String, ContainerOverlay>,
}

/// Fields of one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerOverlay {
    /// Image to run instead of the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), extend("x-kubernetes-validations" = rules::word("ghcr.io/me/worker:1.2")))]
    pub image: Option<String>,
    /// As in a container: requests and limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::object::<ResourceRequirements>")]
    pub resources: Option<ResourceRequirements>,
    /// As in a container; added to the operator's own, whose names it cannot take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pod_schema::env")]
    pub env: Vec<EnvVar>,
    /// As in a container; added to the operator's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pod_schema::volume_mounts")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Arguments to run the image with instead of the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub args: Option<Vec<String>>,
}
