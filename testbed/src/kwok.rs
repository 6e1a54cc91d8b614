//! Fake nodes: Node objects whose pods KWOK declares running. For scheduling, scale and GPUs this
//! machine does not have; nothing runs on them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};

use crate::binaries::Binary;
use crate::certs;
use crate::component::{Component, Spec};
use crate::net::Port;
use crate::probe::Probe;

/// Label on every node the testbed makes, and key of the taint that keeps other pods off: the value is
/// the kind of node.
pub const NODE_KIND: &str = "testbed.persona.dev/node";
/// The [`NODE_KIND`] of fake nodes.
pub const FAKE: &str = "fake";

const STAGES: &str = include_str!("../kwok-stages.yaml");
const LEASE_SECONDS: u32 = 40;
const PODS: &str = "250";

/// GPU nodes one finds in the field, dealt out in turn. Memory is what the driver reports, which is
/// less than the name says: 24 GB are 23034 MiB, 80 GB 81559 MiB.
const GPU_NODES: [(&str, &str, u32, u32); 5] = [
    ("l4", "NVIDIA-L4", 23_034, 4),
    ("a100", "NVIDIA-A100-SXM4-80GB", 81_920, 8),
    ("h100", "NVIDIA-H100-80GB-HBM3", 81_559, 8),
    ("l40s", "NVIDIA-L40S", 46_068, 8),
    ("t4", "Tesla-T4", 15_360, 4),
];

/// A node to fake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeNode {
    pub name: String,
    pub cpu: String,
    pub memory: String,
    pub gpu: Option<FakeGpu>,
    /// Extended resources besides those GPUs, like slices of one or another maker's, with their numbers.
    pub devices: BTreeMap<String, u32>,
    /// Besides those every node has and those of its GPUs.
    pub labels: BTreeMap<String, String>,
}

/// The GPUs of a fake node, as NVIDIA's feature discovery labels them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeGpu {
    /// `nvidia.com/gpu.product`
    pub product: String,
    /// `nvidia.com/gpu.memory`, of one GPU
    pub memory_mib: u32,
    /// `nvidia.com/gpu.count`
    pub count: u32,
}

impl FakeNode {
    /// A node without GPUs: 16 cores, 64 GiB.
    pub fn cpu(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cpu: "16".into(),
            memory: "64Gi".into(),
            gpu: None,
            devices: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// A node with GPUs: 96 cores, 768 GiB.
    pub fn gpu(
        name: impl Into<String>,
        product: impl Into<String>,
        memory_mib: u32,
        count: u32,
    ) -> Self {
        let gpu = FakeGpu {
            product: product.into(),
            memory_mib,
            count,
        };
        Self {
            cpu: "96".into(),
            memory: "768Gi".into(),
            gpu: Some(gpu),
            ..Self::cpu(name)
        }
    }

    /// `cpu` nodes without and `gpu` nodes with GPUs, always the same ones for the same numbers.
    pub fn fleet(cpu: usize, gpu: usize) -> Vec<Self> {
        let cpu_nodes = (0..cpu).map(|index| Self::cpu(format!("fake-cpu-{index}")));
        let gpu_nodes = (0..gpu).map(|index| {
            let (short, product, memory_mib, count) = GPU_NODES[index % GPU_NODES.len()];
            Self::gpu(
                format!("fake-gpu-{short}-{index}"),
                product,
                memory_mib,
                count,
            )
        });
        cpu_nodes.chain(gpu_nodes).collect()
    }

    /// The object as it is created. `zone` is a number that is spread over three zones.
    fn object(&self, zone: usize, taint: bool) -> Node {
        let zone = ["zone-a", "zone-b", "zone-c"][zone % 3];
        let mut labels = BTreeMap::from(
            [
                (NODE_KIND, FAKE),
                ("kubernetes.io/hostname", &self.name),
                ("kubernetes.io/os", "linux"),
                ("kubernetes.io/arch", "amd64"),
                ("topology.kubernetes.io/zone", zone),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let mut resources = BTreeMap::from(
            [
                ("cpu", self.cpu.as_str()),
                ("memory", &self.memory),
                ("pods", PODS),
            ]
            .map(|(key, value)| (key.to_owned(), Quantity(value.to_owned()))),
        );
        let mut taints = Vec::new();
        if taint {
            taints.push(no_schedule(NODE_KIND, FAKE));
        }
        if let Some(gpu) = &self.gpu {
            labels.extend([
                ("nvidia.com/gpu.product".to_owned(), gpu.product.clone()),
                (
                    "nvidia.com/gpu.memory".to_owned(),
                    gpu.memory_mib.to_string(),
                ),
                ("nvidia.com/gpu.count".to_owned(), gpu.count.to_string()),
                ("nvidia.com/gpu.present".to_owned(), "true".to_owned()),
            ]);
            resources.insert("nvidia.com/gpu".to_owned(), Quantity(gpu.count.to_string()));
            taints.push(no_schedule("nvidia.com/gpu", "present"));
        }
        for (name, count) in &self.devices {
            resources.insert(name.clone(), Quantity(count.to_string()));
            // Nodes are tainted by their kind of GPU, whatever its slices are called.
            let slice = name.starts_with("nvidia.com/");
            let key = if slice { "nvidia.com/gpu" } else { name };
            taints.push(no_schedule(key, "present"));
        }
        labels.extend(self.labels.clone());
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: Some(taints),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                capacity: Some(resources.clone()),
                allocatable: Some(resources),
                ..NodeStatus::default()
            }),
        }
    }
}

