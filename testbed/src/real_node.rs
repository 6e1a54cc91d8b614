//! A real node: kubelet, containerd, runc, CNI, kube-proxy and cluster DNS, in namespaces of their own.
//!
//! Pods are real there: images, isolation, limits, Services, DNS. It takes root. Pods and Services can
//! be reached from this machine by their addresses, and pods reach the machine at [`RealNode::host_address`].

mod cgroups;
mod config;
mod forward;
mod possible;
mod sandbox;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::try_join;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::wait::await_condition;
use tokio::process::Command;
use tokio::sync::OnceCell;

use self::config::{FOLDER, Facts};
use self::forward::Forward;
pub(crate) use self::possible::possible;
pub use self::possible::{require_possible, require_root};
use self::sandbox::Sandbox;
use crate::binaries::Binary;
use crate::certs;
use crate::component::Component;
use crate::control_plane::ControlPlane;
use crate::image;
use crate::kubeconfig;
use crate::kwok;
use crate::packages::{self, Package};
use crate::probe::Probe;
use crate::run_dir::{DataDir, RunDir};

/// The name of the node in the cluster.
pub const NAME: &str = "real";

pub(crate) const PACKAGES: &[Package] = &[
    Package {
        name: "containerd",
        file: "/usr/bin/containerd",
    },
    Package {
        name: "runc",
        file: "/usr/sbin/runc",
    },
    Package {
        name: "containernetworking-plugins",
        file: "/usr/lib/cni/ptp",
    },
    Package {
        name: "iptables",
        file: "/usr/sbin/iptables",
    },
    Package {
        name: "conntrack",
        file: "/usr/sbin/conntrack",
    },
    Package {
        name: "iproute2",
        file: "/usr/sbin/ip",
    },
    Package {
        name: "util-linux",
        file: "/usr/bin/nsenter",
    },
];
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A node that runs containers. Dropping it, or the end of this process, ends all of it.
#[derive(Debug)]
pub struct RealNode {
    // In the order in which they are dropped, so killed; the folder goes after all that uses it.
    kube_proxy: Component,
    dns: Component,
    kubelet: Component,
    containerd: Component,
    forwards: Mutex<Vec<(u16, Forward)>>,
    sandbox: Sandbox,
    operator: OnceCell<()>,
    redis: OnceCell<()>,
    llama: OnceCell<()>,
    folder: DataDir,
}

impl RealNode {
    /// Starts a node of the control plane `plane` and waits until it is Ready. `cluster` is a prefix for
    /// names of folders and logs.
    pub(crate) async fn join(
        cluster: &str,
        plane: &ControlPlane,
        client: kube::Client,
    ) -> Result<Self> {
        require_root()?;
        packages::ensure(PACKAGES).await?;
        let programs = Programs::resolve().await?;
        let run = RunDir::current()?;
        let folder = run.data(&format!("{cluster}-node"))?;
        let logs = run.logs();
        let log = logs.join(format!("{cluster}-node.log"));
        let sandbox = Sandbox::create(folder.path(), &log, &plane.ranges, &plane.service_range)?;
        let api = SocketAddr::new(sandbox.host, plane.port());
        let forwards = Mutex::new(vec![(api.port(), Forward::start(api)?)]);
        let files = Files::write(folder.path(), plane, &sandbox, api)?;

        let spec = |component: &str, program: &Path, probe| {
            sandbox.spec(format!("{cluster}-{component}"), program, probe)
        };
        let healthy = |port, path| {
            Probe::Http(format!(
                "http://{}{path}",
                SocketAddr::new(sandbox.node, port)
            ))
        };
        let probe = Probe::Socket(sandbox.file(config::SOCKET));
        let start = spec("containerd", Path::new(PACKAGES[0].file), probe);
        let start = start.args([format!("--config={FOLDER}/containerd.toml")]);
        let containerd = Component::start(start, &logs)?;
        containerd.ready().await?;
        let pause = folder.path().join("pause.tar");
        image::single_binary(image::PAUSE, &programs.pause, &pause)?;
        import(&sandbox, &format!("{FOLDER}/pause.tar")).await?;

        let kubelet = spec(
            "kubelet",
            &programs.kubelet,
            healthy(config::KUBELET_HEALTH, "/healthz"),
        );
        let kubelet = Component::start(kubelet.args(files.kubelet_args(&sandbox)), &logs)?;
        let proxy = spec(
            "kube-proxy",
            &programs.kube_proxy,
            healthy(config::PROXY_HEALTH, "/healthz"),
        );
        let args = files.kube_proxy_args(&sandbox, &plane.ranges.pods());
        let kube_proxy = Component::start(proxy.args(args), &logs)?;
        let dns = spec(
            "coredns",
            &programs.coredns,
            healthy(config::DNS_HEALTH, "/ready"),
        );
        let dns = Component::start(dns.args([format!("-conf={FOLDER}/Corefile")]), &logs)?;
        try_join!(kubelet.ready(), kube_proxy.ready(), dns.ready())?;
        let node = Self {
            kube_proxy,
            dns,
            kubelet,
            containerd,
            forwards,
            sandbox,
            operator: OnceCell::new(),
            redis: OnceCell::new(),
            llama: OnceCell::new(),
            folder,
        };
        node.registered(client).await?;
        Ok(node)
    }

