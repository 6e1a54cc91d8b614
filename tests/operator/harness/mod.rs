//! The operator as its users have it: controller and gateway as processes, workers as pods of a
//! process node, on a real API server and a real Redis; a namespace, a queue prefix and a lease a test.

mod clients;
mod objects;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Client, Resource, ResourceExt};
use persona_operator::api::{WorkerPool, crds};
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use testbed::component::{Component, Spec};
use testbed::net::Port;
use testbed::probe::Probe;
use testbed::run_dir::RunDir;
use testbed::{Cluster, ProcessNode, ProcessNodeOptions, Redis, RedisOptions};
use tokio::sync::OnceCell;

#[allow(unused_imports)] // Benches have this harness too, and look at few conditions.
pub use self::objects::{condition, reason, topology};

/// Longest wait for something that must happen, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long the controller's lease lasts.
pub const LEASE: Duration = Duration::from_secs(10);
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
        .env("PERSONA_LEASE_DURATION", format!("{LEASE:?}"))
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

    /// The namespace's queue, as the administrator sees it.
    pub fn queue(&self) -> Result<NamespaceQueue> {
        let queue = Queue::connect(QueueOptions::new(self.redis.url()))?;
        Ok(queue.namespace(&self.namespace)?)
    }

    /// Takes all data from Redis, functions and users too, as a failover to an empty replica would.
    pub async fn flush(&self) -> Result<()> {
        let mut connection = self.redis.connection().await?;
        redis::cmd("FLUSHALL").exec_async(&mut connection).await?;
        redis::cmd("FUNCTION")
            .arg("FLUSH")
            .exec_async(&mut connection)
            .await?;
        Ok(())
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
