//! How many worker pods there are, from a watch.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Worker pods of a namespace at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that are not being deleted.
    pub workers: usize,
    /// Of these, the Ready ones.
    pub ready: usize,
    /// Those being deleted.
    pub leaving: usize,
}

/// Follows the worker pods of a namespace. Ends when dropped.
#[derive(Debug)]
pub struct Crowd {
    counts: watch::Receiver<Count>,
    follower: JoinHandle<()>,
}

impl Crowd {
    pub fn follow(client: Client, namespace: &str) -> Self {
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let (store, writer) = reflector::store();
        let config = watcher::Config::default().labels("persona.dev/pool");
        let events = watcher(pods, config).default_backoff();
        let mut events = reflector::reflector(writer, events).boxed();
        let (sender, counts) = watch::channel(Count::default());
        let follower = tokio::spawn(async move {
            loop {
                match events.try_next().await {
                    Ok(Some(_)) => {
                        let state = store.state();
                        sender.send_replace(count(state.iter().map(AsRef::as_ref)));
                    }
                    Ok(None) => return,
                    // The watch begins anew by itself.
                    Err(error) => tracing::debug!(%error, "the watch of pods broke"),
                }
            }
        });
        Self { counts, follower }
    }

    pub fn now(&self) -> Count {
        *self.counts.borrow()
    }

    /// Waits until the count is as wanted.
    pub async fn until(&self, wanted: impl FnMut(&Count) -> bool) -> Count {
        let mut counts = self.counts.clone();
        match counts.wait_for(wanted).await {
            Ok(count) => *count,
            // The watch has ended: whoever waits has a time limit.
            Err(_) => std::future::pending().await,
        }
    }

    /// Changes from now on.
    pub fn changes(&self) -> watch::Receiver<Count> {
        self.counts.clone()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

fn count<'a>(pods: impl Iterator<Item = &'a Pod>) -> Count {
    let mut count = Count::default();
    for pod in pods {
        if pod.metadata.deletion_timestamp.is_some() {
            count.leaving += 1;
            continue;
        }
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let ready =
            |c: &k8s_openapi::api::core::v1::PodCondition| c.type_ == "Ready" && c.status == "True";
        count.workers += 1;
        count.ready += usize::from(conditions.is_some_and(|all| all.iter().any(ready)));
    }
    count
}
