//! Follows the pods bound to the node and keeps a task for each.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_pods};
use kube::{Api, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::address::{Block, Pool};
use super::downward::Addresses;
use super::pod::{self, Request, Update};
use super::{Command, Context};

const REQUESTS: usize = 8;
/// How many pods a node that stops removes at once.
const DELETIONS: usize = 16;

struct Entry {
    address: Ipv4Addr,
    updates: watch::Sender<Update>,
    requests: mpsc::Sender<Request>,
}

/// The pods of one node, by uid.
pub struct Kubelet {
    cx: Arc<Context>,
    block: Arc<Block>,
    addresses: Pool,
    pods: HashMap<String, Entry>,
    tasks: JoinSet<String>,
    /// Pods that no address is left for; they start when another pod goes.
    postponed: HashMap<String, Arc<Pod>>,
    /// Pods named by the listing that is going on.
    listed: HashSet<String>,
}

impl Kubelet {
    pub fn new(cx: Arc<Context>, block: Arc<Block>) -> Self {
        Self {
            cx,
            block,
            addresses: Pool::new(),
            pods: HashMap::new(),
            tasks: JoinSet::new(),
            postponed: HashMap::new(),
            listed: HashSet::new(),
        }
    }

    /// Works until `commands` ends or says stop; then all processes are gone.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut paused = self.cx.paused.clone();
        let mut events = Box::pin(self.events());
        loop {
            let deaf = *paused.borrow_and_update();
            tokio::select! {
                event = events.next(), if !deaf => match event {
                    Some(Ok(event)) => self.on_event(event),
                    Some(Err(error)) => tracing::warn!("watch of pods: {error}"),
                    None => break,
                },
                // Hears everything anew, as a node whose network is back.
                changed = paused.changed() => match changed {
                    Ok(()) => events = Box::pin(self.events()),
                    Err(_) => break,
                },
                Some(ended) = self.tasks.join_next() => self.on_end(ended),
                command = commands.recv() => match command {
                    Some(Command::Pod { namespace, name, request }) => {
                        self.forward(&namespace, &name, request).await;
                    }
                    Some(Command::Stop { reply }) => {
                        // Err: the asker has given up waiting.
                        reply.send(self.stop().await).ok();
                        return;
                    }
                    None => break,
                },
            }
        }
        self.tasks.shutdown().await;
    }

    fn events(&self) -> impl Stream<Item = watcher::Result<Event<Pod>>> + use<> {
        let pods: Api<Pod> = Api::all(self.cx.client.clone());
        let field = format!("spec.nodeName={}", self.cx.options.name);
        watch_pods(pods, watcher::Config::default().fields(&field)).default_backoff()
    }

    fn on_event(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.apply(pod);
            }
            Event::InitDone => self.forget_unlisted(),
            Event::Apply(pod) => self.apply(pod),
            Event::Delete(pod) => self.remove(&pod.uid().unwrap_or_default(), Some(pod)),
        }
    }

    fn apply(&mut self, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        let pod = Arc::new(pod);
        match self.pods.get(&uid) {
            Some(entry) => {
                let removed = false;
                entry.updates.send_replace(Update { pod, removed });
            }
            None => self.admit(uid, pod),
        }
    }

    fn admit(&mut self, uid: String, pod: Arc<Pod>) {
        let Some(address) = self.addresses.take(&self.block) else {
            let note = "all addresses of this process node are taken".to_owned();
            self.cx.events.warning(&pod, "OutOfAddresses", note);
            self.postponed.insert(uid, pod);
            return;
        };
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network);
        let host = self.block.node();
        let addresses = Addresses {
            pod: if host_network == Some(true) {
                host
            } else {
                address
            },
            host,
        };
        let (updates, news) = watch::channel(Update {
            pod,
            removed: false,
        });
        let (requests, asked) = mpsc::channel(REQUESTS);
        let (cx, id) = (Arc::clone(&self.cx), uid.clone());
        self.tasks.spawn(async move {
            if let Err(error) = pod::run(cx, addresses, news, asked).await {
                tracing::warn!("pod {id}: {error:#}");
            }
            id
        });
        let entry = Entry {
            address,
            updates,
            requests,
        };
        self.pods.insert(uid, entry);
    }

    fn forget_unlisted(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        self.postponed.retain(|uid, _| listed.contains(uid));
        let gone = self.pods.keys().filter(|uid| !listed.contains(*uid));
        for uid in gone.cloned().collect::<Vec<_>>() {
            self.remove(&uid, None);
        }
    }

    fn remove(&mut self, uid: &str, last: Option<Pod>) {
        self.postponed.remove(uid);
        if let Some(entry) = self.pods.get(uid) {
            entry.updates.send_modify(|update| {
                update.removed = true;
                if let Some(pod) = last {
                    update.pod = Arc::new(pod);
                }
            });
        }
    }

    fn on_end(&mut self, ended: Result<String, tokio::task::JoinError>) {
        let uid = match ended {
            Ok(uid) => uid,
            Err(error) => {
                tracing::error!("a pod's task broke, its address stays taken: {error}");
                return;
            }
        };
        if let Some(entry) = self.pods.remove(&uid) {
            self.addresses.release(entry.address);
        }
        if let Some(next) = self.postponed.keys().next().cloned()
            && let Some(pod) = self.postponed.remove(&next)
        {
            self.admit(next, pod);
        }
    }

    async fn forward(&self, namespace: &str, name: &str, request: Request) {
        // A predecessor of the same name may still be going; the newest pod is meant.
        let named = self.pods.values().filter(|entry| {
            let update = entry.updates.borrow();
            let meta = &update.pod.metadata;
            let this = meta.name.as_deref() == Some(name);
            this && meta.namespace.as_deref() == Some(namespace)
        });
        let newest = named.max_by_key(|entry| {
            let created = entry.updates.borrow().pod.creation_timestamp();
            created.map(|time| time.0)
        });
        match newest {
            Some(entry) => {
                // Err: the pod has just ended, and its asker sees the reply channel close.
                entry.requests.send(request).await.ok();
            }
            None => request.refuse(anyhow!(
                "node {} runs no pod {namespace}/{name}",
                self.cx.options.name
            )),
        }
    }

    /// Ends all processes and removes the node and its pods from the cluster.
    async fn stop(&mut self) -> Result<()> {
        let named = self.pods.values().map(|entry| {
            let update = entry.updates.borrow();
            let namespace = update.pod.namespace().unwrap_or_default();
            (namespace, update.pod.name_any())
        });
        let named: Vec<(String, String)> = named.collect();
        self.tasks.shutdown().await;
        let deletions = named.into_iter().map(async |(namespace, name)| {
            let pods: Api<Pod> = Api::namespaced(self.cx.client.clone(), &namespace);
            let now = DeleteParams::default().grace_period(0);
            super::node::ignore_absent(pods.delete(&name, &now).await.map(drop))
        });
        let deletions = futures::stream::iter(deletions).buffer_unordered(DELETIONS);
        deletions.try_collect::<()>().await?;
        super::node::unregister(&self.cx).await
    }
}
