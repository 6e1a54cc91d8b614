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

use super::Error;
use super::metrics::Metrics;
use super::turns::{CONCURRENCY, Key, Turn, Turns, Version};
use crate::lock::lock;

/// A visit that takes longer is given up. Requests have limits of their own, and a pool that grows makes
/// many of them.
const ENDLESS: Duration = Duration::from_secs(600);

/// One visit to an object.
pub type Reconcile<K, C> = fn(Arc<K>, Arc<C>) -> BoxFuture<'static, Result<Action, Error>>;

/// Reconciles what `visits` names until `stop`; one object is never visited twice at once, and no namespace
/// takes all the room. A failed visit is repeated after a pause that doubles, with jitter.
pub async fn drive<K, C>(
    kind: &'static str,
    store: Store<K>,
    visits: mpsc::Receiver<ObjectRef<K>>,
    reconcile: Reconcile<K, C>,
    cx: Arc<C>,
    stop: CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    C: AsRef<Metrics> + Send + Sync + 'static,
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
    let visit = move |object: Arc<K>, cx: Arc<C>| {
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
            let metrics: &Metrics = (*cx).as_ref();
            metrics
                .reconcile
                .with_label_values(&[kind])
                .observe(began.elapsed().as_secs_f64());
            lock(&turns).end(&key, result.is_ok());
            called.notify_one();
            result
        })
    };
    let turns_of_failures = turns.clone();
    let failed = move |object: Arc<K>, error: &Error, cx: Arc<C>| {
        let metrics: &Metrics = (*cx).as_ref();
        metrics
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::FutureExt;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use prometheus::Registry;

    use super::*;
    use crate::api::WorkerPool;

    /// Namespaces hang, and are visited.
    struct World {
        metrics: Metrics,
        visited: Mutex<BTreeSet<Key>>,
        changed: Notify,
    }

    impl AsRef<Metrics> for World {
        fn as_ref(&self) -> &Metrics {
            &self.metrics
        }
    }

    fn visit(
        pool: Arc<WorkerPool>,
        world: Arc<World>,
    ) -> BoxFuture<'static, Result<Action, Error>> {
        async move {
            let key = key_of(&pool.metadata);
            if key.0 == "hangs" {
                return std::future::pending().await;
            }
            tokio::task::yield_now().await;
            if key.1 == "0" && lock(&world.visited).insert((key.0.clone(), "failed".to_owned())) {
                return Err(Error::Setting("once".to_owned()));
            }
            lock(&world.visited).insert(key);
            world.changed.notify_one();
            Ok(Action::await_change())
        }
        .boxed()
    }

    #[tokio::test]
    async fn all_objects_of_a_large_namespace_are_visited_while_those_of_another_hang() {
        const MANY: usize = 300;
        let (store, mut writer) = reflector::store::<WorkerPool>();
        let (bell, visits) = mpsc::channel(1024);
        writer.apply_watcher_event(&Event::Init);
        for namespace in ["hangs", "large"] {
            for place in 0..MANY {
                let mut pool = WorkerPool::new(&place.to_string(), Default::default());
                pool.metadata.namespace = Some(namespace.to_owned());
                bell.try_send(ObjectRef::from(&pool)).expect("room");
                writer.apply_watcher_event(&Event::InitApply(pool));
            }
        }
        writer.apply_watcher_event(&Event::InitDone);
        let world = Arc::new(World {
            metrics: Metrics::register(&Registry::new()).expect("metrics"),
            visited: Mutex::default(),
            changed: Notify::new(),
        });
        let stop = CancellationToken::new();
        let driving = drive(
            "WorkerPool",
            store,
            visits,
            visit,
            world.clone(),
            stop.clone(),
        );
        let all_visited = async {
            // One of them is what failed.
            while lock(&world.visited).len() < MANY + 1 {
                world.changed.notified().await;
            }
        };
        tokio::select! {
            () = driving => panic!("it ended"),
            done = timeout(Duration::from_secs(60), all_visited) => {
                let count = lock(&world.visited).len();
                assert!(done.is_ok(), "{count} of {MANY} were visited");
            }
        }
    }
}
