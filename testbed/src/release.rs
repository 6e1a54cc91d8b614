//! The chart as a release on a cluster: installed by helm, with all that its users need of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::image;
use crate::port_forward::PortForward;
use crate::probe::Probe;
use crate::redis::Redis;

/// Name of the release, and so the stem of the names of its objects.
pub const NAME: &str = "persona-operator";
/// How long helm may wait for all pods, on a loaded machine.
const READY_WITHIN: &str = "240s";
/// How long the gateway may take to answer at its address once its pods are Ready.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
const REDIS_SECRET: &str = "redis-admin";

/// How this machine reaches the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By its Service's address, as on the testbed's real node.
    Service,
    /// By the address of a pod: on a process node Services need not work.
    Pod,
    /// Through the API server by `kubectl port-forward`, as on any cluster.
    PortForward,
}

/// Where the queue is.
#[derive(Debug, Clone)]
pub enum Queue {
    /// The chart's own Redis, without a volume; the chart's image unless another one is named.
    Bundled(Option<String>),
    /// A Redis that is there already.
    Url { url: String, password: String },
}

/// What is installed, and how.
#[derive(Debug, Clone)]
pub struct ReleaseOptions {
    /// Exists already.
    pub namespace: String,
    /// The operator's image.
    pub image: String,
    pub pull_policy: String,
    pub queue: Queue,
    /// Of controller and gateway.
    pub replicas: u32,
    /// More values, as `--set` takes them.
    pub set: Vec<String>,
    pub reach: Reach,
}

impl ReleaseOptions {
    /// With the images that `RealNode::import_operator` and `import_redis` bring.
    pub fn on_real_node(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            image: image::OPERATOR.to_owned(),
            pull_policy: "Never".to_owned(),
            queue: Queue::Bundled(Some(image::REDIS.to_owned())),
            replicas: 1,
            set: Vec::new(),
            reach: Reach::Service,
        }
    }

    /// With the testbed's Redis: a process node cannot run the chart's.
    pub fn on_process_node(namespace: impl Into<String>, redis: &Redis) -> Self {
        Self {
            queue: Queue::Url {
                url: format!("redis://127.0.0.1:{}", redis.port()),
                password: redis.password().to_owned(),
            },
            reach: Reach::Pod,
            ..Self::on_real_node(namespace)
        }
    }

    /// On a cluster that pulls `image` from a registry, or has it.
    pub fn on_users_cluster(namespace: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            pull_policy: "IfNotPresent".to_owned(),
            queue: Queue::Bundled(None),
            reach: Reach::PortForward,
            ..Self::on_real_node(namespace)
        }
    }

    fn values(&self) -> Result<Vec<String>> {
        let mut values = image_values("image", &self.image)?;
        values.push(format!("image.pullPolicy={}", self.pull_policy));
        values.push(format!("controller.replicas={}", self.replicas));
        values.push(format!("gateway.replicas={}", self.replicas));
        match &self.queue {
            Queue::Bundled(image) => {
                values.push("redis.persistence.enabled=false".to_owned());
                if let Some(image) = image {
                    values.extend(image_values("redis.image", image)?);
                    values.push(format!("redis.image.pullPolicy={}", self.pull_policy));
                }
            }
            Queue::Url { url, .. } => {
                values.push("redis.enabled=false".to_owned());
                values.push(format!("queue.url={url}"));
                values.push(format!("queue.adminPassword.secretName={REDIS_SECRET}"));
            }
        }
        values.extend(self.set.iter().cloned());
        Ok(values)
    }
}

/// The values of an image `name:tag` or `name@digest`.
fn image_values(key: &str, image: &str) -> Result<Vec<String>> {
    let (separator, part) = if image.contains('@') {
        ('@', "digest")
    } else {
        (':', "tag")
    };
    let (name, version) = image
        .rsplit_once(separator)
        .filter(|(_, version)| !version.contains('/'))
        .with_context(|| format!("{image:?} is not an image with its tag, like operator:1.0"))?;
    Ok(vec![
        format!("{key}.repository={name}"),
        format!("{key}.{part}={version}"),
    ])
}

/// An installed release. Dropping it leaves it installed, and ends a port-forward.
#[derive(Debug)]
pub struct Release {
    namespace: String,
    key: String,
    url: String,
    // Ends with this value, and with the process.
    _forward: Option<PortForward>,
}