    async fn registered(&self, client: kube::Client) -> Result<()> {
        let ready = await_condition(Api::<Node>::all(client), NAME, |node: Option<&Node>| {
            node.is_some_and(is_ready)
        });
        match tokio::time::timeout(READY_WITHIN, ready).await {
            Ok(found) => found.map(drop).context("cannot watch the real node"),
            Err(_) => bail!(
                "the real node did not become Ready\n{}",
                self.kubelet.last_words()
            ),
        }
    }

    /// The node's name in the cluster.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// Where pods reach processes of this machine that listen on it, or on all addresses.
    pub fn host_address(&self) -> IpAddr {
        self.sandbox.host
    }

    /// Lets pods reach the server on `127.0.0.1:port` at the returned address, as long as the node lives.
    ///
    /// # Errors
    /// Something listens there already.
    pub fn forward(&self, port: u16) -> Result<SocketAddr> {
        let address = SocketAddr::new(self.sandbox.host, port);
        let mut forwards = self.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        if !forwards.iter().any(|(taken, _)| *taken == port) {
            forwards.push((port, Forward::start(address)?));
        }
        Ok(address)
    }

    /// Imports an OCI or docker-archive tar. Pods use it with `imagePullPolicy` IfNotPresent or Never.
    pub async fn import_image(&self, tar: &Path) -> Result<()> {
        let tar = std::path::absolute(tar)?;
        import(&self.sandbox, &tar.display().to_string()).await
    }

    /// Builds the operator as a static binary and imports it as [`image::OPERATOR`]; once.
    pub async fn import_operator(&self) -> Result<()> {
        let import = || {
            self.import_built("operator.tar", |tar| {
                image::build(&image::static_binary("persona-operator")?, tar)
            })
        };
        self.operator.get_or_try_init(import).await.copied()
    }

    /// Imports [`image::REDIS`]; once.
    pub async fn import_redis(&self) -> Result<()> {
        self.redis
            .get_or_try_init(|| self.import_built("redis.tar", image::redis))
            .await
            .copied()
    }

    /// Imports [`image::LLAMA`]; once.
    ///
    /// # Errors
    /// As of [`image::llama`], or containerd does not take it.
    pub async fn import_llama(&self) -> Result<()> {
        self.llama
            .get_or_try_init(|| self.import_built("llama.tar", image::llama))
            .await
            .copied()
    }

    async fn import_built(
        &self,
        name: &str,
        build: impl FnOnce(&Path) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let tar = self.folder.path().join(name);
        let path = tar.clone();
        tokio::task::spawn_blocking(move || build(&path)).await??;
        self.import_image(&tar).await?;
        Ok(fs::remove_file(&tar)?)
    }

    /// For tests that kill and restart it. Its containers live on.
    pub fn kubelet(&self) -> &Component {
        &self.kubelet
    }

    /// For tests that kill and restart it. Its containers live on.
    pub fn containerd(&self) -> &Component {
        &self.containerd
    }

    /// For tests that kill and restart it.
    pub fn kube_proxy(&self) -> &Component {
        &self.kube_proxy
    }

    /// The cluster DNS; for tests that kill and restart it.
    pub fn dns(&self) -> &Component {
        &self.dns
    }

