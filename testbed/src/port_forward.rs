//! `kubectl port-forward` as a child that ends with us.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;

use crate::binaries::Binary;
use crate::cluster::Cluster;
use crate::component::{Component, Spec};
use crate::net::Port;
use crate::probe::Probe;
use crate::run_dir::RunDir;

/// A port of this machine that leads to a server in the cluster, until it is dropped.
#[derive(Debug)]
pub struct PortForward {
    _component: Component,
    port: Port,
}

impl PortForward {
    /// Forwards to a port of `target`, like `service/gateway`, and waits until `path` answers there.
    ///
    /// # Errors
    /// kubectl cannot reach it; what it said.
    pub async fn start(
        cluster: &Cluster,
        namespace: &str,
        target: &str,
        port: u16,
        path: &str,
    ) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("port-forward{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let local = Port::free()?;
        let url = format!("http://127.0.0.1:{}{path}", local.number());
        let spec = Spec::new(name, Binary::Kubectl.resolve().await?, Probe::Http(url))
            .args(["port-forward", "-n", namespace, target])
            .args([format!("{}:{port}", local.number())])
            .env("KUBECONFIG", cluster.kubeconfig());
        let component = Component::start(spec, &RunDir::current()?.logs())?;
        component.ready().await?;
        Ok(Self {
            _component: component,
            port: local,
        })
    }

    /// Where it leads from, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }
}
