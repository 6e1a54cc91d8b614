//! One release on one real node for all tests of the binary; a namespace a test, and one test at a
//! time: the machine is small, and some of them measure time or kill the controller.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, Resource, ResourceExt};
use persona_operator::api::{Persona, WorkerPool};
use persona_operator::queue::stats::PoolStats;
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testbed::release::{self, Reach, run};
use testbed::{Chat, Cluster, RealNode, Release, ReleaseOptions, real_node_wanted};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use testbed::upstream::Upstream;

/// Longest wait for something that must happen, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// As kubectl takes it.
const PATIENCE_OF_KUBECTL: &str = "--timeout=120s";
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";

/// What a test has.
pub struct Stage {
    pub cluster: &'static Cluster,
    pub node: &'static RealNode,
    pub release: &'static Release,
    pub client: Client,
    pub chat: Chat,
    /// Lets only restricted pods in.
    pub namespace: String,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// A namespace for a test, when it is its turn; `None` where no real node is wanted.
    pub async fn enter(name: &str) -> Result<Option<Self>> {
        if !real_node_wanted() {
            return Ok(None);
        }
        let turn = turn().await;
        let cluster = Cluster::shared().await?;
        let node = cluster.join_real_node().await?;
        let release = shared().await?;
        Ok(Some(Self {
            cluster,
            node,
            release,
            client: cluster.client().await?,
            chat: Chat::new(release.url(), release.key())?,
            namespace: restricted_namespace(cluster, name).await?,
            _turn: turn,
        }))
    }

    /// Standard output of a kubectl in the namespace.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let args = [args, &["-n", &self.namespace]].concat();
        run(self.cluster.kubectl().await?, &args).await
    }

    /// `kubectl wait --for=condition=Ready`, on an object like `persona/helper` or on all of a kind.
    pub async fn wait_ready(&self, objects: &str) -> Result<()> {
        let mut args = vec![
            "wait",
            "--for=condition=Ready",
            objects,
            PATIENCE_OF_KUBECTL,
        ];
        if !objects.contains('/') {
            args.push("--all");
        }
        self.kubectl(&args).await.map(drop)
    }

    /// The objects of a kind in the namespace.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object from its manifest, without namespace.
    pub async fn create<K>(&self, manifest: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Serialize
            + Clone
            + Debug,
    {
        let object: K = serde_json::from_value(manifest)?;
        Ok(self.all().create(&PostParams::default(), &object).await?)
    }

    /// Where pods reach a model server of this process.
    pub fn endpoint(&self, model: &Upstream) -> Result<String> {
        let url = model.base_url();
        let port = url.trim_start_matches("http://127.0.0.1:");
        let port = port.trim_end_matches("/v1").parse()?;
        Ok(format!("http://{}/v1", self.node.forward(port)?))
    }

    /// A persona whose model is a server of this process; `more` is merged into its spec.
    pub async fn persona(&self, name: &str, endpoint: &str, more: Value) -> Result<Persona> {
        let mut spec = json!({
            "model": {"provider": "OpenAICompatible", "name": "scripted", "endpoint": endpoint},
            "timeout": "30s",
        });
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        self.create(manifest("Persona", name, spec)).await
    }

    /// A pool of one's own.
    pub async fn pool(&self, name: &str, spec: Value) -> Result<WorkerPool> {
        self.create(manifest("WorkerPool", name, spec)).await
    }

    /// Waits until an object is as wanted; otherwise says how it is.
    pub async fn until<K>(&self, name: &str, what: &str, is: impl Condition<K>) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Serialize
            + Clone
            + Debug
            + Send
            + 'static,
    {
        let waiting = await_condition(self.all::<K>(), name, is);
        if let Ok(found) = tokio::time::timeout(PATIENCE, waiting).await {
            return found?.with_context(|| format!("{name} is gone"));
        }
        let found: Option<K> = self.all().get_opt(name).await?;
        let log = self.release.log(self.cluster, "controller", 12).await?;
        Err(anyhow!(
            "{name} is not {what} after {PATIENCE:?}: {}\n{log}",
            serde_json::to_string_pretty(&found)?
        ))
    }

    /// The worker pods of the namespace that are not going.
    pub async fn workers(&self) -> Result<Vec<Pod>> {
        let labels = ListParams::default().labels("persona.dev/pool");
        let pods = self.all::<Pod>().list(&labels).await?.items.into_iter();
        Ok(pods
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect())
    }

    /// The name by which the gateway knows a persona of the namespace.
    pub fn model(&self, persona: &str) -> String {
        format!("{}/{persona}", self.namespace)
    }

    /// The text of a persona's whole answer.
    pub async fn answer(&self, persona: &str) -> Result<String> {
        self.chat.answer(&self.model(persona), "Hello").await
    }

    /// The namespace's queue, as its administrator sees it.
    pub async fn queue(&self) -> Result<NamespaceQueue> {
        let queue = queue(self.cluster, self.release).await?;
        Ok(queue.namespace(&self.namespace)?)
    }

    /// What the queue knows of a pool.
    pub async fn stats(&self, pool: &str) -> Result<PoolStats> {
        let queue = self.queue().await?;
        let pools = [(queue.clone(), pool.to_owned())];
        let stats = queue.queue().stats(&pools).await?.pop();
        Ok(stats.context("no such pool")??)
    }

    /// Lets pods in that are not restricted, too.
    pub async fn let_all_pods_in(&self) -> Result<()> {
        let label = RESTRICTED.replace("restricted", "privileged");
        let args = ["label", "--overwrite", "namespace", &self.namespace, &label];
        run(self.cluster.kubectl().await?, &args).await.map(drop)
    }

    /// Ends the test: the namespace goes, with all that it made.
    pub async fn leave(self) -> Result<()> {
        self.no_right_was_missing().await?;
        let args = ["delete", "namespace", &self.namespace, "--wait=false"];
        run(self.cluster.kubectl().await?, &args).await.map(drop)
    }

    async fn no_right_was_missing(&self) -> Result<()> {
        let log = self.release.log(self.cluster, "controller", 5000).await?;
        let missing = log
            .lines()
            .find(|line| line.to_lowercase().contains("forbidden"));
        // Whatever comes too late for a namespace that ends is refused by these words, too.
        ensure!(
            missing.is_none_or(|line| line.contains("being terminated")),
            "{missing:?}"
        );
        Ok(())
    }
}

