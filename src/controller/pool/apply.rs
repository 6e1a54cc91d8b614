//! Does what a pool's plan says.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::observe::Observed;
use super::plan::{Memory, Plan, Removal, Why};
use super::template::follows_queue;
use super::{FIELD_MANAGER, is_owned};
use crate::api::names::{ANNOTATION_OPENED, LABEL_PHASE, LABEL_POOL, of_topology};
use crate::api::{Device, WorkerPool};
use crate::controller::context::News;
use crate::controller::status::is_gone;
use crate::controller::{Context, Error};
use crate::queue::NamespaceQueue;
use crate::queue::task::Duties;

/// Requests to the API server under way at once, a pool.
pub const PARALLEL: usize = 64;

/// Carries the plan out, except for the pods to make. Leaves in `plan.delete` what could not be deleted.
///
/// # Errors
/// The queue gave no answer. A pool that follows other metrics alone has its pods deleted all the same.
pub async fn apply(
    cx: &Context,
    o: &Observed,
    plan: &mut Plan,
    memory: &mut Memory,
) -> Result<(), Error> {
    // Before the workers, so that they find an open pool and can log in.
    let told = tell_queue(cx, o, plan, memory).await;
    if told.is_err() && follows_queue(&o.pool) {
        return told;
    }
    let namespace = o.pool.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(cx.client.clone(), &namespace);
    plan.delete = delete(cx, &pods, o, std::mem::take(&mut plan.delete)).await;
    if claims_to_tidy(o, memory) && tidy_claims(cx, &namespace, o).await {
        memory.tidied = Some(o.template.hash.clone());
    }
    told
}

/// Does what the plan says in the queue.
async fn tell_queue(
    cx: &Context,
    o: &Observed,
    plan: &Plan,
    memory: &mut Memory,
) -> Result<(), Error> {
    let namespace = o.pool.namespace().unwrap_or_default();
    let queue = cx.queue.namespace(&namespace)?;
    // Workers of the owner's are nobody in the queue.
    let log_in = follows_queue(&o.pool);
    if log_in && !plan.create.is_empty() {
        cx.access.ensure(cx, &namespace).await?;
    }
    if let Ok(stats) = &o.stats
        && !stats.open
    {
        if log_in {
            // Already now, so that the first task finds a pool that lacks nothing but workers.
            cx.access.ensure(cx, &namespace).await?;
        }
        open(cx, &queue, o).await?;
        cx.observer.look(&namespace, &o.pool.name_any());
    }
    if let Ok(stats) = &o.stats {
        let duties = duties(&o.pool);
        if stats.duties.as_ref() != Some(&duties)
            && !queue.assign(&o.pool.name_any(), &duties).await?
        {
            cx.observer.look(&namespace, &o.pool.name_any());
        }
    }
    let told = tell_workers(cx, o, plan, &queue, memory).await;
    if !plan.drain.is_empty() || !plan.undrain.is_empty() {
        cx.observer.look(&namespace, &o.pool.name_any());
    }
    told
}

async fn tell_workers(
    cx: &Context,
    o: &Observed,
    plan: &Plan,
    queue: &NamespaceQueue,
    memory: &mut Memory,
) -> Result<(), Error> {
    for uid in &plan.undrain {
        if let Some(since) = memory.draining.get_mut(uid) {
            // It may take again though the answer is lost, and then has all its time once more.
            *since = o.now;
        }
        tell(queue, memory, uid, false).await?;
        memory.draining.remove(uid);
    }
    for uid in &plan.drain {
        tell(queue, memory, uid, true).await?;
        if memory.draining.insert(uid.clone(), o.now).is_none() {
            count_recycled(cx, o, uid);
        }
    }
    Ok(())
}

/// Tells a worker to drain, or to take again.
async fn tell(
    queue: &NamespaceQueue,
    memory: &mut Memory,
    uid: &str,
    on: bool,
) -> Result<(), Error> {
    let answer = queue.drain(uid, on).await;
    // Also where the answer is lost: it may have been told.
    memory.told.insert(uid.to_owned(), Instant::now());
    answer?;
    Ok(())
}

