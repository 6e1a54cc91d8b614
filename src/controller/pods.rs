//! The worker pods: what the watch has shown, and what this process wrote since.
//!
//! A pool decides on this index and never on a bare cache: the answer to each create and delete goes
//! in at once, so that no decision is made before the last one's effect is counted. An entry leaves by
//! a watch's word only, so "gone" is never concluded from absence.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::latest::version;
use crate::api::names::{LABEL_POOL, SERVER_CONTAINER, WORKER_CONTAINER};
use crate::lock::lock;

/// Uids of pods that are gone, so that a late answer does not bring one back.
const REMEMBERED: usize = 4096;

/// What a pod's change means for the queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Its worker process has ended; the pod is still there.
    Ended {
        /// Namespace of the pod.
        namespace: String,
        /// Uid of the pod.
        uid: String,
    },
    /// The pod is gone.
    Gone {
        /// Namespace of the pod.
        namespace: String,
        /// Uid of the pod.
        uid: String,
    },
}

/// What a watch event changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Pools whose pods changed, as namespace and name.
    pub pools: Vec<(String, String)>,
    /// Workers that were lost.
    pub losses: Vec<Loss>,
}

/// All worker pods, by pool.
#[derive(Default)]
pub struct Pods {
    index: Mutex<Index>,
    synced: watch::Sender<bool>,
}

#[derive(Default)]
struct Index {
    /// Namespace and pool -> uid -> pod.
    pools: HashMap<(String, String), HashMap<String, Arc<Pod>>>,
    gone: std::collections::VecDeque<String>,
    /// Uids listed since the watch began anew.
    listed: Option<HashMap<String, Pod>>,
    /// Uids written since then, which a list may miss.
    written: Vec<String>,
    /// Pods that this process made: when that was answered, and how long it took until one was Ready.
    starts: HashMap<String, (Instant, Option<Duration>)>,
}

