//! Makes pools, and takes away those that nobody needs.

use futures::{StreamExt, stream};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::FIELD_MANAGER;
use super::pools::Retired;
use crate::api::names::{self, of_topology};
use crate::api::{PersonaTopology, WorkerPool};
use crate::controller::context::is_paused;
use crate::controller::{Context, Error};
use crate::queue::routing::CloseAnswer;

/// Requests to the API server under way at once.
const PARALLEL: usize = 16;

/// Makes the topology of a namespace, where there is none. Its spec stays empty, and nobody's: a field
/// that its owner sets by server-side apply meets no other owner.
///
/// # Errors
/// The API server gave no answer, or refused; a namespace that is being deleted is no error.
pub async fn make(cx: &Context, namespace: &str) -> Result<(), Error> {
    let topologies: Api<PersonaTopology> = Api::namespaced(cx.client.clone(), namespace);
    let empty = json!({
        "apiVersion": format!("{}/{}", crate::api::GROUP, crate::api::VERSION),
        "kind": "PersonaTopology",
        "metadata": {"name": names::TOPOLOGY_NAME},
    });
    let params = PatchParams::apply(FIELD_MANAGER);
    match topologies
        .patch(names::TOPOLOGY_NAME, &params, &Patch::Apply(&empty))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_terminating(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Applies pools. Answers for each by name: none if it went well, else the API server's words.
///
/// # Errors
/// The API server gave no answer.
pub async fn apply(
    cx: &Context,
    namespace: &str,
    pools: Vec<WorkerPool>,
) -> Result<Vec<(String, Option<String>)>, Error> {
    let api: Api<WorkerPool> = Api::namespaced(cx.client.clone(), namespace);
    let results: Vec<_> = stream::iter(pools)
        .map(|pool| {
            let api = api.clone();
            async move {
                let name = pool.name_any();
                (apply_one(cx, &api, pool).await, name)
            }
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut answers = Vec::new();
    for (result, name) in results {
        match result {
            Ok(()) => answers.push((name, None)),
            Err(error) if is_terminating(&error) => answers.push((name, None)),
            // Somebody has just replaced it: the watch shows it in a moment.
            Err(kube::Error::Api(status)) if status.code == 409 => answers.push((name, None)),
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
                answers.push((name, Some(status.message.clone())));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answers)
}

async fn apply_one(
    cx: &Context,
    api: &Api<WorkerPool>,
    mut pool: WorkerPool,
) -> Result<(), kube::Error> {
    let name = pool.name_any();
    // A pool of that name which the cache does not show yet may be somebody else's.
    if pool.metadata.uid.is_none()
        && let Some(found) = api.get_opt(&name).await?
    {
        if !of_topology(&found.metadata) {
            return Ok(());
        }
        pool.metadata.uid = found.metadata.uid;
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = api.patch(&name, &params, &Patch::Apply(&pool)).await?;
    cx.stores.written_pools.wrote(written);
    Ok(())
}

/// Closes pools in the queue and deletes those that could be closed: nobody can be routed there any
/// more, also by a route of an epoch before this that is still on its way. Their pods go with them, and
/// finish what they are at. Answers how many could not be closed.
///
/// # Errors
/// The queue or the API server gave no answer.
pub async fn retire(
    cx: &Context,
    namespace: &str,
    pools: &[Retired],
    epoch: u64,
) -> Result<usize, Error> {
    if pools.is_empty() || cx.contact.usable().is_err() {
        return Ok(pools.len());
    }
    let queue = cx.queue.namespace(namespace)?;
    let api: Api<WorkerPool> = Api::namespaced(cx.client.clone(), namespace);
    let mut busy = 0;
    for retired in pools {
        match queue.close(&retired.name, epoch).await? {
            CloseAnswer::Closed => busy += usize::from(!delete(&api, retired).await?),
            CloseAnswer::Busy {
                members,
                queued,
                running,
            } => {
                tracing::debug!(
                    namespace,
                    pool = retired.name,
                    members,
                    queued,
                    running,
                    "a pool is not empty yet"
                );
                busy += 1;
            }
        }
    }
    Ok(busy)
}

/// Deletes the pool exactly as it is now; false if somebody changed it meanwhile.
async fn delete(api: &Api<WorkerPool>, retired: &Retired) -> Result<bool, Error> {
    let Some(found) = api.get_opt(&retired.name).await? else {
        return Ok(true);
    };
    let same = found.metadata.uid.as_deref() == Some(retired.uid.as_str());
    if !same || !of_topology(&found.metadata) || is_paused(&found) {
        return Ok(true);
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: found.metadata.uid,
            resource_version: found.metadata.resource_version,
        }),
        ..DeleteParams::background()
    };
    match api.delete(&retired.name, &params).await {
        Ok(_) => {
            tracing::info!(pool = retired.name, "a pool that nobody needs was deleted");
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes away what a topology has left behind in a namespace that has neither one nor personas that
/// would bring a new one.
///
/// # Errors
/// The queue or the API server gave no answer.
pub async fn tidy(cx: &Context, namespace: &str) -> Result<(), Error> {
    if cx.stores.topology(namespace).is_some() || cx.stores.personas_of(namespace).next().is_some()
    {
        return Ok(());
    }
    let left: Vec<Retired> = cx
        .stores
        .pools_of(namespace)
        .filter(|pool| of_topology(&pool.metadata) && !is_paused(&**pool))
        .map(|pool| Retired {
            name: pool.name_any(),
            uid: pool.uid().unwrap_or_default(),
        })
        .collect();
    retire(cx, namespace, &left, 0).await?;
    Ok(())
}

/// Nothing can be made in a namespace that is being deleted.
fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403
        && (status.message.contains("being terminated")
            || causes
                .map(|cause| cause.reason.as_str())
                .any(|reason| reason == "NamespaceTerminating"))
}
