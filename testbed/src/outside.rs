//! Servers outside of the cluster under a name of its DNS.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

impl Cluster {
    /// Makes a Service whose one endpoint is the server at `address`, which pods can reach (see
    /// [`RealNode::forward`](crate::RealNode::forward)): `http://<name>.<namespace>.svc:<port>`.
    ///
    /// # Errors
    /// There is such a Service already, or the address is one of a loopback, which Kubernetes refuses.
    pub async fn serve_outside(
        &self,
        namespace: &str,
        name: &str,
        port: u16,
        address: SocketAddr,
    ) -> Result<()> {
        let client = self.client().await?;
        let service: Service = of(json!({
            "metadata": {"name": name},
            "spec": {"ports": [{"name": "http", "port": port, "targetPort": address.port()}]},
        }))?;
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let slice: EndpointSlice = of(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": family,
            "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
            "ports": [{"name": "http", "port": address.port()}],
        }))?;
        let params = PostParams::default();
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let made = services.create(&params, &service).await;
        made.with_context(|| format!("cannot make Service {name}"))?;
        let slices: Api<EndpointSlice> = Api::namespaced(client, namespace);
        let made = slices.create(&params, &slice).await;
        made.with_context(|| format!("cannot make the endpoint of Service {name}"))?;
        Ok(())
    }
}

fn of<K: serde::de::DeserializeOwned>(manifest: Value) -> Result<K> {
    Ok(serde_json::from_value(manifest)?)
}
