//! A Kubernetes for tests and the demo: our own control plane, or the user's cluster.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::binaries::Binary;
use crate::component::Component;
use crate::control_plane::ControlPlane;
use crate::kubeconfig;
use crate::kwok::{self, FakeNode};
use crate::net::Port;
use crate::options::Options;
use crate::real_node::RealNode;
use crate::run_dir::{DataDir, RunDir};

/// Names the kubeconfig of a cluster to use instead of one of our own.
pub const KUBECONFIG_VARIABLE: &str = "TESTBED_KUBECONFIG";

/// A cluster. Dropping one of our own stops its processes and removes its data.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    own: Option<Own>,
}

/// What belongs to a cluster of our own. Dropped in this order: processes before their data.
#[derive(Debug)]
struct Own {
    name: String,
    kwok: OnceCell<(Component, Port)>,
    real: OnceCell<RealNode>,
    plane: ControlPlane,
    taint_fake_nodes: bool,
    data: DataDir,
}

impl Cluster {
    /// The cluster all tests of this process share: the user's when TESTBED_KUBECONFIG is set, else one
    /// that lives as long as the process.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
        let start = async || match std::env::var_os(KUBECONFIG_VARIABLE) {
            Some(path) => Self::external(Path::new(&path))
                .await
                .map_err(|error| format!("{error:#}")),
            None => Self::start(Options {
                taint_fake_nodes: true,
                ..Options::default()
            })
            .await
            .map_err(|error| format!("{error:#}")),
        };
        SHARED
            .get_or_init(start)
            .await
            .as_ref()
            .map_err(|error| anyhow!(error.clone()))
    }

    /// The user's cluster by its kubeconfig. Nothing of it is started or stopped.
    pub async fn external(kubeconfig: &Path) -> Result<Self> {
        let cluster = Self {
            kubeconfig: std::path::absolute(kubeconfig)?,
            own: None,
        };
        let version = cluster.client().await?.apiserver_version().await;
        version
            .with_context(|| format!("the cluster of {} does not answer", kubeconfig.display()))?;
        Ok(cluster)
    }

    /// A cluster of its own, for tests that break things. Control plane only; nodes are joined by the
    /// other methods.
    pub async fn start(options: Options) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("cluster{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let run = RunDir::current()?;
        let data = run.data(&name)?;
        let plane = ControlPlane::start(&name, data.path(), &run.logs(), &options).await?;
        let kubeconfig = plane.admin_kubeconfig.clone();
        let own = Own {
            name,
            kwok: OnceCell::new(),
            real: OnceCell::new(),
            plane,
            taint_fake_nodes: options.taint_fake_nodes,
            data,
        };
        Ok(Self {
            kubeconfig,
            own: Some(own),
        })
    }

    /// Admin access.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A new client: one must not be shared between the runtimes of several tests.
    pub async fn client(&self) -> Result<kube::Client> {
        kubeconfig::client(&self.kubeconfig).await
    }

    /// Makes a namespace with a unique name, ready to take pods.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let name = format!("{prefix}-{:08x}", rand::random::<u32>());
        self.create_namespace(&name).await?;
        Ok(name)
    }

    /// Makes the namespace `name`, ready to take pods; an error when it is there already.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let client = self.client().await?;
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let namespace = Namespace {
            metadata,
            ..Namespace::default()
        };
        Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("cannot create namespace {name}"))?;
        // Pods are refused until the controller manager has made it.
        let accounts: Api<ServiceAccount> = Api::namespaced(client, name);
        let made = watcher(
            accounts,
            watcher::Config::default().fields("metadata.name=default"),
        )
        .applied_objects();
        let first = async {
            std::pin::pin!(made.filter_map(async |event| event.ok()))
                .next()
                .await
        };
        tokio::time::timeout(Duration::from_secs(60), first)
            .await
            .with_context(|| format!("namespace {name} got no default service account"))?;
        Ok(())
    }

    /// kubectl of the cluster's version, talking to this cluster.
    pub async fn kubectl(&self) -> Result<Command> {
        self.tool(Binary::Kubectl).await
    }

    /// Helm 4, talking to this cluster, with its caches in the cluster's data folder.
    pub async fn helm(&self) -> Result<Command> {
        let mut helm = self.tool(Binary::Helm).await?;
        if let Some(own) = &self.own {
            let home = own.data.path().join("helm");
            for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
                helm.env(variable, &home);
            }
        }
        Ok(helm)
    }

    async fn tool(&self, binary: Binary) -> Result<Command> {
        let mut command = Command::new(binary.resolve().await?);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .kill_on_drop(true);
        Ok(command)
    }

    /// Sees to it that there are fake nodes, `cpu` without and `gpu` with GPUs, all Ready. KWOK is
    /// started on first use.
    pub async fn fake_nodes(&self, cpu: usize, gpu: usize) -> Result<()> {
        self.add_fake_nodes(&FakeNode::fleet(cpu, gpu)).await
    }

    /// As [`Self::fake_nodes`], for nodes of one's own making.
    pub async fn add_fake_nodes(&self, nodes: &[FakeNode]) -> Result<()> {
        self.kwok().await?;
        let client = self.client().await?;
        kwok::create(client, nodes, self.own()?.taint_fake_nodes).await
    }

    /// KWOK; started on first use.
    pub async fn kwok(&self) -> Result<&Component> {
        let own = self.own()?;
        let logs = RunDir::current()?.logs();
        let start = || kwok::start(&own.name, own.data.path(), &logs, &self.kubeconfig);
        let (kwok, _) = own.kwok.get_or_try_init(start).await?;
        Ok(kwok)
    }

    /// The cluster's real node; joined on first use, which takes root and some seconds.
    pub async fn join_real_node(&self) -> Result<&RealNode> {
        let own = self.own()?;
        let join = async || RealNode::join(&own.name, &own.plane, self.client().await?).await;
        own.real.get_or_try_init(join).await
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().with_context(|| {
            format!("this needs a cluster of the testbed's own, but {KUBECONFIG_VARIABLE} names another one")
        })
    }

    /// The parts of our own control plane; an error on the user's cluster.
    pub fn control_plane(&self) -> Result<&ControlPlane> {
        Ok(&self.own()?.plane)
    }

    pub fn apiserver(&self) -> Result<&Component> {
        Ok(&self.control_plane()?.apiserver)
    }

    pub fn etcd(&self) -> Result<&Component> {
        Ok(&self.control_plane()?.etcd)
    }

    pub fn controller_manager(&self) -> Result<&Component> {
        Ok(&self.control_plane()?.controller_manager)
    }

    pub fn scheduler(&self) -> Result<&Component> {
        Ok(&self.control_plane()?.scheduler)
    }

    /// Every request the API server answered, one JSON object a line; needs `Options::audit`.
    pub fn audit_log(&self) -> Result<&Path> {
        self.control_plane()?
            .audit_log
            .as_deref()
            .context("the cluster was started without Options::audit")
    }

    /// Stops in good order; dropping does the same by SIGKILL.
    pub async fn stop(mut self) -> Result<()> {
        // First, because it is a client of the rest; it takes a moment in which the thread waits.
        if let Some(real) = self.own.as_mut().and_then(|own| own.real.take()) {
            tokio::task::spawn_blocking(|| drop(real)).await?;
        }
        let own = self.own()?;
        if let Some((kwok, _)) = own.kwok.get() {
            kwok.stop(Duration::from_secs(3)).await?;
        }
        own.plane.stop().await
    }
}
