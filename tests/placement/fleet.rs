//! A mixed fleet of fake nodes, and pods on them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::{await_condition, conditions::is_deleted};
use kube::{Api, ResourceExt};
use persona_operator::api::{Placement, Span, WorkerPool, WorkerPoolSpec};
use persona_operator::controller::pool::server::Serving;
use persona_operator::controller::pool::template::{Setup, template};
use serde_json::{Value, json};
use testbed::{Cluster, FakeNode};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::devices;

const PATIENCE: Duration = Duration::from_secs(60);

/// The nodes that all tests share; MiB as nvidia-smi reports them.
fn nodes() -> Vec<FakeNode> {
    let nvidia = |name: &str, product: &str, mib, count| FakeNode::gpu(name, product, mib, count);
    vec![
        FakeNode::cpu("cpu-a"),
        FakeNode::cpu("cpu-b"),
        nvidia("l4", "NVIDIA-L4", 23_034, 4),
        nvidia("a10", "NVIDIA-A10", 23_028, 1),
        nvidia("a100-40", "NVIDIA-A100-SXM4-40GB", 40_960, 8),
        nvidia("a100-80", "NVIDIA-A100-SXM4-80GB", 81_920, 8),
        nvidia("h100", "NVIDIA-H100-80GB-HBM3", 81_559, 8),
        nvidia("h200", "NVIDIA-H200", 143_771, 8),
        labelled(
            "mig",
            ("nvidia.com/mig-3g.20gb", 2),
            &[
                // As feature discovery labels a node with the strategy `mixed`.
                ("nvidia.com/mig.strategy", "mixed"),
                ("nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB"),
                ("nvidia.com/gpu.memory", "40960"),
                ("nvidia.com/mig-3g.20gb.count", "2"),
                ("nvidia.com/mig-3g.20gb.memory", "20096"),
                (
                    "nvidia.com/mig-3g.20gb.product",
                    "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb",
                ),
            ],
        ),
        labelled(
            "mi300x",
            ("amd.com/gpu", 8),
            &[
                ("amd.com/gpu.vram", "191G"),
                ("amd.com/gpu.product-name", "AMD_Instinct_MI300X_OAM"),
            ],
        ),
        labelled(
            "max1100",
            ("gpu.intel.com/i915", 4),
            &[("gpu.intel.com/product", "Max_1100")],
        ),
        // Its GPUs are devices of a ResourceSlice. Without a taint: only preference keeps pods off.
        FakeNode {
            labels: labels(&[("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3")]),
            ..FakeNode::cpu("dra")
        },
    ]
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn labelled(name: &str, (resource, count): (&str, u32), pairs: &[(&str, &str)]) -> FakeNode {
    FakeNode {
        devices: BTreeMap::from([(resource.to_owned(), count)]),
        labels: labels(pairs),
        ..FakeNode::cpu(name)
    }
}

/// Waits until pods are let onto all nodes: the taint of a node that is not ready goes some time after
/// it is, and until then the scheduler takes the next best.
async fn open(cluster: &Cluster) -> Result<()> {
    let all: Api<Node> = Api::all(cluster.client().await?);
    for node in nodes() {
        let is_open = |found: Option<&Node>| {
            let spec = found.and_then(|node| node.spec.as_ref());
            spec.is_some_and(|spec| {
                let mut taints = spec.taints.iter().flatten();
                !taints.any(|taint| taint.key.starts_with("node.kubernetes.io/"))
            })
        };
        let opened = await_condition(all.clone(), &node.name, is_open);
        tokio::time::timeout(PATIENCE, opened)
            .await
            .with_context(|| format!("node {} takes no pods", node.name))??;
    }
    Ok(())
}

/// A namespace on the cluster with the fleet, and the only one at a time: pods take GPUs from each other.
pub struct Fleet {
    pub cluster: &'static Cluster,
    pods: Api<Pod>,
    claims: Api<ResourceClaimTemplate>,
    namespace: String,
    _turn: MutexGuard<'static, ()>,
}

/// Where a pod is, or why it is nowhere.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    Node(String),
    Nowhere(String),
}

impl Fleet {
    pub async fn join() -> Result<Self> {
        static TURN: Mutex<()> = Mutex::const_new(());
        static READY: OnceCell<Result<(), String>> = OnceCell::const_new();
        let turn = TURN.lock().await;
        let cluster = Cluster::shared().await?;
        let prepare = async || {
            let prepared = async {
                cluster.add_fake_nodes(&nodes()).await?;
                open(cluster).await?;
                devices::publish(cluster.client().await?, "dra").await
            };
            prepared.await.map_err(|error| format!("{error:#}"))
        };
        let ready = READY.get_or_init(prepare).await;
        ready.clone().map_err(|error| anyhow!(error))?;
        let namespace = cluster.namespace("placement").await?;
        let client = cluster.client().await?;
        Ok(Self {
            cluster,
            pods: Api::namespaced(client.clone(), &namespace),
            claims: Api::namespaced(client, &namespace),
            namespace,
            _turn: turn,
        })
    }

    /// Makes a pod as a pool of this placement has it.
    pub async fn pod(&self, name: &str, placement: Placement) -> Result<()> {
        let spec = WorkerPoolSpec {
            placement,
            ..WorkerPoolSpec::default()
        };
        self.worker(name, spec, None).await
    }

