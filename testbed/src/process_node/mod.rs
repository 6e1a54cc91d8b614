//! A process node: a minimal kubelet that runs pods as processes of this host.
//!
//! It registers a Node, follows the pods bound to it, starts the binary that is mapped to a
//! container's image, probes it, restarts it with back-off, ends it with SIGTERM and grace, and
//! writes the pod's status. No root is needed, and a pod starts in milliseconds. What it does not
//! give is isolation: processes see the host's files and network and run as its user, limits and
//! security contexts are ignored.
//!
//! Since a process sees the host's files, its environment tells where things are:
//! - An environment value, an argument, or the value of a `--name=value` argument that begins with a
//!   mountPath begins with the host's folder of that volume instead.
//! - One that begins with `0.0.0.0:` begins with the pod's address: pods share the host's ports, but
//!   each has an address of its own.
//! - A container that mounts its service account's token (automounted or not) gets KUBECONFIG, which
//!   kube-rs and client-go read before they look for the files of a container.
//! - HOME and the working folder are the pod's folder; nothing of the node's environment is passed
//!   on but the PATH.
//! - What stands in files is not changed: a configuration file that names paths of the container does
//!   not work.
//! - `command[0]` is ignored in favour of the mapped binary.
//!
//! Cluster DNS and the addresses of Services do not reach host processes: give them addresses of the
//! host (Redis, model server) and call pods by their own.
//!
//! Not done, and said in the pod's status or events where a pod asks for it: volumes other than
//! Secret, ConfigMap, projected, downwardAPI, emptyDir and hostPath; resourceFieldRef; gRPC probes.
//! Ignored: postStart hooks, ephemeral containers, host ports, activeDeadlineSeconds. `kubectl logs`
//! and `exec` do not reach this node; logs are files, see [`ProcessNode::logs`].

mod access;
mod address;
mod backoff;
mod check;
mod container;
mod downward;
mod env;
mod events;
mod folder;
mod kubelet;
mod lifecycle;
mod mounts;
mod node;
mod objects;
mod options;
mod pod;
mod probes;
mod start;
mod state;
mod status;
mod volumes;
mod writer;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
pub use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use self::access::ApiAccess;
use self::address::Block;
pub use self::address::keep_free;
use self::events::Events;
use self::kubelet::Kubelet;
pub use self::node::LABEL;
use self::objects::Objects;
pub use self::options::ProcessNodeOptions;
use self::pod::Request;
use crate::cluster::Cluster;
use crate::run_dir::{DataDir, RunDir};

const COMMANDS: usize = 16;

/// What all parts of one node share.
struct Context {
    options: ProcessNodeOptions,
    client: Client,
    access: ApiAccess,
    objects: Objects,
    events: Events,
    http: reqwest::Client,
    host: Ipv4Addr,
    /// Holds a folder for each pod.
    folder: PathBuf,
    logs: PathBuf,
    paused: watch::Receiver<bool>,
}

impl Context {
    fn log_file(&self, pod: &Pod, container: &str) -> PathBuf {
        let meta = &pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        log_file(
            &self.logs,
            namespace.unwrap_or_default(),
            name.unwrap_or_default(),
            container,
        )
    }
}

fn log_file(logs: &Path, namespace: &str, pod: &str, container: &str) -> PathBuf {
    logs.join(format!("{namespace}_{pod}"))
        .join(format!("{container}.log"))
}

#[derive(Debug)]
enum Command {
    Pod {
        namespace: String,
        name: String,
        request: Request,
    },
    Stop {
        reply: oneshot::Sender<Result<()>>,
    },
}

/// A running process node. Dropping it is a power cut: its processes are gone, and the API server
/// has to find out by itself. [`Self::stop`] takes it out of the cluster.
#[derive(Debug)]
pub struct ProcessNode {
    name: String,
    address: Ipv4Addr,
    serves_services: bool,
    logs: PathBuf,
    paused: watch::Sender<bool>,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    _data: DataDir,
}