impl Release {
    /// Installs the chart and waits until the gateway answers.
    ///
    /// # Errors
    /// What helm said, how the pods are, and the controller's last words.
    pub async fn install(cluster: &Cluster, options: &ReleaseOptions) -> Result<Self> {
        let namespace = &options.namespace;
        if let Queue::Url { password, .. } = &options.queue {
            let literal = format!("--from-literal=password={password}");
            let args = [
                "create",
                "secret",
                "generic",
                REDIS_SECRET,
                "-n",
                namespace,
                &literal,
            ];
            run(cluster.kubectl().await?, &args).await?;
        }
        let values = options.values()?;
        let chart = chart().to_string_lossy().into_owned();
        let mut args = vec!["install", NAME, &chart, "-n", namespace];
        args.extend(["--wait", "--timeout", READY_WITHIN]);
        args.extend(values.iter().flat_map(|value| ["--set", value]));
        if let Err(error) = run(cluster.helm().await?, &args).await {
            let state = state(cluster, namespace).await;
            return Err(error
                .context(state)
                .context("helm could not install the chart"));
        }
        let client = cluster.client().await?;
        let key = first_key(client.clone(), namespace).await?;
        let service = format!("{NAME}-gateway");
        let (url, forward) = match options.reach {
            Reach::Service => (service_url(client, namespace, &service).await?, None),
            Reach::Pod => (pod_url(client, namespace).await?, None),
            Reach::PortForward => {
                let target = format!("service/{service}");
                let forward =
                    PortForward::start(cluster, namespace, &target, 80, "/health").await?;
                (forward.url(), Some(forward))
            }
        };
        answers(&url).await?;
        Ok(Self {
            namespace: namespace.clone(),
            key,
            url,
            _forward: forward,
        })
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The first API key; it is good for every namespace.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where the gateway answers, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The last lines of the logs of all pods of a component, `controller` or `gateway`.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn log(&self, cluster: &Cluster, component: &str, lines: i64) -> Result<String> {
        log(cluster, &self.namespace, component, lines).await
    }

    /// What helm tells those who installed it.
    ///
    /// # Errors
    /// What helm said.
    pub async fn notes(&self, cluster: &Cluster) -> Result<String> {
        let args = ["get", "notes", NAME, "-n", &self.namespace];
        run(cluster.helm().await?, &args).await
    }

    /// Uninstalls it and waits until its pods are gone. The CRDs stay.
    ///
    /// # Errors
    /// What helm said.
    pub async fn uninstall(self, cluster: &Cluster) -> Result<()> {
        let args = [
            "uninstall",
            NAME,
            "-n",
            &self.namespace,
            "--wait",
            "--timeout",
            READY_WITHIN,
        ];
        run(cluster.helm().await?, &args).await.map(drop)
    }
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    workspace().join("charts").join(NAME)
}

/// The root of the repository.
pub fn workspace() -> &'static Path {
    let testbed = Path::new(env!("CARGO_MANIFEST_DIR"));
    testbed.parent().unwrap_or(testbed)
}

/// Runs a command to its end; its standard output, or its complaint as an error.
///
/// # Errors
/// It cannot be started, or it failed.
pub async fn run(mut command: Command, args: &[&str]) -> Result<String> {
    let program = command.as_std().get_program().to_owned();
    let program = Path::new(&program)
        .file_name()
        .unwrap_or_default()
        .display();
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        // Values hold passwords: the verb is enough.
        let verb = args.first().copied().unwrap_or_default();
        bail!("{program} {verb}: {}", words.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The last lines of the logs of a component's pods.
async fn log(cluster: &Cluster, namespace: &str, component: &str, lines: i64) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    let params = LogParams {
        tail_lines: Some(lines),
        ..LogParams::default()
    };
    let mut text = String::new();
    for pod in pods.list(&of(component)).await? {
        let name = pod.name_any();
        match pods.logs(&name, &params).await {
            Ok(log) => text.push_str(&log),
            Err(error) => text.push_str(&format!("{name} has no log: {error}\n")),
        }
    }
    Ok(text)
}

/// Pods and what the controller said last, for errors.
async fn state(cluster: &Cluster, namespace: &str) -> String {
    let read = async {
        let args = ["get", "pods", "-n", namespace, "-o", "wide"];
        let pods = run(cluster.kubectl().await?, &args).await?;
        let words = log(cluster, namespace, "controller", 12).await?;
        anyhow::Ok(format!("{pods}the controller's last words:\n{words}"))
    };
    read.await
        .unwrap_or_else(|error| format!("nothing is known of its pods: {error:#}"))
}

/// The pods of a component.
fn of(component: &str) -> ListParams {
    ListParams::default().labels(&format!(
        "app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}"
    ))
}

async fn first_key(client: kube::Client, namespace: &str) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let secret = secrets.get(&format!("{NAME}-api-key")).await?;
    let key = secret.data.unwrap_or_default().remove("key");
    Ok(String::from_utf8(
        key.context("the chart made no API key")?.0,
    )?)
}

async fn service_url(client: kube::Client, namespace: &str, name: &str) -> Result<String> {
    let service = Api::<Service>::namespaced(client, namespace)
        .get(name)
        .await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip);
    let address = address.context("the gateway's Service has no address")?;
    Ok(format!("http://{address}"))
}

async fn pod_url(client: kube::Client, namespace: &str) -> Result<String> {
    let pods = Api::<Pod>::namespaced(client, namespace);
    let pods = pods.list(&of("gateway")).await?.items.into_iter();
    let mut addresses = pods.filter_map(|pod| pod.status?.pod_ip);
    let address = addresses.next().context("no gateway pod has an address")?;
    Ok(format!(
        "http://{}",
        SocketAddr::new(address.parse()?, 8080)
    ))
}

/// A Service works a moment after its pods are Ready.
async fn answers(url: &str) -> Result<()> {
    let probe = Probe::Http(format!("{url}/health"));
    let deadline = Instant::now() + ANSWERS_WITHIN;
    loop {
        match probe.check().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("the gateway does not answer at {url}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_split_into_name_and_version() {
        let of = |image| image_values("image", image).ok();
        let values = |name: &str, version: &str| {
            Some(vec![
                format!("image.repository={name}"),
                format!("image.{version}"),
            ])
        };
        assert_eq!(of("a.b/c:1"), values("a.b/c", "tag=1"));
        assert_eq!(
            of("localhost:5000/c:1"),
            values("localhost:5000/c", "tag=1")
        );
        assert_eq!(of("c@sha256:ab"), values("c", "digest=sha256:ab"));
        assert_eq!(of("localhost:5000/c"), None);
        assert_eq!(of("c"), None);
    }
}
