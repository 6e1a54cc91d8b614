//! Makes pools, and takes away those that nobody needs.

use futures::{StreamExt, stream};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
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
    let is_new = pool.metadata.uid.is_none();
    let mut params = PatchParams::apply(FIELD_MANAGER);
    // Where there was none there is nothing to overwrite: what somebody has made since is a conflict.
    params.force = !is_new;
    let written = api.patch(&name, &params, &Patch::Apply(&pool)).await?;
    if is_new && has_other_maker(&written) {
        return give_back(api, &written).await;
    }
    cx.stores.written_pools.wrote(written);
    Ok(())
}

/// Whether somebody else has set fields of its spec or metadata: then it is theirs. Statuses are
/// written by others in any case.
fn has_other_maker(pool: &WorkerPool) -> bool {
    let entries = pool.metadata.managed_fields.iter().flatten();
    let mut makers = entries.filter(|entry| entry.subresource.is_none());
    makers.any(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
}

/// Takes back all that was applied to a pool which somebody else made at the same moment. Nothing was
/// forced, so that all that they set is still theirs.
async fn give_back(api: &Api<WorkerPool>, pool: &WorkerPool) -> Result<(), kube::Error> {
    let name = pool.name_any();
    let nothing = json!({
        "apiVersion": WorkerPool::api_version(&()),
        "kind": WorkerPool::kind(&()),
        "metadata": {"name": name, "uid": pool.uid()},
    });
    let params = PatchParams::apply(FIELD_MANAGER);
    api.patch(&name, &params, &Patch::Apply(&nothing)).await?;
    tracing::info!(
        pool = name,
        "somebody else has just made a pool of that name"
    );
    Ok(())
}

/// What became of pools that nobody needs.
#[derive(Debug, Default)]
pub struct Retirement {
    /// How many could not be closed or deleted yet.
    pub busy: usize,
    /// For each of the others by name: none if it is gone, else the words of who refused.
    pub answers: Vec<(String, Option<String>)>,
}

/// Closes pools in the queue and deletes those that could be closed: nobody can be routed there any
/// more, also by a route of an epoch before this that is still on its way. Their pods go with them, and
/// finish what they are at. A refusal of one does not keep the others.
///
/// # Errors
/// The queue or the API server gave no answer.
pub async fn retire(
    cx: &Context,
    namespace: &str,
    pools: &[Retired],
    epoch: u64,
) -> Result<Retirement, Error> {
    let mut retirement = Retirement::default();
    if pools.is_empty() || cx.contact.usable().is_err() {
        retirement.busy = pools.len();
        return Ok(retirement);
    }
    for retired in pools {
        let name = retired.name.clone();
        match retire_one(cx, namespace, retired, epoch).await {
            Ok(true) => retirement.answers.push((name, None)),
            Ok(false) => retirement.busy += 1,
            Err(error) => retirement.answers.push((name, Some(refusal(error)?))),
        }
    }
    Ok(retirement)
}

/// The words of a refusal that is about this one pool; hands any other error back.
fn refusal(error: Error) -> Result<String, Error> {
    match error {
        Error::Kube(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            Ok(status.message.clone())
        }
        Error::Queue(error) if !error.is_of_all() => Ok(error.to_string()),
        error => Err(error),
    }
}

/// Looks at the pool, closes it, and deletes it as it was when looked at: who has wanted or opened it
/// since must not find it gone. False while somebody is there, or if it was changed meanwhile.
async fn retire_one(
    cx: &Context,
    namespace: &str,
    retired: &Retired,
    epoch: u64,
) -> Result<bool, Error> {
    let api: Api<WorkerPool> = Api::namespaced(cx.client.clone(), namespace);
    let Some(found) = api.get_opt(&retired.name).await? else {
        return Ok(true);
    };
    let same = found.metadata.uid.as_deref() == Some(retired.uid.as_str());
    if !same || !of_topology(&found.metadata) || is_paused(&found) {
        return Ok(true);
    }
    if found.metadata.generation != retired.generation {
        return Ok(false);
    }
    let queue = cx.queue.namespace(namespace)?;
    if let CloseAnswer::Busy {
        members,
        queued,
        running,
    } = queue.close(&retired.name, epoch).await?
    {
        tracing::debug!(
            namespace,
            pool = retired.name,
            members,
            queued,
            running,
            "a pool is not empty yet"
        );
        return Ok(false);
    }
    delete(&api, found).await
}

/// Deletes the pool exactly as it is here; false if somebody has changed it since.
async fn delete(api: &Api<WorkerPool>, pool: WorkerPool) -> Result<bool, Error> {
    let name = pool.name_any();
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: pool.metadata.uid,
            resource_version: pool.metadata.resource_version,
        }),
        ..DeleteParams::background()
    };
    match api.delete(&name, &params).await {
        Ok(_) => {
            tracing::info!(pool = name, "a pool that nobody needs was deleted");
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
        .map(|pool| Retired::of(&pool))
        .collect();
    let retirement = retire(cx, namespace, &left, 0).await?;
    for (pool, words) in retirement.answers {
        // There is no topology that could say so.
        if let Some(words) = words {
            tracing::warn!(namespace, pool, words, "a pool could not be taken away");
        }
    }
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
