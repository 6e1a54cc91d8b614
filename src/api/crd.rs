//! The CustomResourceDefinitions as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{Persona, PersonaTopology, WorkerPool};

/// The three definitions as JSON, in the order they are listed in the design.
///
/// Differs from what the derive makes: optional fields are not nullable, because server-side apply of
/// `null` to a scale path is refused by the API server.
pub fn crds() -> Vec<Value> {
    [Persona::crd(), WorkerPool::crd(), PersonaTopology::crd()]
        .iter()
        .map(finish)
        .collect()
}

fn finish(crd: &CustomResourceDefinition) -> Value {
    let mut value = serde_json::to_value(crd).unwrap_or_default();
    drop_nullable(&mut value);
    value
}

fn drop_nullable(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            map.values_mut().for_each(drop_nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nullable),
        _ => {}
    }
}
