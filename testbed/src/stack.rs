//! All of it at once, as `cargo testbed up` brings it up: a cluster with nodes, Redis, a model server.

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

pub use self::facts::Facts;
use crate::binaries::Binary;
use crate::cluster::Cluster;
use crate::component::Component;
use crate::image;
use crate::model::{ModelOptions, ModelServer};
use crate::nodes::NodeKind;
use crate::options::Options;
use crate::process_node::{ProcessNode, ProcessNodeOptions};
use crate::progress;
use crate::redis::{Redis, RedisOptions};

/// The name of the process node.
pub const PROCESS_NODE: &str = "process";
/// The image of the chart, which process nodes run as the local binary, too.
const PUBLISHED_OPERATOR: &str = "ghcr.io/persona-operator/persona-operator";

/// What to bring up.
#[derive(Debug, Clone, Default)]
pub struct StackOptions {
    pub nodes: BTreeSet<NodeKind>,
    /// Fake nodes without and with GPUs; they count when `nodes` has fake ones.
    pub cpu_nodes: usize,
    pub gpu_nodes: usize,
    pub model: Option<ModelOptions>,
    /// Builds the operator and gives it to the nodes as [`image::OPERATOR`].
    pub operator: bool,
}

/// What is up. Dropping it ends everything.
#[derive(Debug)]
pub struct Stack {
    // In the order in which they are dropped: clients before what they use.
    process: Option<ProcessNode>,
    model: Option<ModelServer>,
    cluster: Cluster,
    redis: Redis,
    operator: Option<PathBuf>,
    options: StackOptions,
}

impl Stack {
    /// Brings it up, and says on stderr what is ready after what time.
    ///
    /// # Errors
    /// Those of the parts. What is up already ends.
    pub async fn start(options: StackOptions) -> Result<Self> {
        // First, because a build that fails should do so at once.
        Binary::Kubectl.resolve().await?;
        let operator = if options.operator {
            Some(timed("operator", static_operator()).await?)
        } else {
            local_operator()?
        };
        let model = async {
            match &options.model {
                Some(model) => {
                    let server = timed("model server", ModelServer::start(model.clone()));
                    server.await.map(Some)
                }
                None => Ok(None),
            }
        };
        let (cluster, redis, model) = futures::try_join!(
            timed("Kubernetes", Cluster::start(control_plane(&options))),
            timed("Redis", Redis::start(RedisOptions::default())),
            model,
        )?;
        let mut stack = Self {
            process: None,
            model,
            cluster,
            redis,
            operator,
            options,
        };
        stack.join().await?;
        Ok(stack)
    }

    async fn join(&mut self) -> Result<()> {
        if self.has(NodeKind::Fake) {
            let (cpu, gpu) = (self.options.cpu_nodes, self.options.gpu_nodes);
            timed(
                format!("{} fake nodes", cpu + gpu),
                self.cluster.fake_nodes(cpu, gpu),
            )
            .await?;
        }
        if self.has(NodeKind::Process) {
            let node = self.cluster.join_process_node(self.process_node_options());
            self.process = Some(timed("process node", node).await?);
        }
        if self.has(NodeKind::Real) {
            let node = timed("real node", self.cluster.join_real_node()).await?;
            node.forward(self.redis.port())?;
            if let Some(model) = &self.model {
                node.forward(model.address().port())?;
            }
            if self.options.operator {
                // With Redis, so that the chart can be installed.
                let images =
                    async { futures::try_join!(node.import_operator(), node.import_redis()) };
                timed("images", images).await?;
            }
        }
        Ok(())
    }

    fn has(&self, kind: NodeKind) -> bool {
        self.options.nodes.contains(&kind)
    }

