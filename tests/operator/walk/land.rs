//! Where somebody walks.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, bail};
use kube::api::{Api, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, Resource};
use persona_operator::queue::NamespaceQueue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testbed::Chat;

/// A namespace with an operator that watches it.
#[derive(Clone)]
pub struct Land {
    pub client: Client,
    pub namespace: String,
    pub queue: NamespaceQueue,
    pub chat: Chat,
    /// Longest wait for something that must happen.
    pub patience: Duration,
}

impl Land {
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn create<K>(&self, name: &str, spec: Value) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let object: K = serde_json::from_value(json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name},
            "spec": spec,
        }))?;
        let params = PostParams::default();
        self.all().create(&params, &object).await?;
        Ok(())
    }

    pub async fn until<K>(&self, name: &str, what: &str, is: impl Condition<K>) -> Result<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let waiting = await_condition(self.all::<K>(), name, is);
        let Ok(found) = tokio::time::timeout(self.patience, waiting).await else {
            let found: Option<K> = self.all().get_opt(name).await?;
            bail!("{name} is not {what} after {:?}: {found:#?}", self.patience);
        };
        Ok(found?)
    }
}
