//! Runs a reconciler over the objects that it is called to.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use kube::Resource;
use kube::runtime::controller::{self, Action, ReconcileReason, ReconcileRequest, applier};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Context, Error};
use crate::lock::lock;

/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// Objects of a kind that are reconciled at once.
const CONCURRENCY: u16 = 32;
/// A visit that takes longer is given up. Requests have limits of their own, and a pool that grows makes
/// many of them.
const ENDLESS: Duration = Duration::from_secs(600);

/// One visit to an object.
pub type Reconcile<K> = fn(Arc<K>, Arc<Context>) -> BoxFuture<'static, Result<Action, Error>>;

/// Reconciles what `visits` names until `stop`; one object is never visited twice at once. A failed
/// visit is repeated after a pause that doubles, with jitter.
pub async fn drive<K>(
    kind: &'static str,
    store: Store<K>,
    visits: mpsc::Receiver<ObjectRef<K>>,
    reconcile: Reconcile<K>,
    cx: Arc<Context>,
    stop: CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let failures: Arc<Mutex<HashMap<ObjectRef<K>, u32>>> = Arc::default();
    let queue = stream::unfold(visits, |mut visits| async move {
        let obj_ref = visits.recv().await?;
        let reason = ReconcileReason::Unknown;
        Some((
            Ok::<_, Infallible>(ReconcileRequest { obj_ref, reason }),
            visits,
        ))
    })
    .take_until(stop.cancelled_owned());
    let succeeded = failures.clone();
    let visit = move |object: Arc<K>, cx: Arc<Context>| {
        let succeeded = succeeded.clone();
        Box::pin(async move {
            let began = Instant::now();
            let key = ObjectRef::from(&*object);
            let visited = timeout(ENDLESS, reconcile(object, cx.clone())).await;
            let result = visited.unwrap_or(Err(Error::Endless(ENDLESS)));
            cx.metrics
                .reconcile
                .with_label_values(&[kind])
                .observe(began.elapsed().as_secs_f64());
            if result.is_ok() {
                lock(&succeeded).remove(&key);
            }
            result
        })
    };
    let failed = move |object: Arc<K>, error: &Error, cx: Arc<Context>| {
        cx.metrics
            .errors
            .with_label_values(&[kind, error.reason()])
            .inc();
        let key = ObjectRef::from(&*object);
        let count = {
            let mut failures = lock(&failures);
            let count = failures.entry(key.clone()).or_default();
            *count = count.saturating_add(1);
            *count
        };
        let pause = pause(count);
        tracing::warn!(kind, object = %key, %error, count, "reconciling failed, again in {pause:.1?}");
        Action::requeue(pause)
    };
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let mut visited = std::pin::pin!(applier(visit, failed, cx, store, queue, config));
    while let Some(result) = visited.next().await {
        if let Err(error) = result {
            match error {
                // It was deleted between the call and the visit.
                controller::Error::ObjectNotFound(_) => {}
                // Counted and told above.
                controller::Error::ReconcilerFailed(..) => {}
                other => tracing::error!(kind, error = %other, "a reconciler's loop"),
            }
        }
    }
}

fn pause(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let pause = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    pause.min(longest).mul_f64(rand::random_range(0.75..1.25))
}