    /// Makes a pod as this pool has it, with what runs beside its worker.
    pub async fn worker(
        &self,
        name: &str,
        spec: WorkerPoolSpec,
        serving: Option<&Serving>,
    ) -> Result<()> {
        let tolerate = json!([{"key": "testbed.persona.dev/node", "operator": "Exists"}]);
        let template_of_pods = serde_json::from_value(json!({"tolerations": tolerate}))?;
        let spec = WorkerPoolSpec {
            template: Some(template_of_pods),
            ..spec
        };
        let mut pool = WorkerPool::new(name, spec);
        pool.metadata.namespace = Some(self.namespace.clone());
        let made = template(
            &pool,
            &Setup {
                image: "persona.test/persona-operator:dev",
                pull_policy: "IfNotPresent",
                queue_url: "redis://redis:6379",
                queue_prefix: "persona",
                credentials: &std::collections::BTreeSet::new(),
                serving,
                drain_timeout: Span::secs(0),
            },
        );
        if let Some(claims) = &made.claims {
            self.claims.create(&PostParams::default(), claims).await?;
        }
        let pod = made.named(name);
        self.pods.create(&PostParams::default(), &pod).await?;
        Ok(())
    }

    /// A claim of model files, bound to a volume: pods that mount one that is not there are not scheduled.
    pub async fn claim(&self, name: &str) -> Result<()> {
        let client = self.cluster.client().await?;
        let (volumes, claims) = (
            Api::<PersistentVolume>::all(client.clone()),
            Api::<PersistentVolumeClaim>::namespaced(client, &self.namespace),
        );
        let of_volume = format!("{}-{name}", self.namespace);
        let volume = serde_json::from_value(json!({
            "metadata": {"name": of_volume},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"],
                "storageClassName": "", "hostPath": {"path": "/nowhere"},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }))?;
        volumes.create(&PostParams::default(), &volume).await?;
        let claim = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": of_volume,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }))?;
        claims.create(&PostParams::default(), &claim).await?;
        let bound = |claim: Option<&PersistentVolumeClaim>| {
            let phase = claim.and_then(|claim| claim.status.as_ref()?.phase.as_deref());
            phase == Some("Bound")
        };
        let bound = await_condition(claims, name, bound);
        tokio::time::timeout(PATIENCE, bound)
            .await
            .with_context(|| format!("claim {name} is not bound"))??;
        Ok(())
    }

    /// What the scheduler decides on a pod first.
    pub async fn place(&self, name: &str) -> Result<Place> {
        let decided = |pod: Option<&Pod>| pod.is_some_and(|pod| place_of(pod).is_some());
        let decided = await_condition(self.pods.clone(), name, decided);
        let pod = tokio::time::timeout(PATIENCE, decided).await;
        let pod = pod.with_context(|| format!("nothing was decided on {name}"))??;
        pod.as_ref().and_then(place_of).context("the pod is gone")
    }

    /// The node that a pod is on, when it is on one.
    pub async fn node(&self, name: &str) -> Result<String> {
        let bound = |pod: Option<&Pod>| pod.is_some_and(|pod| node_of(pod).is_some());
        let bound = await_condition(self.pods.clone(), name, bound);
        let pod = tokio::time::timeout(PATIENCE, bound).await;
        let pod = pod.with_context(|| format!("{name} got no node"))??;
        pod.as_ref().and_then(node_of).context("the pod is gone")
    }

    /// The arguments of a pod's model server.
    pub async fn server_args(&self, name: &str) -> Result<String> {
        let pod = self.pods.get(name).await?;
        let servers = pod.spec.and_then(|spec| spec.init_containers);
        let server = servers.and_then(|servers| servers.into_iter().next());
        let args = server.and_then(|server| server.args).unwrap_or_default();
        Ok(args.join(" "))
    }

    /// Frees what a pod has.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let Some(pod) = self.pods.get_opt(name).await? else {
            return Ok(());
        };
        let uid = pod.metadata.uid.unwrap_or_default();
        self.pods
            .delete(name, &DeleteParams::default().grace_period(0))
            .await?;
        let gone = await_condition(self.pods.clone(), name, is_deleted(&uid));
        tokio::time::timeout(PATIENCE, gone).await??;
        if pod.spec.is_some_and(|spec| spec.resource_claims.is_some()) {
            self.free(&uid).await?;
        }
        Ok(())
    }

    /// Waits until the devices of a pod that is gone are free: its claims go some time after it.
    async fn free(&self, pod: &str) -> Result<()> {
        let claims: Api<ResourceClaim> =
            Api::namespaced(self.cluster.client().await?, &self.namespace);
        let all = claims.list(&ListParams::default()).await?;
        for claim in all {
            if claim
                .owner_references()
                .iter()
                .any(|owner| owner.uid == pod)
            {
                let (name, uid) = (claim.name_any(), claim.uid().unwrap_or_default());
                let gone = await_condition(claims.clone(), &name, is_deleted(&uid));
                let gone = tokio::time::timeout(PATIENCE, gone).await;
                gone.with_context(|| format!("claim {name} stays"))??;
            }
        }
        Ok(())
    }

    /// Makes a pod, notes its place and removes it.
    pub async fn tried(&self, name: &str, placement: Placement) -> Result<Place> {
        self.pod(name, placement).await?;
        let place = self.place(name).await?;
        self.remove(name).await?;
        Ok(place)
    }
}

/// A placement from the field of a manifest.
pub fn placement(spec: Value) -> Result<Placement> {
    Ok(serde_json::from_value(spec)?)
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn place_of(pod: &Pod) -> Option<Place> {
    if let Some(node) = node_of(pod) {
        return Some(Place::Node(node));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let verdict = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))?;
    Some(Place::Nowhere(verdict.message.clone().unwrap_or_default()))
}
