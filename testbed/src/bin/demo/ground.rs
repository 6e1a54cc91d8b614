//! What the demo stands on: a Kubernetes and a model server, brought up for it or the user's.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use testbed::{
    Binary, Cluster, MODEL_NAME, ModelOptions, NodeKind, Release, ReleaseOptions, Stack,
    StackOptions, nodes, real_node,
};

use testbed::release::{Queue, run};

use crate::Cli;
use crate::manifests::{Manifests, Model};
use crate::meter::Meter;
use crate::voice::Voice;

/// Where the operator goes.
pub const SYSTEM: &str = "persona-system";
/// Where the personas go.
pub const NAMESPACE: &str = "persona-demo";
/// The model's Service, as the manifests name it.
const SERVICE: (&str, u16) = ("model", 8080);

/// Kubernetes, and a model that its pods reach.
#[derive(Debug)]
pub struct Ground {
    place: Place,
    pub manifests: Manifests,
    /// Of our own model server.
    pub meter: Option<Meter>,
    pub options: ReleaseOptions,
}

#[derive(Debug)]
enum Place {
    Own(Box<Stack>, NodeKind),
    Users(Box<Cluster>),
}

impl Ground {
    /// Brings up what is missing, and makes the two namespaces.
    ///
    /// # Errors
    /// What could not be built or started.
    pub async fn prepare(cli: &Cli, voice: &Voice) -> Result<Self> {
        match (&cli.kubeconfig, &cli.image, &cli.model_url, &cli.model) {
            (Some(kubeconfig), Some(image), Some(endpoint), Some(name)) => {
                let cluster = Cluster::external(kubeconfig).await?;
                let mut options = ReleaseOptions::on_users_cluster(SYSTEM, image);
                options.queue = Queue::Bundled(cli.redis_image.clone());
                let model = Model {
                    endpoint: endpoint.clone(),
                    name: name.clone(),
                };
                voice.title("Kubernetes");
                Self::begin(
                    Place::Users(Box::new(cluster)),
                    Some(model),
                    None,
                    options,
                    voice,
                )
                .await
            }
            _ => Self::bring_up(cli.node.as_deref(), voice).await,
        }
    }

    async fn bring_up(node: Option<&str>, voice: &Voice) -> Result<Self> {
        let (kind, why) = match node {
            None => nodes::default_kind(),
            Some("process") => (
                NodeKind::Process,
                "pods are processes without isolation, as asked for".to_owned(),
            ),
            Some(_) => {
                real_node::require_possible()?;
                (NodeKind::Real, "containers, as asked for".to_owned())
            }
        };
        voice.title("Kubernetes");
        voice.line(format_args!("bringing one up, with a {kind} node: {why}"));
        // Built while cargo builds the operator; used only later.
        let helm = tokio::spawn(Binary::Helm.resolve());
        let stack = Stack::start(StackOptions {
            nodes: [kind].into(),
            model: Some(ModelOptions::default()),
            operator: true,
            ..StackOptions::default()
        })
        .await?;
        helm.await??;
        let model = stack.model().context("no model server")?.address();
        let meter = Meter::start(model).await?;
        let (model, options) = match kind {
            NodeKind::Real => (None, ReleaseOptions::on_real_node(SYSTEM)),
            // Names of the cluster's DNS do not reach its pods.
            NodeKind::Process | NodeKind::Fake => (
                Some(Model {
                    endpoint: format!("http://{}/v1", meter.address()),
                    name: MODEL_NAME.to_owned(),
                }),
                ReleaseOptions::on_process_node(SYSTEM, stack.redis()),
            ),
        };
        let place = Place::Own(Box::new(stack), kind);
        Self::begin(place, model, Some(meter), options, voice).await
    }

    async fn begin(
        place: Place,
        model: Option<Model>,
        meter: Option<Meter>,
        mut options: ReleaseOptions,
        voice: &Voice,
    ) -> Result<Self> {
        // People may read them.
        options.set.push("logs.format=text".to_owned());
        let ground = Self {
            place,
            manifests: Manifests::new(model)?,
            meter,
            options,
        };
        let cluster = ground.cluster();
        let version = cluster.client().await?.apiserver_version().await?;
        for namespace in [SYSTEM, NAMESPACE] {
            cluster.create_namespace(namespace).await?;
        }
        if let Place::Own(_, NodeKind::Real) = &ground.place {
            let node = cluster.join_real_node().await?;
            let meter = ground.meter.as_ref().context("no model server")?;
            let address: SocketAddr = node.forward(meter.address().port())?;
            let (name, port) = SERVICE;
            cluster
                .serve_outside(NAMESPACE, name, port, address)
                .await?;
        }
        voice.line(format_args!("Kubernetes {} answers", version.git_version));
        match &ground.place {
            Place::Own(..) => voice.more(format_args!(
                "the model is {MODEL_NAME}, served by llama.cpp on one core of this machine"
            )),
            Place::Users(_) => voice.more("the cluster and the model are yours"),
        }
        Ok(ground)
    }

    pub fn cluster(&self) -> &Cluster {
        match &self.place {
            Place::Own(stack, _) => stack.cluster(),
            Place::Users(cluster) => cluster,
        }
    }

    /// Ends what was brought up. Of the user's cluster, removes what was installed; the CRDs stay.
    ///
    /// # Errors
    /// A part does not end as it should.
    pub async fn clear(self, release: Option<Release>, voice: &Voice) -> Result<()> {
        drop(self.meter);
        match self.place {
            Place::Own(stack, _) => stack.stop().await,
            Place::Users(cluster) => {
                // While the controller is there, workers finish what they are at.
                let delete = |namespace| ["delete", "namespace", namespace, "--timeout=300s"];
                run(cluster.kubectl().await?, &delete(NAMESPACE)).await?;
                if let Some(release) = release {
                    release.uninstall(&cluster).await?;
                }
                run(cluster.kubectl().await?, &delete(SYSTEM)).await?;
                voice.line(format_args!(
                    "removed namespaces {NAMESPACE} and {SYSTEM}; the CRDs stay, and all other personas with them"
                ));
                Ok(())
            }
        }
    }
}