impl Pods {
    /// The pods of a pool.
    pub fn of(&self, namespace: &str, pool: &str) -> Vec<Arc<Pod>> {
        let index = self.lock();
        let key = (namespace.to_owned(), pool.to_owned());
        index
            .pools
            .get(&key)
            .map(|pods| pods.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether a namespace has worker pods, those that go included.
    pub fn are_in(&self, namespace: &str) -> bool {
        let index = self.lock();
        let mut pools = index.pools.iter();
        pools.any(|((of, _), pods)| of == namespace && !pods.is_empty())
    }

    /// Whether a worker runs, by what is known of its pod.
    pub fn runs(&self, namespace: &str, uid: &str) -> bool {
        let index = self.lock();
        let mut pools = index.pools.iter().filter(|((of, _), _)| of == namespace);
        pools.any(|(_, pods)| pods.get(uid).is_some_and(|pod| worker_runs(pod)))
    }

    /// From the answer to a pod's creation until it was Ready, if this process saw both: finer than the
    /// pod's own times, which are whole seconds.
    pub fn ready_after(&self, uid: &str) -> Option<Duration> {
        self.lock().starts.get(uid)?.1
    }

    /// Namespaces and names of the pools that have pods on these nodes.
    pub fn pools_on(&self, nodes: &HashSet<String>) -> Vec<(String, String)> {
        let index = self.lock();
        let on = |pod: &Arc<Pod>| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            node.is_some_and(|node| nodes.contains(node))
        };
        let pools = index.pools.iter();
        pools
            .filter(|(_, pods)| pods.values().any(on))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Waits until the pods have been listed once.
    pub async fn wait_until_synced(&self) {
        // The sender is ours, so it is there.
        self.synced
            .subscribe()
            .wait_for(|synced| *synced)
            .await
            .ok();
    }

    /// The API server's answer to a create or delete of ours.
    pub fn wrote(&self, pod: Pod) {
        let mut index = self.lock();
        if let Some(uid) = pod.uid() {
            if index.listed.is_some() {
                index.written.push(uid.clone());
            }
            let is_new = pod.metadata.deletion_timestamp.is_none() && !index.is_ready(&pod);
            if is_new && !is_ready(&pod) {
                let start = (Instant::now(), None);
                index.starts.entry(uid.clone()).or_insert(start);
            }
            if !index.gone.contains(&uid) {
                index.put(pod, Origin::Stream);
            }
        }
    }

    /// What the watch says.
    pub fn hear(&self, event: Event<Pod>) -> Change {
        let mut index = self.lock();
        let mut change = Change::default();
        match event {
            Event::Apply(pod) => index.apply(pod, Origin::Stream, &mut change),
            Event::Delete(pod) => index.delete(&pod, &mut change),
            Event::Init => {
                index.listed = Some(HashMap::new());
                index.written.clear();
            }
            Event::InitApply(pod) => {
                if let (Some(uid), Some(listed)) = (pod.uid(), &mut index.listed) {
                    listed.insert(uid, pod);
                }
            }
            Event::InitDone => {
                let listed = index.listed.take().unwrap_or_default();
                let missing: Vec<Arc<Pod>> = index
                    .pools
                    .values()
                    .flat_map(HashMap::values)
                    .filter(|pod| {
                        let uid = pod.uid().unwrap_or_default();
                        !listed.contains_key(&uid) && !index.written.contains(&uid)
                    })
                    .cloned()
                    .collect();
                for pod in missing {
                    index.delete(&pod, &mut change);
                }
                for (uid, pod) in listed {
                    let origin = match index.written.contains(&uid) {
                        true => Origin::Stream,
                        false => Origin::List,
                    };
                    index.apply(pod, origin, &mut change);
                }
                index.written.clear();
                self.synced.send_replace(true);
            }
        }
        change
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Index> {
        lock(&self.index)
    }
}

/// Where a pod's state comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A list that began after what is known was known. It is right, even if its version is lower: the
    /// cluster's data may have been restored from a copy, and its versions begin at that one's.
    List,
    /// A watch, or the answer to a write: the higher version is the later state.
    Stream,
}

impl Index {
    fn apply(&mut self, pod: Pod, origin: Origin, change: &mut Change) {
        let (Some(key), Some(uid)) = (key(&pod), pod.uid()) else {
            return;
        };
        if origin == Origin::List {
            self.gone.retain(|gone| *gone != uid);
        } else if self.gone.contains(&uid) {
            return;
        }
        let before = self.pools.get(&key).and_then(|pods| pods.get(&uid));
        // One that ran once more between two events has ended once more.
        let is_known = |before: &Pod| worker_ended(before) && restarts(before) >= restarts(&pod);
        if worker_ended(&pod) && !before.is_some_and(|before| is_known(before)) {
            change.losses.push(Loss::Ended {
                namespace: key.0.clone(),
                uid,
            });
        }
        change.pools.push(key);
        self.put(pod, origin);
    }

    fn delete(&mut self, pod: &Pod, change: &mut Change) {
        if let (Some(key), Some(uid)) = (key(pod), pod.uid()) {
            change.losses.push(Loss::Gone {
                namespace: key.0.clone(),
                uid,
            });
            change.pools.push(key);
        }
        self.drop_pod(pod);
    }

    /// Whether the pod is Ready by what is known of it.
    fn is_ready(&self, pod: &Pod) -> bool {
        let pods = key(pod).and_then(|key| self.pools.get(&key));
        let known = pods.and_then(|pods| pods.get(&pod.uid()?));
        known.is_some_and(|known| is_ready(known))
    }

    fn put(&mut self, mut pod: Pod, origin: Origin) {
        let (Some(key), Some(uid)) = (key(&pod), pod.uid()) else {
            return;
        };
        if let Some((since, after @ None)) = self.starts.get_mut(&uid)
            && is_ready(&pod)
        {
            *after = Some(since.elapsed());
        }
        // Nobody asks for them, and they are half of a pod's size.
        pod.metadata.managed_fields = None;
        let pods = self.pools.entry(key).or_default();
        match pods.get(&uid) {
            Some(known) if origin == Origin::Stream && version(&**known) > version(&pod) => {}
            _ => {
                pods.insert(uid, Arc::new(pod));
            }
        }
    }

    fn drop_pod(&mut self, pod: &Pod) {
        let (Some(key), Some(uid)) = (key(pod), pod.uid()) else {
            return;
        };
        if let Some(pods) = self.pools.get_mut(&key) {
            pods.remove(&uid);
            if pods.is_empty() {
                self.pools.remove(&key);
            }
        }
        self.starts.remove(&uid);
        self.gone.push_back(uid);
        if self.gone.len() > REMEMBERED {
            self.gone.pop_front();
        }
    }
}

fn key(pod: &Pod) -> Option<(String, String)> {
    Some((pod.namespace()?, pod.labels().get(LABEL_POOL)?.clone()))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The status of the worker container.
pub fn worker_status(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|s| s.name == WORKER_CONTAINER)
}

/// The state of the model server, where the pod has one.
pub fn server_status(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    statuses.iter().find(|s| s.name == SERVER_CONTAINER)
}

/// How often the worker's container was started again.
fn restarts(pod: &Pod) -> i32 {
    worker_status(pod).map_or(0, |status| status.restart_count)
}

fn has_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// The worker process runs.
fn worker_runs(pod: &Pod) -> bool {
    let state = worker_status(pod).and_then(|status| status.state.as_ref());
    !has_finished(pod) && state.is_some_and(|state| state.running.is_some())
}

/// The worker process has ended and no other has begun in its place.
fn worker_ended(pod: &Pod) -> bool {
    if has_finished(pod) {
        return true;
    }
    let Some(status) = worker_status(pod) else {
        return false;
    };
    let state = status.state.as_ref();
    let began = status.restart_count > 0 || state.is_some_and(|s| s.terminated.is_some());
    began && !worker_runs(pod)
}

#[cfg(test)]
mod tests;
