//! The defaults of the schema and those of the Rust types are the same, and what the server takes
//! can be decoded.

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use persona_operator::api;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::with_crds;

/// Manifests a kind that are cut at random places.
const CASES: usize = 64;

/// The spec as the server would store it, or its refusal.
async fn stored(client: &kube::Client, kind: &str, spec: &Value) -> Result<Result<Value, String>> {
    let gvk = GroupVersionKind::gvk(api::GROUP, api::VERSION, kind);
    let plural = format!("{}s", kind.to_lowercase()).replace("topologys", "topologies");
    let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let manifest = json!({
        "apiVersion": gvk.api_version(), "kind": kind,
        "metadata": {"name": "default"}, "spec": spec,
    });
    let params = PostParams {
        dry_run: true,
        field_manager: None,
    };
    match objects
        .create(&params, &serde_json::from_value(manifest)?)
        .await
    {
        Ok(object) => Ok(Ok(object.data["spec"].clone())),
        Err(kube::Error::Api(refusal)) => Ok(Err(refusal.message.clone())),
        Err(error) => Err(error.into()),
    }
}

/// The spec as the Rust type would write it.
fn decoded<T: Serialize + DeserializeOwned>(spec: &Value) -> Result<Value> {
    let typed: T = serde_json::from_value(spec.clone())
        .with_context(|| format!("the server takes what Rust does not: {spec}"))?;
    Ok(serde_json::to_value(typed)?)
}

async fn same<T: Serialize + DeserializeOwned>(kind: &str, full: &Value) -> Result<()> {
    let client = with_crds().await?.client().await?;
    let whole = stored(&client, kind, full)
        .await?
        .map_err(anyhow::Error::msg)?;
    assert_eq!(whole, *full, "{kind}: the server drops or changes a field");
    assert_eq!(
        whole,
        decoded::<T>(full)?,
        "{kind}: Rust drops or changes a field"
    );
    let taken = stream::iter(cuts(full))
        .map(async |spec| {
            let Ok(stored) = stored(&client, kind, &spec).await? else {
                return Ok(0);
            };
            assert_eq!(
                decoded::<T>(&stored)?,
                decoded::<T>(&spec)?,
                "{kind} {spec}"
            );
            anyhow::Ok(1)
        })
        .buffer_unordered(8)
        .try_fold(0, async |sum, one| Ok(sum + one))
        .await?;
    assert!(
        taken > CASES / 4,
        "{kind}: only {taken} of {CASES} were taken"
    );
    Ok(())
}

/// The manifest with some fields left out at random.
fn cuts(full: &Value) -> Vec<Value> {
    let mut fields = Vec::new();
    collect(full, &mut Vec::new(), &mut fields);
    let some = proptest::sample::subsequence(fields, 1..5);
    let mut runner = TestRunner::deterministic();
    let trees = (0..CASES).filter_map(|_| some.new_tree(&mut runner).ok());
    trees
        .map(|tree| {
            let mut spec = full.clone();
            for (parent, field) in tree.current() {
                let parent = spec.pointer_mut(&parent);
                if let Some(parent) = parent.and_then(Value::as_object_mut) {
                    parent.remove(&field);
                }
            }
            spec
        })
        .collect()
}

/// All fields at all depths, each as the pointer to its object and its name.
fn collect(value: &Value, path: &mut Vec<String>, fields: &mut Vec<(String, String)>) {
    let pointer = |path: &[String]| {
        path.iter()
            .map(|step| format!("/{step}"))
            .collect::<String>()
    };
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            fields.extend(map.keys().map(|key| (pointer(path), key.clone())));
            map.iter()
                .map(|(key, below)| (key.clone(), below))
                .collect()
        }
        Value::Array(items) => {
            let numbers = items.iter().enumerate();
            numbers
                .map(|(number, below)| (number.to_string(), below))
                .collect()
        }
        _ => return,
    };
    for (step, below) in children {
        path.push(step);
        collect(below, path, fields);
        path.pop();
    }
}

#[tokio::test]
async fn persona_has_the_same_defaults_on_the_server_and_in_rust() -> Result<()> {
    let full: Value = serde_norway::from_str(include_str!("full/persona.yaml"))?;
    same::<api::PersonaSpec>("Persona", &full).await
}

#[tokio::test]
async fn worker_pool_has_the_same_defaults_on_the_server_and_in_rust() -> Result<()> {
    let full: Value = serde_norway::from_str(include_str!("full/workerpool.yaml"))?;
    same::<api::WorkerPoolSpec>("WorkerPool", &full).await
}

#[tokio::test]
async fn topology_has_the_same_defaults_on_the_server_and_in_rust() -> Result<()> {
    let mut full: Value = serde_norway::from_str(include_str!("full/topology.yaml"))?;
    let mut pool: Value = serde_norway::from_str(include_str!("full/workerpool.yaml"))?;
    for own in ["replicas", "warmReplicas", "stealFrom"] {
        pool.as_object_mut().context("a map")?.remove(own);
    }
    full["gpuPool"] = pool.clone();
    pool["placement"] = json!({"device": "cpu"});
    full["pool"] = pool;
    same::<api::PersonaTopologySpec>("PersonaTopology", &full).await
}

#[tokio::test]
async fn spec_may_be_left_out_where_everything_has_a_default() -> Result<()> {
    let client = with_crds().await?.client().await?;
    let pool = stored(&client, "WorkerPool", &json!({})).await?;
    assert_eq!(
        pool,
        Ok(serde_json::to_value(api::WorkerPoolSpec::default())?)
    );
    let topology = stored(&client, "PersonaTopology", &json!({})).await?;
    assert_eq!(
        topology,
        Ok(serde_json::to_value(api::PersonaTopologySpec::default())?)
    );
    Ok(())
}
