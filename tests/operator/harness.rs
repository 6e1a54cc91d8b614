//! The operator as its users have it: controller and gateway as processes, workers as pods of a
//! process node, on a real API server and a real Redis; a namespace, a queue prefix and a lease a test.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, Resource, ResourceExt};
use persona_operator::api::{Persona, PersonaTopology, WorkerPool, crds};
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use testbed::component::{Component, Spec};
use testbed::net::Port;
use testbed::probe::Probe;
use testbed::run_dir::RunDir;
use testbed::{Chat, Cluster, ProcessNode, ProcessNodeOptions, Redis, RedisOptions};
use tokio::sync::OnceCell;

/// Longest wait for something that must happen, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const IMAGE: &str = "persona.test/persona-operator:dev";
const API_KEY: &str = "test-key";

/// The program: Cargo tells tests where it is; an example finds it in the folder above its own.
fn program() -> PathBuf {
    if let Some(program) = option_env!("CARGO_BIN_EXE_persona-operator") {
        return program.into();
    }
    let mut folder = std::env::current_exe().unwrap_or_default();
    folder.pop();
    folder.pop();
    folder.join("persona-operator")
}

/// The operator in a namespace of its own.
#[derive(Clone)]
pub struct Operator {
    pub client: Client,
    pub namespace: String,
    pub redis: Arc<Redis>,
    pub controller: Arc<Component>,
    gateway: Arc<Component>,
    gateway_port: Arc<Port>,
    _files: Arc<TempDir>,
    controller_port: Arc<Port>,
    http: reqwest::Client,
}

/// Where an operator runs, and what it watches.
pub struct Ground<'a> {
    pub cluster: &'a Cluster,
    pub redis: Redis,
    /// It watches all namespaces, which only a cluster of its own allows.
    pub everywhere: bool,
    /// More settings of the controller.
    pub settings: &'a [(&'a str, &'a str)],
}

/// A Redis that keeps what it is given.
pub async fn a_redis() -> Result<Redis> {
    Redis::start(RedisOptions {
        append_only: true,
        config: vec!["maxmemory-policy noeviction".into()],
        ..RedisOptions::default()
    })
    .await
}

