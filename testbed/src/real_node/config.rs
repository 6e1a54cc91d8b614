//! The configuration files of a real node's programs.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::image::PAUSE;

/// The domain of the cluster's DNS names.
pub const DOMAIN: &str = "cluster.local";

/// Where the node sees its folder on disk; see `init.sh`.
pub const FOLDER: &str = "/run/node";
/// The default of ctr.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// What the files need to know.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub address: IpAddr,
    pub pods: &'a str,
    pub cgroup: &'a str,
    pub client_ca: &'a Path,
    pub serving_cert: &'a Path,
    pub serving_key: &'a Path,
}

/// containerd 1.6, configuration version 2.
pub fn containerd() -> String {
    format!(
        r#"version = 2
root = "{FOLDER}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE runc could not lower a score below the one it runs with.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{FOLDER}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#
    )
}

impl Facts<'_> {
    /// A routed link for each pod and no bridge: Services then work between pods of the node, and from a
    /// pod to itself, without the kernel's bridge netfilter. Nothing is masqueraded: nothing leaves.
    pub fn cni(&self) -> Value {
        json!({
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": false,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/run/cni",
                        "ranges": [[{"subnet": self.pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}, "snat": false},
            ],
        })
    }

    pub fn kubelet(&self) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "address": self.address,
            "healthzBindAddress": self.address,
            "healthzPort": KUBELET_HEALTH,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.client_ca},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": self.serving_cert,
            "tlsPrivateKeyFile": self.serving_key,
            "podLogsDir": format!("{FOLDER}/pods"),
            "clusterDNS": [self.address],
            "clusterDomain": DOMAIN,
            "resolvConf": "",
            "maxPods": 250,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup),
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            // Images come by import and must not go because the machine's disk is rather full.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "50Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
            },
        })
    }

    /// CoreDNS without `forward`: names outside the cluster fail at once.
    pub fn corefile(&self, kubeconfig: &Path) -> String {
        format!(
            ".:53 {{
    bind {address}
    errors
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
    ready {address}:{DNS_HEALTH}
}}
",
            address = self.address,
            kubeconfig = kubeconfig.display(),
        )
    }
}

// Ports in the node's own network namespace: fixed, they cannot collide with another node's.
pub const KUBELET_HEALTH: u16 = 10248;
pub const PROXY_HEALTH: u16 = 10256;
pub const DNS_HEALTH: u16 = 8181;
