//! Secrets and ConfigMaps that pods of a node use: one watch an object, shared by all its readers.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Keys with their values.
pub type Data = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Secret,
    ConfigMap,
}

impl Kind {
    pub fn noun(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::ConfigMap => "configmap",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// What pure code may ask: the data of an object, `None` when there is no such object.
pub trait Lookup {
    fn data(&self, key: &Key) -> Option<Arc<Data>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Observed {
    Unknown,
    Absent,
    Present(Arc<Data>),
}

/// The watches of one node.
#[derive(Debug, Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    watches: Mutex<HashMap<Key, Weak<Watch>>>,
}

impl Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Watch {
    seen: watch::Receiver<Observed>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The objects one pod uses.
#[derive(Debug, Default)]
pub struct Subscriptions(BTreeMap<Key, (Arc<Watch>, watch::Receiver<Observed>)>);

impl Objects {
    pub fn new(client: Client) -> Self {
        Self {
            inner: Arc::new(Inner {
                client,
                watches: Mutex::default(),
            }),
        }
    }

    /// Watches `keys`, until the answer is dropped.
    pub fn subscribe(&self, keys: impl IntoIterator<Item = Key>) -> Subscriptions {
        let mut watches = self
            .inner
            .watches
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, watch| watch.strong_count() > 0);
        let subscribed = keys.into_iter().map(|key| {
            let running = watches.get(&key).and_then(Weak::upgrade);
            let watch = running.unwrap_or_else(|| {
                let watch = Arc::new(self.watch(&key));
                watches.insert(key.clone(), Arc::downgrade(&watch));
                watch
            });
            let seen = watch.seen.clone();
            (key, (watch, seen))
        });
        Subscriptions(subscribed.collect())
    }

    fn watch(&self, key: &Key) -> Watch {
        let (sender, seen) = watch::channel(Observed::Unknown);
        let (client, key) = (self.inner.client.clone(), key.clone());
        let task = tokio::spawn(async move {
            match key.kind {
                Kind::Secret => {
                    let data = |secret: Secret| {
                        let data = secret.data.into_iter().flatten();
                        data.map(|(k, v)| (k, v.0)).collect()
                    };
                    follow(client, &key, data, sender).await;
                }
                Kind::ConfigMap => {
                    let data = |map: ConfigMap| {
                        let texts = map.data.into_iter().flatten();
                        let texts = texts.map(|(k, v)| (k, v.into_bytes()));
                        let bytes = map.binary_data.into_iter().flatten();
                        texts.chain(bytes.map(|(k, v)| (k, v.0))).collect()
                    };
                    follow(client, &key, data, sender).await;
                }
            }
        });
        let task = task.abort_handle();
        Watch { seen, task }
    }
}

async fn follow<K>(
    client: Client,
    key: &Key,
    data: impl Fn(K) -> Data,
    sender: watch::Sender<Observed>,
) where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client, &key.namespace);
    let objects = watcher::watch_object(api, &key.name).default_backoff();
    let mut objects = std::pin::pin!(objects);
    while let Some(object) = objects.next().await {
        match object {
            Ok(object) => {
                let now = object.map_or(Observed::Absent, |o| Observed::Present(data(o).into()));
                sender.send_if_modified(|seen| {
                    let changed = *seen != now;
                    *seen = now;
                    changed
                });
            }
            Err(error) => tracing::warn!("watch of {} {}: {error}", key.kind.noun(), key.name),
        }
    }
}

impl Subscriptions {
    /// Whether the server has answered for each of the objects.
    pub fn is_known(&self) -> bool {
        let mut seen = self.0.values().map(|(_, seen)| seen);
        seen.all(|seen| *seen.borrow() != Observed::Unknown)
    }

    /// Waits until one of the objects changes.
    pub async fn changed(&mut self) {
        let changes = self
            .0
            .values_mut()
            .map(|(_, seen)| Box::pin(seen.changed()));
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        let (result, _, _) = futures::future::select_all(changes).await;
        if result.is_err() {
            std::future::pending().await
        }
    }
}

impl Lookup for Subscriptions {
    fn data(&self, key: &Key) -> Option<Arc<Data>> {
        let (_, seen) = self.0.get(key)?;
        match &*seen.borrow() {
            Observed::Present(data) => Some(Arc::clone(data)),
            Observed::Absent | Observed::Unknown => None,
        }
    }
}
