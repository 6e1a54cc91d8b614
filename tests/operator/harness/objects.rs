//! Makes and changes objects, and waits until they are as wanted.

use std::fmt::Debug;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::wait::{Condition, await_condition};
use persona_operator::api::{Persona, PersonaTopology, WorkerPool};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Operator, PATIENCE, merge};

/// A kind of object that lives in a namespace.
pub trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + 'static
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + 'static
{
}

impl Operator {
    /// Creates an object from its manifest, without namespace.
    pub async fn create<K: Namespaced>(&self, manifest: Value) -> Result<K> {
        let object: K = serde_json::from_value(manifest)?;
        Ok(self.all().create(&PostParams::default(), &object).await?)
    }

    /// A pool of its owner's.
    pub async fn pool(&self, name: &str, spec: Value) -> Result<WorkerPool> {
        self.create(json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": name},
            "spec": spec,
        }))
        .await
    }

    /// How the namespace's personas share pools.
    pub async fn share(&self, spec: Value) -> Result<PersonaTopology> {
        self.create(json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "PersonaTopology",
            "metadata": {"name": "default"},
            "spec": spec,
        }))
        .await
    }

    /// A persona on an OpenAI-compatible server.
    pub async fn persona(&self, name: &str, endpoint: &str, more: Value) -> Result<Persona> {
        let mut spec = json!({
            "model": {"provider": "OpenAICompatible", "name": "tiny", "endpoint": endpoint},
            "timeout": "20s",
        });
        merge(&mut spec, more);
        self.create(json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "Persona",
            "metadata": {"name": name},
            "spec": spec,
        }))
        .await
    }

    /// Changes an object's spec by a merge patch.
    pub async fn patch<K: Namespaced>(&self, name: &str, spec: Value) -> Result<K> {
        let patch = Patch::Merge(json!({"spec": spec}));
        let params = PatchParams::default();
        Ok(self.all().patch(name, &params, &patch).await?)
    }

    /// Waits until an object is as wanted; otherwise says how it is.
    pub async fn until<K: Namespaced>(
        &self,
        name: &str,
        what: &str,
        is: impl Condition<K>,
    ) -> Result<Option<K>> {
        let waiting = await_condition(self.all::<K>(), name, is);
        if let Ok(found) = tokio::time::timeout(PATIENCE, waiting).await {
            return Ok(found?);
        }
        let found: Option<K> = self.all().get_opt(name).await?;
        Err(anyhow!(
            "{name} is not {what} after {PATIENCE:?}: {}\n{}",
            serde_json::to_string_pretty(&found)?,
            self.controller.last_words()
        ))
    }

    /// Waits for condition Ready.
    pub async fn ready<K: Namespaced>(&self, name: &str) -> Result<Option<K>> {
        self.until(name, "Ready", |found: Option<&K>| {
            found.is_some_and(|object| condition(object, "Ready").as_deref() == Some("True"))
        })
        .await
    }

    /// The worker pods of a pool that are not going.
    pub async fn pods(&self, pool: &str) -> Result<Vec<Pod>> {
        let selector = format!("persona.dev/pool={pool}");
        let pods = self
            .all::<Pod>()
            .list(&ListParams::default().labels(&selector))
            .await?;
        let staying = pods.items.into_iter();
        Ok(staying
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect())
    }
}

/// The status of an object's condition.
pub fn condition<K: serde::Serialize>(object: &K, type_: &str) -> Option<String> {
    of_condition(object, type_, "status")
}

/// The reason of an object's condition.
pub fn reason<K: serde::Serialize>(object: &K, type_: &str) -> Option<String> {
    of_condition(object, type_, "reason")
}

fn of_condition<K: serde::Serialize>(object: &K, type_: &str, field: &str) -> Option<String> {
    let object = serde_json::to_value(object).ok()?;
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    let found = conditions.find(|c| c["type"] == type_)?;
    found[field].as_str().map(str::to_owned)
}

/// The topology of a namespace, once it has decided.
pub async fn topology(operator: &Operator) -> Result<PersonaTopology> {
    let decided = |found: Option<&PersonaTopology>| {
        found.is_some_and(|t| t.status.as_ref().is_some_and(|s| s.phase.is_some()))
    };
    let found = operator.until("default", "decided", decided).await?;
    found.context("the topology is gone")
}