/// Waits until no other test runs.
pub async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// An object of ours.
pub fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "persona.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// A file of `examples/`.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

/// A namespace that lets only restricted pods in.
pub async fn restricted_namespace(cluster: &Cluster, name: &str) -> Result<String> {
    let namespace = cluster.namespace(name).await?;
    let args = ["label", "namespace", &namespace, RESTRICTED];
    run(cluster.kubectl().await?, &args).await?;
    Ok(namespace)
}

/// Installs the chart, all of it with two replicas, in a restricted namespace.
pub async fn install(cluster: &Cluster) -> Result<Release> {
    let node = cluster.join_real_node().await?;
    futures::try_join!(node.import_operator(), node.import_redis())?;
    let namespace = restricted_namespace(cluster, "persona-system").await?;
    let options = ReleaseOptions {
        replicas: 2,
        reach: Reach::Service,
        ..ReleaseOptions::on_real_node(namespace)
    };
    Release::install(cluster, &options).await
}

async fn shared() -> Result<&'static Release> {
    static SHARED: OnceCell<Result<Release, String>> = OnceCell::const_new();
    let start = async || {
        let release = async { install(Cluster::shared().await?).await };
        release.await.map_err(|error| format!("{error:#}"))
    };
    let release = SHARED.get_or_init(start).await.as_ref();
    release.map_err(|error| anyhow!(error.clone()))
}

/// The release's queue, as its administrator sees it.
async fn queue(cluster: &Cluster, release: &Release) -> Result<Queue> {
    use k8s_openapi::api::core::v1::{Secret, Service};
    let name = format!("{}-redis", release::NAME);
    let client = cluster.client().await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), release.namespace());
    let password = secrets.get(&name).await?.data.unwrap_or_default();
    let password = password.get("password").context("Redis has no password")?;
    let services: Api<Service> = Api::namespaced(client, release.namespace());
    let address = services.get(&name).await?.spec.and_then(|s| s.cluster_ip);
    let url = format!("redis://{}:6379", address.context("Redis has no address")?);
    let password = Some(String::from_utf8(password.0.clone())?);
    Ok(Queue::connect(QueueOptions {
        password,
        ..QueueOptions::new(url)
    })?)
}

/// Repeats a look until it finds what is wanted.
pub async fn eventually<T>(what: &str, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(
            Instant::now() < deadline,
            "not seen in {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The id of a worker's container, for [`RealNode::kill_container`].
pub fn container(pod: &Pod) -> Result<String> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let status = statuses.and_then(|all| all.iter().find(|c| c.name == "worker"));
    let id = status.and_then(|status| status.container_id.clone());
    id.with_context(|| format!("{} has no container", pod.name_any()))
}
