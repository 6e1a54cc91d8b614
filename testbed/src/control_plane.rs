//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler with flags that are known to work.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use futures::try_join;

use crate::binaries::Binary;
use crate::certs::{self, Authority, Identity};
use crate::component::{Component, Spec};
use crate::kubeconfig;
use crate::net::{Port, Ranges};
use crate::options::Options;
use crate::probe::Probe;

/// Who did what to which object, once the answer is known; no bodies.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
";

/// The running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order in which they are dropped, so killed.
    pub scheduler: Component,
    pub controller_manager: Component,
    pub apiserver: Component,
    pub etcd: Component,
    /// Signs certificates of this cluster (kubelets, webhooks, other users).
    pub authority: Authority,
    /// What the API server shows to kubelets.
    pub kubelet_client: Identity,
    pub ranges: Ranges,
    pub advertise_address: IpAddr,
    pub service_range: String,
    pub admin_kubeconfig: PathBuf,
    pub audit_log: Option<PathBuf>,
    port: Port,
    _ports: [Port; 4],
}

/// What the parts of the start share.
struct Plan<'a> {
    name: &'a str,
    data: &'a Path,
    logs: &'a Path,
    options: &'a Options,
}

/// The certificates and keys of the components, by use.
struct Credentials {
    serving: Identity,
    kubelet_client: Identity,
    service_account: (PathBuf, PathBuf),
    controller_manager: PathBuf,
    scheduler: PathBuf,
    admin: PathBuf,
}

impl ControlPlane {
    /// Starts everything and waits until it is ready. `name` is a prefix for log files.
    pub async fn start(name: &str, data: &Path, logs: &Path, options: &Options) -> Result<Self> {
        let plan = Plan {
            name,
            data,
            logs,
            options,
        };
        let [etcd, apiserver, controller_manager, scheduler] = programs().await?;
        let ranges = Ranges::lease()?;
        let advertise_address = options.advertise_address.unwrap_or_else(|| ranges.node(1));
        let service_range = options
            .service_range
            .clone()
            .unwrap_or_else(|| ranges.services());
        let port = Port::free()?;
        let ports = [Port::free()?, Port::free()?, Port::free()?, Port::free()?];
        let [etcd_client, etcd_peer, controller_port, scheduler_port] =
            ports.each_ref().map(Port::number);
        let authority = Authority::create(&data.join("pki"))?;
        let sans = plan.sans(advertise_address, first_address(&service_range));
        let credentials = plan.credentials(&authority, &sans, port.number())?;

        if options.audit {
            certs::write(&plan.audit_policy(), AUDIT_POLICY)?;
        }
        let etcd = plan.launch(plan.etcd(etcd, etcd_client, etcd_peer))?;
        let spec = plan.apiserver(
            apiserver,
            &authority,
            &credentials,
            port.number(),
            etcd_client,
        );
        let apiserver = plan.launch(spec.args([
            format!("--advertise-address={advertise_address}"),
            range_flag(&service_range),
        ]))?;
        try_join!(etcd.ready(), apiserver.ready())?;
        // They give up when the API server does not answer soon, so not before it does.
        let spec = plan.controller_manager(
            controller_manager,
            &authority,
            &credentials,
            controller_port,
        );
        let controller_manager = plan.launch(spec.args([range_flag(&service_range)]))?;
        let scheduler = plan.launch(plan.scheduler(scheduler, &credentials, scheduler_port))?;
        try_join!(controller_manager.ready(), scheduler.ready())?;

        Ok(Self {
            scheduler,
            controller_manager,
            apiserver,
            etcd,
            authority,
            kubelet_client: credentials.kubelet_client,
            ranges,
            advertise_address,
            service_range,
            admin_kubeconfig: credentials.admin,
            audit_log: options.audit.then(|| plan.audit_log()),
            port,
            _ports: ports,
        })
    }

    /// The API server's port on every address it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Stops in the order of dependence. The API server is not waited for: with watchers connected it
    /// takes a minute to end by itself.
    pub async fn stop(&self) -> Result<()> {
        let grace = Duration::from_secs(3);
        try_join!(
            self.scheduler.stop(grace),
            self.controller_manager.stop(grace)
        )?;
        self.apiserver.stop(Duration::from_millis(500)).await?;
        self.etcd.stop(grace).await?;
        Ok(())
    }
}

