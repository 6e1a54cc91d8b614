//! The operator's objects, without its types: the demo sees what any user sees.

use std::time::Duration;

use anyhow::Result;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::voice::Unmet;

pub const PERSONA: (&str, &str) = ("Persona", "personas");
pub const POOL: (&str, &str) = ("WorkerPool", "workerpools");
pub const TOPOLOGY: (&str, &str) = ("PersonaTopology", "personatopologies");

/// The objects of one namespace.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    namespace: String,
}

impl Objects {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    /// All of a kind.
    pub fn all(&self, (kind, plural): (&str, &str)) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("persona.dev", "v1alpha1", kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Names of all of a kind.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn names(&self, kind: (&str, &str)) -> Result<Vec<String>> {
        let list = self.all(kind).list(&ListParams::default()).await?;
        Ok(list.items.iter().map(ResourceExt::name_any).collect())
    }

    /// Waits until an object is as wanted; `what` says how that is.
    ///
    /// # Errors
    /// [`Unmet`] after `within`, with what the object says about itself.
    pub async fn until(
        &self,
        kind: (&str, &str),
        name: &str,
        what: &str,
        within: Duration,
        is: impl Fn(&DynamicObject) -> bool,
    ) -> Result<DynamicObject> {
        let api = self.all(kind);
        let waiting = await_condition(api.clone(), name, |found: Option<&DynamicObject>| {
            found.is_some_and(&is)
        });
        if let Ok(found) = tokio::time::timeout(within, waiting).await
            && let Some(found) = found?
        {
            return Ok(found);
        }
        let seen = match api.get_opt(name).await? {
            Some(object) => verdict(&object),
            None => "it does not exist".to_owned(),
        };
        let expected = format!("{} {name} {what} within {} s", kind.0, within.as_secs());
        Err(Unmet::new(expected, seen).into())
    }

    /// Waits for condition Ready.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub async fn ready(
        &self,
        kind: (&str, &str),
        name: &str,
        within: Duration,
    ) -> Result<DynamicObject> {
        self.until(kind, name, "becomes Ready", within, is_ready)
            .await
    }
}

/// Condition Ready is True, and about the spec as it is now.
pub fn is_ready(object: &DynamicObject) -> bool {
    ready(object).is_some_and(|condition| condition["status"] == "True")
}

/// What an object says about itself.
fn verdict(object: &DynamicObject) -> String {
    let Some(condition) = ready(object) else {
        return "it has no condition Ready".to_owned();
    };
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let transition = object.data["status"]["transition"]["progress"].as_str();
    let under_way = transition.map(|words| format!(", on its way {words}"));
    format!(
        "Ready is {}, {}: {}{}",
        text("status"),
        text("reason"),
        text("message"),
        under_way.unwrap_or_default()
    )
}

fn ready(object: &DynamicObject) -> Option<&Value> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == "Ready")
}
