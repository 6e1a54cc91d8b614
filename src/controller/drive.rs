//! Runs a reconciler over the objects that it is called to.

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use kube::Resource;
use kube::api::ObjectMeta;
use kube::runtime::controller::{self, Action, ReconcileReason, ReconcileRequest, applier};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::turns::{CONCURRENCY, Key, Turn, Turns, Version};
use super::{Context, Error};
use crate::lock::lock;

/// A visit that takes longer is given up. Requests have limits of their own, and a pool that grows makes
/// many of them.
const ENDLESS: Duration = Duration::from_secs(600);

/// One visit to an object.
pub type Reconcile<K> = fn(Arc<K>, Arc<Context>) -> BoxFuture<'static, Result<Action, Error>>;

/// Reconciles what `visits` names until `stop`; one object is never visited twice at once, and no namespace
/// takes all the room. A failed visit is repeated after a pause that doubles, with jitter.
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
    let turns = Arc::new(Mutex::new(Turns::default()));
    let called = Arc::new(Notify::new());
    let calls = (visits, turns.clone(), called.clone());
    let queue = stream::unfold(calls, |(mut visits, turns, called)| async move {
        let obj_ref = loop {
            if let Some((namespace, name)) = lock(&turns).next() {
                break ObjectRef::new(&name).within(&namespace);
            }
            tokio::select! {
                () = called.notified() => {}
                visit = visits.recv() => break visit?,
            }
        };
        let reason = ReconcileReason::Unknown;
        Some((
            Ok::<_, Infallible>(ReconcileRequest { obj_ref, reason }),
            (visits, turns, called),
        ))
    })
    .take_until(stop.cancelled_owned());
    let (turns_of_visits, call) = (turns.clone(), called.clone());
    let visit = move |object: Arc<K>, cx: Arc<Context>| {
        let (turns, called) = (turns_of_visits.clone(), call.clone());
        Box::pin(async move {
            let began = Instant::now();
            let key = key_of(object.meta());
            let turn = lock(&turns).begin(&key, &version_of(object.meta()), began);
            match turn {
                Turn::Now => {}
                Turn::In(rest) => {
                    called.notify_one();
                    return Ok(Action::requeue(rest));
                }
                Turn::Called => return Ok(Action::await_change()),
            }
            let visited = timeout(ENDLESS, reconcile(object, cx.clone())).await;
            let result = visited.unwrap_or(Err(Error::Endless(ENDLESS)));
            cx.metrics
                .reconcile
                .with_label_values(&[kind])
                .observe(began.elapsed().as_secs_f64());
            lock(&turns).end(&key, result.is_ok());
            called.notify_one();
            result
        })
    };
    let turns_of_failures = turns.clone();
    let failed = move |object: Arc<K>, error: &Error, cx: Arc<Context>| {
        cx.metrics
            .errors
            .with_label_values(&[kind, error.reason()])
            .inc();
        let (key, version) = (key_of(object.meta()), version_of(object.meta()));
        let jitter = rand::random_range(0.75..1.25);
        let (count, pause) = lock(&turns_of_failures).fail(&key, version, Instant::now(), jitter);
        let object = ObjectRef::from(&*object);
        tracing::warn!(kind, %object, %error, count, "reconciling failed, again in {pause:.1?}");
        Action::requeue(pause)
    };
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let mut visited = std::pin::pin!(applier(visit, failed, cx, store, queue, config));
    while let Some(result) = visited.next().await {
        if let Err(error) = result {
            match error {
                // It was deleted between the call and the visit.
                controller::Error::ObjectNotFound(gone) => {
                    let key = (gone.namespace.unwrap_or_default(), gone.name);
                    lock(&turns).gone(&key);
                    called.notify_one();
                }
                // Counted and told above.
                controller::Error::ReconcilerFailed(..) => {}
                other => tracing::error!(kind, error = %other, "a reconciler's loop"),
            }
        }
    }
}

fn key_of(meta: &ObjectMeta) -> Key {
    let namespace = meta.namespace.clone().unwrap_or_default();
    (namespace, meta.name.clone().unwrap_or_default())
}

fn version_of(meta: &ObjectMeta) -> Version {
    (meta.uid.clone(), meta.generation)
}