impl Operator {
    /// Starts all of it, with a Redis of its own.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, &[]).await
    }

    /// As [`Self::start`], with more settings of the controller.
    pub async fn start_with(name: &str, settings: &[(&str, &str)]) -> Result<Self> {
        node().await?;
        Self::start_in(Cluster::shared().await?, name, settings).await
    }

    /// As [`Self::start_with`], in a cluster that has nodes of its own.
    pub async fn start_in(
        cluster: &Cluster,
        name: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let ground = Ground {
            cluster,
            redis: a_redis().await?,
            everywhere: false,
            settings,
        };
        Self::start_on(name, ground).await
    }

    /// As [`Self::start_with`], on this ground.
    pub async fn start_on(name: &str, ground: Ground<'_>) -> Result<Self> {
        let Ground {
            cluster,
            redis,
            everywhere,
            settings,
        } = ground;
        testbed::install_crypto();
        let client = cluster.client().await?;
        install_crds(&client).await?;
        let namespace = cluster.namespace(name).await?;
        let files = tempfile::tempdir()?;
        std::fs::write(files.path().join("master-key"), "a master key for tests")?;
        std::fs::write(files.path().join("redis-password"), redis.password())?;
        let keys = files.path().join("keys");
        std::fs::create_dir(&keys)?;
        let hash = hex::encode(Sha256::digest(API_KEY));
        let scope = if everywhere { "\"*\"" } else { &namespace };
        std::fs::write(
            keys.join("tester"),
            format!("hash: sha256:{hash}\nnamespaces: [{scope}]\n"),
        )?;
        let (controller_port, gateway_port) = (Port::free()?, Port::free()?);
        let logs = RunDir::current()?.logs();
        let files_of = |file: &str| files.path().join(file).into_os_string();
        let queue_url = format!("redis://127.0.0.1:{}", redis.port());
        let shared = |spec: Spec, port: u16| {
            spec.env("PERSONA_LISTEN", format!("127.0.0.1:{port}"))
                .env("PERSONA_QUEUE_URL", &queue_url)
                .env("PERSONA_MASTER_KEY_FILE", files_of("master-key"))
                .env("PERSONA_LOG", "info,persona_operator=debug")
        };
        let ready = |port: u16| Probe::Http(format!("http://127.0.0.1:{port}/readyz"));
        let port = controller_port.number();
        let mut spec = shared(
            Spec::new(format!("{namespace}-controller"), program(), ready(port)),
            port,
        )
        .args(["controller"])
        .env("KUBECONFIG", cluster.kubeconfig())
        .env(
            "PERSONA_QUEUE_ADMIN_PASSWORD_FILE",
            files_of("redis-password"),
        )
        .env("PERSONA_WORKER_IMAGE", IMAGE)
        .env("POD_NAME", "controller")
        .env("POD_NAMESPACE", &namespace)
        .env("PERSONA_LEASE_DURATION", "10s")
        .env("PERSONA_LEASE_RENEW_DEADLINE", "8s")
        .env("PERSONA_LEASE_RETRY_PERIOD", "500ms");
        if !everywhere {
            spec = spec.env("PERSONA_WATCH_NAMESPACE", &namespace);
        }
        for (name, value) in settings {
            spec = spec.env(*name, *value);
        }
        let controller = Component::start(spec, &logs)?;
        controller.ready().await?;
        let port = gateway_port.number();
        let spec = shared(
            Spec::new(format!("{namespace}-gateway"), program(), ready(port)),
            port,
        )
        .args(["gateway"])
        .env("PERSONA_API_KEYS_DIR", files_of("keys"));
        let gateway = Component::start(spec, &logs)?;
        gateway.ready().await?;
        Ok(Self {
            client,
            namespace,
            redis: Arc::new(redis),
            controller: Arc::new(controller),
            gateway: Arc::new(gateway),
            gateway_port: Arc::new(gateway_port),
            _files: Arc::new(files),
            controller_port: Arc::new(controller_port),
            http: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    /// The same operator, as another namespace sees it.
    pub fn beside(&self, namespace: String) -> Self {
        Self {
            namespace,
            ..self.clone()
        }
    }

    /// Where the gateway serves.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.gateway_port.number())
    }

    /// The objects of a kind in the namespace.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object from its manifest, without namespace.
    pub async fn create<K>(&self, manifest: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + DeserializeOwned
            + serde::Serialize
            + Clone
            + Debug,
    {
        let object: K = serde_json::from_value(manifest)?;
        Ok(self.all().create(&PostParams::default(), &object).await?)
    }

    /// A pool of its owner's.
    pub async fn pool(&self, name: &str, spec: Value) -> Result<WorkerPool> {
        self.create(json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": name},
            "spec": spec,
        }))
        .await
    }

    /// How the namespace's personas share pools.
    pub async fn share(&self, spec: Value) -> Result<PersonaTopology> {
        self.create(json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "PersonaTopology",
            "metadata": {"name": "default"},
            "spec": spec,
        }))
        .await
    }

    /// A persona on an OpenAI-compatible server.
    pub async fn persona(&self, name: &str, endpoint: &str, more: Value) -> Result<Persona> {
        let mut spec = json!({
            "model": {"provider": "OpenAICompatible", "name": "tiny", "endpoint": endpoint},
            "timeout": "20s",
        });
        merge(&mut spec, more);
        self.create(json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "Persona",
            "metadata": {"name": name},
            "spec": spec,
        }))
        .await
    }

    /// Changes an object's spec by a merge patch.
    pub async fn patch<K>(&self, name: &str, spec: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let patch = Patch::Merge(json!({"spec": spec}));
        let params = PatchParams::default();
        Ok(self.all().patch(name, &params, &patch).await?)
    }

    /// Waits until an object is as wanted; otherwise says how it is.
    pub async fn until<K>(&self, name: &str, what: &str, is: impl Condition<K>) -> Result<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + serde::Serialize
            + 'static,
    {
        let waiting = await_condition(self.all::<K>(), name, is);
        if let Ok(found) = tokio::time::timeout(PATIENCE, waiting).await {
            return Ok(found?);
        }
        let found: Option<K> = self.all().get_opt(name).await?;
        Err(anyhow!(
            "{name} is not {what} after {PATIENCE:?}: {}\n{}",
            serde_json::to_string_pretty(&found)?,
            self.controller.last_words()
        ))
    }

    /// Waits for condition Ready.
    pub async fn ready<K>(&self, name: &str) -> Result<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + serde::Serialize
            + 'static,
    {
        self.until(name, "Ready", |found: Option<&K>| {
            found.is_some_and(|object| condition(object, "Ready").as_deref() == Some("True"))
        })
        .await
    }

    /// The worker pods of a pool that are not going.
    pub async fn pods(&self, pool: &str) -> Result<Vec<Pod>> {
        let selector = format!("persona.dev/pool={pool}");
        let pods = self
            .all::<Pod>()
            .list(&ListParams::default().labels(&selector))
            .await?;
        let staying = pods.items.into_iter();
        Ok(staying
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect())
    }

    /// The namespace's queue, as the administrator sees it.
    pub fn queue(&self) -> Result<NamespaceQueue> {
        let queue = Queue::connect(QueueOptions::new(self.redis.url()))?;
        Ok(queue.namespace(&self.namespace)?)
    }

    /// Takes all data from Redis, functions and users too, as a failover to an empty replica would.
    pub async fn flush(&self) -> Result<()> {
        let client = redis::Client::open(self.redis.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("FLUSHALL").exec_async(&mut connection).await?;
        redis::cmd("FUNCTION")
            .arg("FLUSH")
            .exec_async(&mut connection)
            .await?;
        Ok(())
    }

    /// A client of the gateway.
    pub fn chat(&self) -> Result<Chat> {
        Chat::new(&self.url(""), API_KEY)
    }

    /// Asks a persona; the answer as it comes back.
    pub async fn ask(&self, persona: &str, more: Value) -> Result<reqwest::Response> {
        let mut body = json!({
            "model": format!("{}/{persona}", self.namespace),
            "messages": [{"role": "user", "content": "Hello"}],
        });
        merge(&mut body, more);
        let request = self.http.post(self.url("/v1/chat/completions"));
        Ok(request.bearer_auth(API_KEY).json(&body).send().await?)
    }

    /// The text of a whole answer.
    pub async fn answer(&self, persona: &str) -> Result<String> {
        let response = self.ask(persona, json!({})).await?;
        let status = response.status();
        let body: Value = response.json().await?;
        let text = body["choices"][0]["message"]["content"].as_str();
        text.map(str::to_owned)
            .with_context(|| format!("{status}: {body}"))
    }

    /// A metric of the controller, with its labels, like `persona_pool_workers{…}`.
    pub async fn metric(&self, series: &str) -> Result<Option<f64>> {
        let port = self.controller_port.number();
        let url = format!("http://127.0.0.1:{port}/metrics");
        let text = self.http.get(url).send().await?.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        Ok(line.map(str::trim).map(str::parse).transpose()?)
    }

    /// Ends the processes in good order, and all pods with their pools.
    pub async fn stop(self) -> Result<()> {
        for pool in self
            .all::<WorkerPool>()
            .list(&ListParams::default())
            .await?
        {
            let pools = self.all::<WorkerPool>();
            match pools
                .delete(&pool.name_any(), &DeleteParams::default())
                .await
            {
                // The topology was faster.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
        }
        self.controller.stop(Duration::from_secs(10)).await?;
        self.gateway.stop(Duration::from_secs(10)).await?;
        Ok(())
    }
}

/// The status of an object's condition.
pub fn condition<K: serde::Serialize>(object: &K, type_: &str) -> Option<String> {
    let object = serde_json::to_value(object).ok()?;
    let conditions = object["status"]["conditions"].as_array()?.clone();
    let found = conditions.into_iter().find(|c| c["type"] == type_)?;
    found["status"].as_str().map(str::to_owned)
}

/// The reason of an object's condition.
pub fn reason<K: serde::Serialize>(object: &K, type_: &str) -> Option<String> {
    let object = serde_json::to_value(object).ok()?;
    let conditions = object["status"]["conditions"].as_array()?.clone();
    let found = conditions.into_iter().find(|c| c["type"] == type_)?;
    found["reason"].as_str().map(str::to_owned)
}

/// The node that runs the workers of all tests.
pub async fn node() -> Result<&'static ProcessNode> {
    static NODE: OnceCell<Result<ProcessNode, String>> = OnceCell::const_new();
    let join = async || {
        let node = async { join_node(Cluster::shared().await?, "workers").await };
        node.await.map_err(|error| format!("{error:#}"))
    };
    NODE.get_or_init(join)
        .await
        .as_ref()
        .map_err(|error| anyhow!(error.clone()))
}