impl ProcessNode {
    /// Joins the cluster of `kubeconfig` (its user needs a kubelet's rights, and more). The node has
    /// a thread of its own and so outlives the runtime of the caller. Returns when pods can be
    /// scheduled on it.
    ///
    /// # Errors
    /// The cluster does not answer or refuses the node; a binary that is mapped is not there; no
    /// address range is left.
    pub async fn start(kubeconfig: &Path, options: ProcessNodeOptions) -> Result<Self> {
        options.check()?;
        crate::install_crypto();
        let run = RunDir::current()?;
        let data = run.data(&format!(
            "node-{}-{:08x}",
            options.name,
            rand::random::<u32>()
        ))?;
        let (folder, logs) = (data.path().to_owned(), run.logs().join(&options.name));
        let (name, kubeconfig) = (options.name.clone(), kubeconfig.to_owned());
        let (paused, is_paused) = watch::channel(false);
        let (commands, incoming) = mpsc::channel(COMMANDS);
        let (ready, joined) = oneshot::channel();
        let seed = Seed {
            kubeconfig,
            options,
            folder,
            logs: logs.clone(),
            paused: is_paused,
        };
        let thread = std::thread::Builder::new()
            .name(format!("node-{name}"))
            .spawn(move || run_thread(seed, incoming, ready))?;
        let (address, serves_services) = joined
            .await
            .with_context(|| format!("the thread of process node {name} broke"))??;
        Ok(Self {
            name,
            address,
            serves_services,
            logs,
            paused,
            commands: Some(commands),
            thread: Some(thread),
            _data: data,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's own address; those of its pods are in the same /24.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// Whether Kubernetes accepts the pods' addresses in EndpointSlices. False without root (or where
    /// root may not add addresses): then
    /// pods are called by their address and not through a Service.
    pub fn serves_services(&self) -> bool {
        self.serves_services
    }

    /// The folder of the containers' logs: `<namespace>_<pod>/<container>.log`, all runs in one file.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The log of one container.
    pub fn log_file(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        log_file(&self.logs, namespace, pod, container)
    }

    /// Cuts the node off the API server: no heartbeats, no status, no news of pods. What runs, runs
    /// on. The cluster sees an unreachable node once the Lease is too old.
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Ends the pause: heartbeat and status at once, and the pods are listed anew.
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Sends `signal` to the process of a container.
    ///
    /// # Errors
    /// The node has no such pod or container, or it does not run.
    pub async fn kill_container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        signal: Signal,
    ) -> Result<()> {
        let container = container.to_owned();
        self.ask(namespace, pod, |reply| Request::Signal {
            container,
            signal,
            reply,
        })
        .await
    }

    /// The process id of a container.
    ///
    /// # Errors
    /// As [`Self::kill_container`].
    pub async fn pid(&self, namespace: &str, pod: &str, container: &str) -> Result<i32> {
        let container = container.to_owned();
        self.ask(namespace, pod, |reply| Request::Pid { container, reply })
            .await
    }

    async fn ask<T>(
        &self,
        namespace: &str,
        pod: &str,
        request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Pod {
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
            request: request(reply),
        })
        .await?;
        answer
            .await
            .with_context(|| format!("pod {namespace}/{pod} has just ended"))?
    }

    async fn send(&self, command: Command) -> Result<()> {
        let gone = || anyhow!("process node {} has stopped", self.name);
        let commands = self.commands.as_ref().ok_or_else(gone)?;
        commands.send(command).await.map_err(|_| gone())
    }

    /// Kills all processes and removes the Node, its Lease and its pods from the cluster.
    ///
    /// # Errors
    /// The API server does not answer; the processes are gone all the same.
    pub async fn stop(self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Stop { reply }).await?;
        answer.await.context("the node's thread broke")?
    }
}

impl Cluster {
    /// Joins a process node; see [`ProcessNode::start`].
    ///
    /// # Errors
    /// As [`ProcessNode::start`].
    pub async fn join_process_node(&self, options: ProcessNodeOptions) -> Result<ProcessNode> {
        ProcessNode::start(self.kubeconfig(), options).await
    }
}

impl Drop for ProcessNode {
    fn drop(&mut self) {
        self.commands.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of process node {} panicked", self.name);
        }
    }
}

/// What the node's thread starts with.
struct Seed {
    kubeconfig: PathBuf,
    options: ProcessNodeOptions,
    folder: PathBuf,
    logs: PathBuf,
    paused: watch::Receiver<bool>,
}

type Joined = oneshot::Sender<Result<(Ipv4Addr, bool)>>;

fn run_thread(seed: Seed, commands: mpsc::Receiver<Command>, ready: Joined) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // Err: the caller has given up.
            ready.send(Err(error.into())).ok();
            return;
        }
    };
    let serve = async {
        let (cx, block) = match join(seed).await {
            Ok(joined) => joined,
            Err(error) => {
                ready.send(Err(error)).ok();
                return;
            }
        };
        if ready.send(Ok((cx.host, block.serves_services()))).is_err() {
            return;
        }
        let kubelet = Kubelet::new(Arc::clone(&cx), Arc::clone(&block));
        tokio::select! {
            () = kubelet.run(commands) => {}
            () = node::heartbeat(&cx) => {}
            () = renew(&block) => {}
        }
    };
    runtime.block_on(serve);
}

async fn join(seed: Seed) -> Result<(Arc<Context>, Arc<Block>)> {
    let (access, config) = ApiAccess::read(&seed.kubeconfig).await?;
    let client = Client::try_from(config)?;
    let block = tokio::task::spawn_blocking(Block::lease).await??;
    let cx = Context {
        objects: Objects::new(client.clone()),
        events: Events::new(client.clone(), &seed.options.name),
        http: check::http_client()?,
        host: block.node(),
        options: seed.options,
        client,
        access,
        folder: seed.folder,
        logs: seed.logs,
        paused: seed.paused,
    };
    node::register(&cx).await?;
    Ok((Arc::new(cx), Arc::new(block)))
}

/// Keeps the addresses on `lo` until dropped.
async fn renew(block: &Arc<Block>) {
    loop {
        tokio::time::sleep(address::RENEW_EVERY).await;
        let block = Arc::clone(block);
        match tokio::task::spawn_blocking(move || block.renew()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("{error:#}"),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}