    /// Kills a container's first process with SIGKILL. `id` is the `containerID` of a pod's status.
    ///
    /// # Errors
    /// There is no such container, or it does not run.
    pub async fn kill_container(&self, id: &str) -> Result<()> {
        let id = id.trim_start_matches("containerd://");
        let mut command = Command::from(self.sandbox.command("ctr"));
        command.args([
            "--namespace",
            "k8s.io",
            "tasks",
            "kill",
            "--signal",
            "SIGKILL",
            id,
        ]);
        run(command, &format!("kill container {id}")).await
    }

    /// A command that runs in the node's namespaces, such as `iptables-save` or `crictl`.
    pub fn command(&self, program: &str) -> std::process::Command {
        self.sandbox.command(program)
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// `path` is as the node sees it.
async fn import(sandbox: &Sandbox, path: &str) -> Result<()> {
    let mut command = Command::from(sandbox.command("ctr"));
    command.args(["--namespace", "k8s.io", "images", "import", path]);
    run(command, &format!("import {path}")).await
}

/// Runs ctr; `what` is for the error.
async fn run(mut ctr: Command, what: &str) -> Result<()> {
    let output = ctr
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run ctr")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("cannot {what}: {}", words.trim());
    }
    Ok(())
}

/// The node's programs that are built from Go modules.
struct Programs {
    kubelet: PathBuf,
    kube_proxy: PathBuf,
    coredns: PathBuf,
    pause: PathBuf,
}

impl Programs {
    async fn resolve() -> Result<Self> {
        Ok(Self {
            kubelet: Binary::Kubelet.resolve().await?,
            kube_proxy: Binary::KubeProxy.resolve().await?,
            coredns: Binary::Coredns.resolve().await?,
            pause: Binary::Pause.resolve().await?,
        })
    }
}

/// The node's configuration on disk.
struct Files {
    kubelet: PathBuf,
    kube_proxy: PathBuf,
}

impl Files {
    fn write(
        folder: &Path,
        plane: &ControlPlane,
        sandbox: &Sandbox,
        api: SocketAddr,
    ) -> Result<Self> {
        let authority = &plane.authority;
        let server = format!("https://{api}");
        let access = |file: &str, user: &str, group: &str| {
            let client = authority.client(&format!("node-{file}"), user, group)?;
            kubeconfig::write(
                &folder.join(format!("{file}.kubeconfig")),
                &server,
                authority.ca(),
                &client,
            )
        };
        let address = sandbox.node.to_string();
        let serving = authority.server("node-serving", NAME, &[address, NAME.to_owned()])?;
        let pods = plane.ranges.pods();
        let facts = Facts {
            address: sandbox.node,
            pods: &pods,
            cgroup: &sandbox.cgroup,
            client_ca: &authority.ca().cert,
            serving_cert: &serving.cert,
            serving_key: &serving.key,
        };
        fs::create_dir(folder.join("cni"))?;
        let dns = access("coredns", "testbed-dns", "system:masters")?;
        let files = [
            ("containerd.toml", config::containerd()),
            ("cni/pods.conflist", facts.cni().to_string()),
            ("kubelet.json", facts.kubelet().to_string()),
            ("Corefile", facts.corefile(&dns)),
        ];
        for (name, content) in files {
            certs::write(&folder.join(name), &content)?;
        }
        Ok(Self {
            kubelet: access("kubelet", &format!("system:node:{NAME}"), "system:nodes")?,
            kube_proxy: access("kube-proxy", "system:kube-proxy", "testbed")?,
        })
    }

    fn kubelet_args(&self, sandbox: &Sandbox) -> Vec<String> {
        vec![
            format!("--config={FOLDER}/kubelet.json"),
            format!("--kubeconfig={}", self.kubelet.display()),
            format!("--root-dir={FOLDER}/kubelet"),
            format!("--cert-dir={FOLDER}/kubelet/pki"),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={}", sandbox.node),
            format!("--node-labels={}={NAME}", kwok::NODE_KIND),
        ]
    }

    fn kube_proxy_args(&self, sandbox: &Sandbox, pods: &str) -> Vec<String> {
        let health = SocketAddr::new(sandbox.node, config::PROXY_HEALTH);
        vec![
            format!("--kubeconfig={}", self.kube_proxy.display()),
            format!("--hostname-override={NAME}"),
            "--proxy-mode=iptables".to_owned(),
            // Only the host's own namespace may set the size of the table.
            "--conntrack-max-per-core=0".to_owned(),
            format!("--cluster-cidr={pods}"),
            format!("--healthz-bind-address={health}"),
            "--metrics-bind-address=127.0.0.1:10249".to_owned(),
        ]
    }
}