/// Opens the pool in the queue. One that has been ready may be entered at once; and whoever has closed it,
/// perhaps a controller that does not know that it was replaced, may be about to delete it as it was then.
/// So its object is written before, and it stays closed if it is closed once more meanwhile.
async fn open(cx: &Context, queue: &NamespaceQueue, o: &Observed) -> Result<(), Error> {
    let (pool, name) = (&o.pool, o.pool.name_any());
    if !of_topology(&pool.metadata) || pool.status.is_none() {
        return Ok(queue.open(&name).await?);
    }
    let closings = queue.closings().await?;
    let mark = json!({"metadata": {
        "uid": pool.uid(),
        "annotations": {ANNOTATION_OPENED: o.now.to_string()},
    }});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let api: Api<WorkerPool> =
        Api::namespaced(cx.client.clone(), &pool.namespace().unwrap_or_default());
    match api.patch(&name, &params, &Patch::Merge(&mark)).await {
        Ok(written) => cx.stores.written_pools.wrote(written),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    if !queue.open_again(&name, closings).await? {
        tracing::debug!(pool = name, "not opened yet: a pool was closed meanwhile");
    }
    Ok(())
}

/// Counts a worker that was told to drain, if it asked to be replaced.
fn count_recycled(cx: &Context, o: &Observed, uid: &str) {
    let stats = o.stats.as_ref().ok();
    let worker = stats.and_then(|stats| stats.workers.iter().find(|worker| worker.uid == *uid));
    if let Some(reason) = worker.and_then(|worker| worker.recycle) {
        let namespace = o.pool.namespace().unwrap_or_default();
        let (pool, reason) = (o.pool.name_any(), reason.as_str());
        cx.metrics
            .recycles
            .with_label_values(&[&*namespace, &*pool, reason])
            .inc();
        tracing::info!(
            namespace,
            pool,
            worker = uid,
            reason,
            "replaced by a fresh worker"
        );
    }
}

/// What the pool's workers have to know beside their settings.
fn duties(pool: &WorkerPool) -> Duties {
    Duties {
        phase: pool.labels().get(LABEL_PHASE).cloned().unwrap_or_default(),
        steal_from: pool.spec.steal_from.clone(),
    }
}

/// Once all pods are of one template, those of other templates made their claims long ago. A pool that was
/// never for GPUs has none to look for.
fn claims_to_tidy(o: &Observed, memory: &Memory) -> bool {
    let hash = &o.template.hash;
    let settled = !o.pods.is_empty() && o.pods.iter().all(|pod| pod.hash == *hash && pod.scheduled);
    let for_gpus = o.pool.spec.placement.device == Device::Gpu || memory.tidied.is_some();
    settled && for_gpus && memory.tidied.as_ref() != Some(hash)
}

/// Deletes the pool's templates of claims but for the present one. Those of a deleted pool go with it, by
/// their owner. Answers whether that is done.
async fn tidy_claims(cx: &Context, namespace: &str, o: &Observed) -> bool {
    let api: Api<ResourceClaimTemplate> = Api::namespaced(cx.client.clone(), namespace);
    let labels = format!("{LABEL_POOL}={}", o.pool.name_any());
    let found = match api.list(&ListParams::default().labels(&labels)).await {
        Ok(found) => found,
        // A cluster without them.
        Err(kube::Error::Api(status)) if status.code == 404 => return true,
        Err(error) => {
            tracing::debug!(%error, "old templates of claims are looked for again");
            return false;
        }
    };
    let present = o.template.claims.as_ref().map(ResourceExt::name_any);
    let mut done = true;
    for old in found.iter().filter(|old| is_owned(*old, &o.pool)) {
        let name = old.name_any();
        if Some(&name) == present.as_ref() {
            continue;
        }
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => tracing::info!(
                namespace,
                name,
                "a template of claims that no pod needs was deleted"
            ),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                tracing::warn!(name, %error, "a template of claims cannot be deleted, trying again");
                done = false;
            }
        }
    }
    done
}

/// Deletes pods; answers which of them could not be deleted.
async fn delete(
    cx: &Context,
    pods: &Api<Pod>,
    o: &Observed,
    removals: Vec<Removal>,
) -> Vec<Removal> {
    let deleting = removals.into_iter().map(|removal| async move {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(removal.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let result = pods.delete(&removal.name, &params).await;
        (removal, result)
    });
    let results: Vec<_> = stream::iter(deleting)
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut left = Vec::new();
    for (removal, result) in results {
        match result {
            Ok(answer) => {
                if let Some(going) = answer.left() {
                    cx.pods.wrote(going);
                }
                if let Some(news) = news(&removal) {
                    cx.tell(&*o.pool, news).await;
                }
            }
            // Gone already; the watch says so in a moment.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                tracing::warn!(pod = removal.name, %error, "a pod cannot be deleted, trying again");
                left.push(removal);
            }
        }
    }
    left
}

/// What a person would want to know of a deletion.
fn news(removal: &Removal) -> Option<News> {
    let name = &removal.name;
    match removal.why {
        Why::Drained | Why::NeverStarted => None,
        Why::TimedOut => Some(News::warning(
            "DrainTimedOut",
            "DeletePod",
            format!("{name} did not finish within drainTimeout and hands its requests back"),
        )),
        Why::Failed => Some(News::warning(
            "WorkerFailed",
            "DeletePod",
            format!("{name} has failed and is replaced"),
        )),
    }
}

/// Tells of a change of size.
pub async fn tell_of_size(cx: &Context, o: &Observed, plan: &Plan) {
    let from = o.pool.status.as_ref().map_or(0, |s| s.desired_replicas);
    let to = i32::try_from(plan.decision.size).unwrap_or(i32::MAX);
    let (direction, reason) = match to.cmp(&from) {
        std::cmp::Ordering::Equal => return,
        std::cmp::Ordering::Greater => ("up", "ScaledUp"),
        std::cmp::Ordering::Less => ("down", "ScaledDown"),
    };
    let pool = o.pool.name_any();
    let namespace = o.pool.meta().namespace.clone().unwrap_or_default();
    cx.metrics
        .scales
        .with_label_values(&[
            namespace.as_str(),
            &pool,
            direction,
            plan.decision.cause.as_str(),
        ])
        .inc();
    tracing::info!(
        namespace,
        pool,
        from,
        to,
        reason = plan.decision.reason,
        "size"
    );
    let note = format!("{from} -> {to}: {}", plan.decision.reason);
    cx.tell(&*o.pool, News::normal(reason, "Scale", note)).await;
}