fn no_schedule(key: &str, value: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()),
        effect: "NoSchedule".to_owned(),
        time_added: None,
    }
}

/// Starts KWOK for the nodes labelled as fake, and for no others.
pub(crate) async fn start(
    name: &str,
    data: &Path,
    logs: &Path,
    kubeconfig: &Path,
) -> Result<(Component, Port)> {
    let program = Binary::Kwok.resolve().await?;
    let port = Port::free()?;
    let stages = certs::write(&data.join("kwok.yaml"), STAGES)?;
    let probe = Probe::Http(format!("http://127.0.0.1:{}/healthz", port.number()));
    let spec = Spec::new(format!("{name}-kwok"), program, probe).args([
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--config={}", stages.display()),
        format!("--manage-nodes-with-label-selector={NODE_KIND}={FAKE}"),
        format!("--node-lease-duration-seconds={LEASE_SECONDS}"),
        format!("--server-address=127.0.0.1:{}", port.number()),
    ]);
    let kwok = Component::start(spec, logs)?;
    kwok.ready().await?;
    Ok((kwok, port))
}

/// Creates the nodes that are not there yet and waits until all are Ready.
pub(crate) async fn create(client: kube::Client, nodes: &[FakeNode], taint: bool) -> Result<()> {
    let api: Api<Node> = Api::all(client);
    for (index, node) in nodes.iter().enumerate() {
        match api
            .create(&PostParams::default(), &node.object(index, taint))
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", node.name));
            }
        }
    }
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    tokio::time::timeout(Duration::from_secs(120), all_ready(api, &names))
        .await
        .context("the fake nodes did not become Ready; see kwok's log")
}

async fn all_ready(api: Api<Node>, names: &[&str]) {
    let config = watcher::Config::default().labels(&format!("{NODE_KIND}={FAKE}"));
    let mut nodes = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
    let mut waiting: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    while !waiting.is_empty() {
        // Watch errors are retried by the watcher; the caller's deadline ends this.
        if let Some(Ok(node)) = nodes.next().await
            && is_ready(&node)
        {
            waiting.remove(node.metadata.name.as_deref().unwrap_or_default());
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_is_the_same_every_time_and_grows_at_its_end() {
        let small = FakeNode::fleet(2, 3);
        let large = FakeNode::fleet(2, 7);
        assert_eq!(small, large[..5]);
        let names: std::collections::BTreeSet<&str> =
            large.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names.len(), 9);
    }

    #[test]
    fn gpu_node_has_the_labels_the_resource_and_the_taint_of_a_real_one() {
        let node = FakeNode::gpu("g", "NVIDIA-L4", 23_034, 4).object(0, false);
        let labels = node.metadata.labels.unwrap();
        assert_eq!(labels["nvidia.com/gpu.memory"], "23034");
        assert_eq!(labels["nvidia.com/gpu.product"], "NVIDIA-L4");
        assert_eq!(labels["nvidia.com/gpu.count"], "4");
        let allocatable = node.status.unwrap().allocatable.unwrap();
        assert_eq!(allocatable["nvidia.com/gpu"].0, "4");
        let taints = node.spec.unwrap().taints.unwrap();
        assert_eq!(
            taints
                .iter()
                .map(|taint| taint.key.as_str())
                .collect::<Vec<_>>(),
            ["nvidia.com/gpu"]
        );
    }
}