/// Joins a process node that runs workers.
pub async fn join_node(cluster: &Cluster, name: &str) -> Result<ProcessNode> {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/operator/model_server.py");
    let images = [
        ("persona.test/", program()),
        ("sleeper.test/", "/bin/sleep".into()),
        ("llama.test/", server),
    ];
    let images = images.map(|(image, program)| (image.to_owned(), program));
    cluster
        .join_process_node(ProcessNodeOptions::new(name, images))
        .await
}

async fn install_crds(client: &Client) -> Result<()> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("tests").force();
    for definition in crds() {
        let name = definition["metadata"]["name"].as_str();
        let name = name.context("a definition without a name")?;
        definitions
            .patch(name, &params, &Patch::Apply(&definition))
            .await?;
        let established = kube::runtime::conditions::is_crd_established();
        let waiting = await_condition(definitions.clone(), name, established);
        tokio::time::timeout(PATIENCE, waiting).await??;
    }
    Ok(())
}

/// Sets what `more` has in `base`.
fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more,
    }
}

/// The topology of a namespace, once it has decided.
pub async fn topology(operator: &Operator) -> Result<PersonaTopology> {
    let decided = |found: Option<&PersonaTopology>| {
        found.is_some_and(|t| t.status.as_ref().is_some_and(|s| s.phase.is_some()))
    };
    let found = operator.until("default", "decided", decided).await?;
    found.context("the topology is gone")
}
