//! Schemas of Kubernetes' own types inside ours: complete, so that a manifest that passes can be
//! decoded, without their descriptions (`kubectl explain pod.spec` has them), and bounded.

use k8s_openapi::api::core::v1::{EnvVar, Volume, VolumeMount};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::rules;

const MAX_ITEMS: u64 = 32;
const MAX_LENGTH: u64 = 1024;
/// `name`, and the sources of volumes that are worth their size in the CRD.
const VOLUMES: [&str; 11] = [
    "name",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "hostPath",
    "image",
    "nfs",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// The same of projected volumes.
const PROJECTED: [&str; 3] = ["configMap", "downwardAPI", "secret"];

/// One object of a Kubernetes type.
pub(super) fn object<T: JsonSchema>(_: &mut SchemaGenerator) -> Schema {
    schema_of(node::<T>())
}

/// A list of objects of a Kubernetes type.
pub(super) fn list<T: JsonSchema>(_: &mut SchemaGenerator) -> Schema {
    schema_of(array(node::<T>()))
}

/// A list whose items are told apart by `name`.
pub(super) fn named_list<T: JsonSchema>(_: &mut SchemaGenerator) -> Schema {
    schema_of(keyed("name", node::<T>()))
}

/// Volumes of the sources that are in use today, whose names leave the operator's alone.
pub(super) fn volumes(_: &mut SchemaGenerator) -> Schema {
    let mut item = node::<Volume>();
    if let Some(sources) = item["properties"].as_object_mut() {
        sources.retain(|source, _| VOLUMES.contains(&source.as_str()));
    }
    let projected = &mut item["properties"]["projected"]["properties"]["sources"]["items"];
    if let Some(sources) = projected["properties"].as_object_mut() {
        sources.retain(|source, _| PROJECTED.contains(&source.as_str()));
    }
    item["properties"]["name"]["maxLength"] = 63.into();
    item["x-kubernetes-validations"] = rules::volume();
    schema_of(keyed("name", item))
}

/// Environment variables whose names leave the operator's alone.
pub(super) fn env(_: &mut SchemaGenerator) -> Schema {
    let mut item = node::<EnvVar>();
    item["properties"]["name"]["maxLength"] = 253.into();
    item["properties"]["value"]["maxLength"] = 8192.into();
    item["x-kubernetes-validations"] = rules::env();
    schema_of(keyed("name", item))
}

/// Mounts that leave the operator's folders alone.
pub(super) fn volume_mounts(_: &mut SchemaGenerator) -> Schema {
    let mut item = node::<VolumeMount>();
    item["properties"]["name"]["maxLength"] = 63.into();
    item["x-kubernetes-validations"] = rules::volume_mount();
    schema_of(keyed("mountPath", item))
}

/// Labels of pods.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    map(63, Some(rules::labels()))
}

/// Annotations of pods.
pub(super) fn annotations(_: &mut SchemaGenerator) -> Schema {
    map(8192, Some(rules::annotations()))
}

/// Labels of nodes.
pub(super) fn node_selector(_: &mut SchemaGenerator) -> Schema {
    map(63, None)
}

fn map(length: u64, rules: Option<Value>) -> Schema {
    let mut schema = json_schema!({
        "type": "object",
        "maxProperties": MAX_ITEMS,
        "additionalProperties": {"type": "string", "maxLength": length},
    });
    if let Some(rules) = rules {
        schema.insert("x-kubernetes-validations".to_owned(), rules);
    }
    schema
}

fn array(items: Value) -> Value {
    json!({"type": "array", "maxItems": MAX_ITEMS, "items": items})
}

fn keyed(key: &str, mut item: Value) -> Value {
    // A key of a list map must be required.
    item["required"] = json!([key]);
    let mut list = array(item);
    list["x-kubernetes-list-type"] = "map".into();
    list["x-kubernetes-list-map-keys"] = json!([key]);
    list
}

fn schema_of(value: Value) -> Schema {
    match value {
        Value::Object(map) => map.into(),
        _ => Schema::default(),
    }
}

fn node<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|s| s.inline_subschemas = true);
    let mut value = settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    bound(&mut value);
    value
}

/// Drops what is for people, and bounds what is open, in a schema and all schemas below it.
fn bound(schema: &mut Value) {
    let Value::Object(node) = schema else { return };
    for key in ["description", "title", "$schema", "components", "nullable"] {
        node.remove(key);
    }
    match node.get("type").and_then(Value::as_str) {
        Some("string") if node.get("format").is_none() => limit(node, "maxLength", MAX_LENGTH),
        Some("array") => limit(node, "maxItems", MAX_ITEMS),
        Some("object") if node.contains_key("additionalProperties") => {
            limit(node, "maxProperties", MAX_ITEMS);
        }
        _ => {}
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(bound);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = node.get_mut(key) {
            bound(below);
        }
    }
}

fn limit(node: &mut Map<String, Value>, key: &str, most: u64) {
    node.entry(key).or_insert_with(|| most.into());
}