impl Plan<'_> {
    fn launch(&self, spec: Spec) -> Result<Component> {
        Component::start(spec, self.logs)
    }

    fn audit_log(&self) -> PathBuf {
        self.logs.join(format!("{}-audit.log", self.name))
    }

    fn audit_policy(&self) -> PathBuf {
        self.data.join("audit-policy.yaml")
    }

    fn sans(&self, advertise: IpAddr, first_service: Option<Ipv4Addr>) -> Vec<String> {
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let addresses = [
            Some(Ipv4Addr::LOCALHOST.into()),
            Some(advertise),
            first_service.map(IpAddr::from),
        ];
        let mut sans: Vec<String> = names.map(String::from).to_vec();
        sans.extend(
            addresses
                .into_iter()
                .flatten()
                .map(|address| address.to_string()),
        );
        sans.extend(self.options.extra_sans.iter().cloned());
        sans
    }

    /// Where clients on this machine find the API server.
    fn server(&self, port: u16) -> String {
        let bind = self.options.bind_address;
        let host = if bind.is_unspecified() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            bind
        };
        format!("https://{host}:{port}")
    }

    fn credentials(
        &self,
        authority: &Authority,
        sans: &[String],
        port: u16,
    ) -> Result<Credentials> {
        let config = |file: &str, user: &str, group: &str| -> Result<PathBuf> {
            let client = authority.client(file, user, group)?;
            kubeconfig::write(
                &self.data.join(format!("{file}.kubeconfig")),
                &self.server(port),
                authority.ca(),
                &client,
            )
        };
        Ok(Credentials {
            serving: authority.server("apiserver", "kube-apiserver", sans)?,
            kubelet_client: authority.client(
                "kubelet-client",
                "kube-apiserver-kubelet-client",
                "system:masters",
            )?,
            service_account: authority.service_account_keys()?,
            controller_manager: config(
                "controller-manager",
                "system:kube-controller-manager",
                "testbed",
            )?,
            scheduler: config("scheduler", "system:kube-scheduler", "testbed")?,
            admin: config("admin", "testbed-admin", "system:masters")?,
        })
    }

    fn spec(&self, component: &str, program: PathBuf, probe: Probe) -> Spec {
        Spec::new(format!("{}-{component}", self.name), program, probe)
    }

    fn etcd(&self, program: PathBuf, client: u16, peer: u16) -> Spec {
        let probe = Probe::Http(format!("http://127.0.0.1:{client}/readyz"));
        let args = [
            "--name=default".to_owned(),
            format!("--data-dir={}", self.data.join("etcd").display()),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
            "--log-level=warn".to_owned(),
        ];
        let spec = self.spec("etcd", program, probe).args(args);
        if self.options.durable {
            spec
        } else {
            spec.args(["--unsafe-no-fsync"])
        }
    }

    fn apiserver(
        &self,
        program: PathBuf,
        authority: &Authority,
        tls: &Credentials,
        port: u16,
        etcd: u16,
    ) -> Spec {
        let probe = Probe::Http(format!("{}/readyz?verbose", self.server(port)));
        let (sa_public, sa_private) = &tls.service_account;
        let ca = authority.ca();
        let args = [
            format!("--etcd-servers=http://127.0.0.1:{etcd}"),
            format!("--bind-address={}", self.options.bind_address),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", tls.serving.cert.display()),
            format!("--tls-private-key-file={}", tls.serving.key.display()),
            format!("--client-ca-file={}", ca.cert.display()),
            format!("--kubelet-certificate-authority={}", ca.cert.display()),
            format!(
                "--kubelet-client-certificate={}",
                tls.kubelet_client.cert.display()
            ),
            format!("--kubelet-client-key={}", tls.kubelet_client.key.display()),
            // Otherwise logs and exec look the node's name up in DNS.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--service-account-key-file={}", sa_public.display()),
            format!(
                "--service-account-signing-key-file={}",
                sa_private.display()
            ),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.spec("kube-apiserver", program, probe)
            .args(args)
            .args(self.audit_args())
            .args(&self.options.apiserver_args)
    }

    fn audit_args(&self) -> Vec<String> {
        if !self.options.audit {
            return Vec::new();
        }
        vec![
            format!("--audit-log-path={}", self.audit_log().display()),
            format!("--audit-policy-file={}", self.audit_policy().display()),
            "--audit-log-mode=blocking".to_owned(),
        ]
    }

    fn controller_manager(
        &self,
        program: PathBuf,
        authority: &Authority,
        tls: &Credentials,
        port: u16,
    ) -> Spec {
        let probe = Probe::Http(format!("https://127.0.0.1:{port}/healthz"));
        let ca = authority.ca();
        let args = [
            format!("--kubeconfig={}", tls.controller_manager.display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!("--cluster-signing-cert-file={}", ca.cert.display()),
            format!("--cluster-signing-key-file={}", ca.key.display()),
            format!("--root-ca-file={}", ca.cert.display()),
            format!(
                "--service-account-private-key-file={}",
                tls.service_account.1.display()
            ),
            // Our CNI hands out pod addresses by itself.
            "--allocate-node-cidrs=false".to_owned(),
            // The default of 20 requests a second delays its own start, and so nodes and namespaces, by 4 s.
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.spec("kube-controller-manager", program, probe)
            .args(args)
            .args(&self.options.controller_manager_args)
    }

    fn scheduler(&self, program: PathBuf, tls: &Credentials, port: u16) -> Spec {
        let probe = Probe::Http(format!("https://127.0.0.1:{port}/healthz"));
        let args = [
            format!("--kubeconfig={}", tls.scheduler.display()),
            format!("--authentication-kubeconfig={}", tls.scheduler.display()),
            format!("--authorization-kubeconfig={}", tls.scheduler.display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.spec("kube-scheduler", program, probe)
            .args(args)
            .args(&self.options.scheduler_args)
    }
}

/// One after the other, because building several at once is no faster.
async fn programs() -> Result<[PathBuf; 4]> {
    Ok([
        Binary::Etcd.resolve().await?,
        Binary::KubeApiserver.resolve().await?,
        Binary::KubeControllerManager.resolve().await?,
        Binary::KubeScheduler.resolve().await?,
    ])
}

fn range_flag(range: &str) -> String {
    format!("--service-cluster-ip-range={range}")
}

/// The first usable address of an IPv4 CIDR: the cluster IP of the `kubernetes` Service.
fn first_address(range: &str) -> Option<Ipv4Addr> {
    let network: Ipv4Addr = range.split_once('/')?.0.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(network) + 1))
}
