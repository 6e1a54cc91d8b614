//! Writing statuses: by server-side apply, and only when something changed.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::latest::Latest;

/// Live numbers alone are written this often at most.
pub const LIVE_NUMBERS: Duration = Duration::from_secs(10);

/// Writes the status of `object`, and remembers the answer. The uid goes with it, so that an object
/// that was made anew does not get the old one's status.
///
/// # Errors
/// The API server's refusal.
pub async fn write<K, S>(
    client: &Client,
    latest: &Latest<K>,
    manager: &str,
    object: &K,
    status: &S,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + Debug,
    S: Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": object.name_any(), "uid": object.uid()},
        "status": status,
    });
    let params = PatchParams::apply(manager).force();
    let written = api
        .patch_status(&object.name_any(), &params, &Patch::Apply(&patch))
        .await?;
    latest.wrote(written);
    Ok(())
}

/// The object is gone, or was made anew: its status is nobody's business any more.
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}
