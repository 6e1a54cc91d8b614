//! Compares every now and then what is registered with what exists, and gives and takes access. It asks
//! the API server, so that it has a loop of its own: an API server that hangs keeps nobody from giving
//! back lost tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::Api;
use kube::api::ListParams;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::chores::close_pool;
use super::namespaces;
use crate::api::WorkerPool;
use crate::controller::{Context, Error, persona, topology};

/// Time between two sweeps.
const SWEEP: Duration = Duration::from_secs(60);
/// Time until the next after one that failed.
const FAILED: Duration = Duration::from_secs(5);
/// Least time between two, whatever is asked for.
const BREATH: Duration = Duration::from_secs(1);
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(50);
/// Secrets that are written at once.
const PARALLEL: usize = 16;

/// Sweeps until `stop`; for the first time as soon as all objects are known and the queue can be used,
/// because what was deleted before this process led has nobody else to tell it.
pub async fn run(cx: Arc<Context>, stop: CancellationToken) {
    let pulse = cx.health.pulse("queue sweep", Duration::from_secs(180));
    loop {
        pulse.beat();
        let mut pause = SWEEP;
        if cx.stores.synced() && cx.contact.usable().is_ok() {
            match timeout(PATIENCE, sweep(&cx)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the queue could not be swept, again in {FAILED:?}");
                    cx.contact.suspect();
                    pause = FAILED;
                }
                Err(_) => tracing::warn!("a sweep of the queue did not end within {PATIENCE:?}"),
            }
        }
        sleep(BREATH).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause.mul_f64(rand::random_range(0.9..1.1))) => {}
            () = cx.contact.to_sweep.notified() => {}
        }
    }
}

async fn sweep(cx: &Context) -> Result<(), Error> {
    cx.contact.forget_troubles();
    let namespaces = namespaces(cx);
    give_secrets(cx, &namespaces).await?;
    let users = cx.queue.users().await?;
    // Who has neither personas nor pools may still have an open pool in the queue.
    let mut known = cx.access.namespaces(cx, &users);
    known.extend(cx.queue.namespaces().await?);
    known.retain(|namespace| cx.watches(namespace));
    for namespace in &known {
        let swept = sweep_queue(cx, namespace).await;
        cx.contact.apart(cx, namespace, swept)?;
    }
    for namespace in namespaces.keys() {
        let tidied = topology::tidy(cx, namespace).await;
        cx.contact.apart(cx, namespace, tidied)?;
    }
    // Namespaces that have nothing to run any more need no access, those that went while no controller
    // ran among them.
    for namespace in known.iter().filter(|n| !namespaces.contains_key(*n)) {
        let taken = take_access(cx, namespace).await;
        cx.contact.apart(cx, namespace, taken)?;
    }
    Ok(())
}

/// Takes out of the queue what exists no more and nobody told us of.
async fn sweep_queue(cx: &Context, namespace: &str) -> Result<(), Error> {
    let queue = cx.queue.namespace(namespace)?;
    let dead = queue.dead_letters().await?;
    cx.metrics
        .dead
        .with_label_values(&[namespace])
        .set(i64::try_from(dead).unwrap_or(i64::MAX));
    persona::sweep(cx, namespace).await?;
    for pool in queue.pools().await? {
        close_pool(cx, namespace, &pool).await?;
    }
    Ok(())
}

async fn give_secrets(
    cx: &Context,
    namespaces: &BTreeMap<String, BTreeSet<String>>,
) -> Result<(), Error> {
    let writes = stream::iter(namespaces.keys().cloned())
        .map(|namespace| async move {
            let written = cx.access.ensure_secret(cx, &namespace).await;
            (namespace, written)
        })
        .buffer_unordered(PARALLEL);
    let written: Vec<_> = writes.collect().await;
    for (namespace, written) in written {
        cx.contact.apart(cx, &namespace, written)?;
    }
    Ok(())
}

/// Takes a namespace's access back if nothing of it is left.
async fn take_access(cx: &Context, namespace: &str) -> Result<(), Error> {
    // Workers that are about to go may have something to hand in.
    let has_pods = cx.pods.are_in(namespace);
    let has_pools = cx.stores.pools_of(namespace).next().is_some();
    let queue = cx.queue.namespace(namespace)?;
    let is_known = !queue.personas().await?.is_empty() || !queue.pools().await?.is_empty();
    if has_pods || has_pools || is_known || has_pool(cx, namespace).await? {
        return Ok(());
    }
    cx.access.withdraw(cx, namespace).await?;
    cx.metrics.forget_namespace(namespace);
    cx.routes.forget_namespace(namespace);
    // Somebody may have come meanwhile, and found that it had access, or be routed.
    if cx.stores.pools_of(namespace).next().is_some() {
        cx.access.ensure(cx, namespace).await?;
    }
    if cx.stores.personas_of(namespace).next().is_some() {
        cx.routes.check(namespace);
        cx.wake_namespace(namespace).await;
    }
    Ok(())
}

/// Whether there is a pool, by the API server's word: absence from a cache proves nothing.
async fn has_pool(cx: &Context, namespace: &str) -> Result<bool, Error> {
    let pools: Api<WorkerPool> = Api::namespaced(cx.client.clone(), namespace);
    let found = pools.list(&ListParams::default().limit(1)).await?;
    Ok(!found.items.is_empty())
}