    fn process_node_options(&self) -> ProcessNodeOptions {
        let names = [image::OPERATOR, PUBLISHED_OPERATOR];
        let binary = self.operator.iter();
        let images = binary.flat_map(|binary| names.map(|name| (name.to_owned(), binary.clone())));
        ProcessNodeOptions::new(PROCESS_NODE, images.collect::<BTreeMap<_, _>>())
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    pub fn model(&self) -> Option<&ModelServer> {
        self.model.as_ref()
    }

    pub fn process_node(&self) -> Option<&ProcessNode> {
        self.process.as_ref()
    }

    /// Where everything is. Puts kubeconfig and tools into `folder`, where they are easy to find.
    ///
    /// # Errors
    /// The folder cannot be written, or kubectl cannot be built.
    pub async fn facts(&self, folder: &Path) -> Result<Facts> {
        let plane = self.cluster.control_plane()?;
        let mut facts = Facts {
            kubeconfig: folder.join("kubeconfig"),
            bin: folder.join("bin"),
            api_server: format!("https://127.0.0.1:{}", plane.port()),
            redis: self.redis.url(),
            model: self.model.as_ref().map(ModelServer::base_url),
            redis_in_pods: None,
            model_in_pods: None,
            operator: self.process.as_ref().and(self.operator.clone()),
            processes: self.processes().await?,
        };
        if self.has(NodeKind::Real) {
            let node = self.cluster.join_real_node().await?;
            let redis = node.forward(self.redis.port())?;
            facts.redis_in_pods = Some(format!("redis://:{}@{redis}/", self.redis.password()));
            if let Some(model) = &self.model {
                let model = node.forward(model.address().port())?;
                facts.model_in_pods = Some(format!("http://{model}/v1"));
            }
        }
        fs::copy(self.cluster.kubeconfig(), &facts.kubeconfig)
            .with_context(|| format!("cannot write {}", facts.kubeconfig.display()))?;
        fs::create_dir_all(&facts.bin)?;
        let kubectl = Binary::Kubectl.resolve().await?;
        // Two minutes of building are too much for what not everyone needs.
        let helm = Binary::Helm.available().await?;
        for tool in helm.into_iter().chain([kubectl]) {
            let name = tool.file_name().context("a tool without a name")?;
            symlink(&tool, facts.bin.join(name))?;
        }
        Ok(facts)
    }

    async fn processes(&self) -> Result<Vec<(String, i32)>> {
        let plane = self.cluster.control_plane()?;
        let mut components = vec![
            &plane.etcd,
            &plane.apiserver,
            &plane.controller_manager,
            &plane.scheduler,
            self.redis.component(),
        ];
        if self.has(NodeKind::Fake) {
            components.push(self.cluster.kwok().await?);
        }
        if self.has(NodeKind::Real) {
            let node = self.cluster.join_real_node().await?;
            components.extend([
                node.containerd(),
                node.kubelet(),
                node.kube_proxy(),
                node.dns(),
            ]);
        }
        let pid = |component: &Component| Some((component.name().to_owned(), component.pid()?));
        let mut processes: Vec<_> = components.into_iter().filter_map(pid).collect();
        if let Some(model) = &self.model {
            processes.push((model.name().to_owned(), model.pid()));
        }
        Ok(processes)
    }

    /// Ends everything in good order; dropping does the same by SIGKILL.
    ///
    /// # Errors
    /// A part does not end as it should; all of them are gone all the same.
    pub async fn stop(mut self) -> Result<()> {
        // Its pods are gone with it, and so is the cluster that might miss it.
        if let Some(node) = self.process.take() {
            tokio::task::spawn_blocking(move || drop(node)).await?;
        }
        if let Some(model) = self.model.take() {
            model.stop().await?;
        }
        self.cluster.stop().await?;
        self.redis.stop().await
    }
}

fn control_plane(options: &StackOptions) -> Options {
    Options {
        // Else pods that were meant to run something would land on them, too.
        taint_fake_nodes: options.nodes.iter().any(|kind| *kind != NodeKind::Fake),
        ..Options::default()
    }
}

async fn static_operator() -> Result<PathBuf> {
    tokio::task::spawn_blocking(|| image::static_binary("persona-operator")).await?
}

/// The newest build of the operator in the target folder this program is in.
fn local_operator() -> Result<Option<PathBuf>> {
    let exe = std::env::current_exe()?;
    let target = exe.ancestors().nth(2).context("not in a target folder")?;
    newest_operator(target)
}

fn newest_operator(target: &Path) -> Result<Option<PathBuf>> {
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    // Profiles lie directly in it, or below a target triple.
    let mut folders = vec![target.to_owned()];
    for entry in fs::read_dir(target)? {
        folders.push(entry?.path());
    }
    for folder in folders {
        for profile in ["debug", "release"] {
            let binary = folder.join(profile).join("persona-operator");
            let Ok(metadata) = binary.metadata() else {
                continue;
            };
            let built = metadata.modified()?;
            if newest.as_ref().is_none_or(|(other, _)| built > *other) {
                newest = Some((built, binary));
            }
        }
    }
    Ok(newest.map(|(_, binary)| binary))
}

/// Says how long `work` took.
async fn timed<T>(what: impl Display, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    let done = work.await.with_context(|| format!("{what}"))?;
    progress::line(format_args!("{what}: ready, {}", seconds(start.elapsed())));
    Ok(done)
}

/// For people who wait: `4.1 s`.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_build_of_the_operator_is_taken_wherever_it_was_built() {
        let target = tempfile::tempdir().unwrap();
        assert_eq!(newest_operator(target.path()).unwrap(), None);
        for (age, place) in [(9, "debug"), (1, "x-musl/release"), (5, "release")] {
            let folder = target.path().join(place);
            std::fs::create_dir_all(&folder).unwrap();
            let file = std::fs::File::create(folder.join("persona-operator")).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age))
                .unwrap();
        }
        let newest = newest_operator(target.path()).unwrap().unwrap();
        assert!(newest.ends_with("x-musl/release/persona-operator"));
    }

    #[test]
    fn fake_nodes_are_tainted_only_beside_others() {
        let tainted = |nodes: &[NodeKind]| {
            control_plane(&StackOptions {
                nodes: nodes.iter().copied().collect(),
                ..StackOptions::default()
            })
            .taint_fake_nodes
        };
        assert!(!tainted(&[NodeKind::Fake]));
        assert!(tainted(&[NodeKind::Fake, NodeKind::Process]));
    }
}
