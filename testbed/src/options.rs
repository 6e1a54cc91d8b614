//! What may differ between clusters.

use std::net::{IpAddr, Ipv4Addr};

/// How `Cluster::start` brings up a cluster; the default is a control plane on loopback.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the API server listens. A real node's pods need an address other than loopback.
    pub bind_address: IpAddr,
    /// What the `kubernetes` Service points at; unset: the address of node 1 of the cluster's range.
    pub advertise_address: Option<IpAddr>,
    /// Cluster IPs of Services (CIDR); unset: a range no other testbed has.
    pub service_range: Option<String>,
    /// More names and addresses for the API server's certificate.
    pub extra_sans: Vec<String>,
    /// Write every request to an audit log, see `Cluster::audit_log`.
    pub audit: bool,
    /// fsync in etcd: slower, but a killed etcd keeps what it acknowledged.
    pub durable: bool,
    /// Taint fake nodes, so that only pods that tolerate it land there: for clusters that have other nodes too.
    pub taint_fake_nodes: bool,
    pub apiserver_args: Vec<String>,
    pub controller_manager_args: Vec<String>,
    pub scheduler_args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind_address: Ipv4Addr::LOCALHOST.into(),
            advertise_address: None,
            service_range: None,
            extra_sans: Vec::new(),
            audit: false,
            durable: false,
            taint_fake_nodes: false,
            apiserver_args: Vec::new(),
            controller_manager_args: Vec::new(),
            scheduler_args: Vec::new(),
        }
    }
}
