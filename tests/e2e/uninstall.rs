//! What is left after `helm uninstall`, and that namespaces with personas can be deleted.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use persona_operator::api::Persona;
use serde_json::json;
use testbed::release::run;
use testbed::{Chat, Cluster, Options, real_node_wanted};

use crate::harness::{eventually, install, manifest, restricted_namespace, turn};
use testbed::upstream::{Upstream, says};

#[tokio::test]
async fn an_uninstalled_release_leaves_personas_that_go_with_their_namespace() -> Result<()> {
    if !real_node_wanted() {
        return Ok(());
    }
    let _turn = turn().await;
    let cluster = Cluster::start(Options::default()).await?;
    let release = install(&cluster).await?;
    let system = release.namespace().to_owned();
    let client = cluster.client().await?;
    let namespace = restricted_namespace(&cluster, "left").await?;
    let model = Upstream::always(says(&["Hi"])).await;
    let port = model
        .root_url()
        .trim_start_matches("http://127.0.0.1:")
        .parse()?;
    let address = cluster.join_real_node().await?.forward(port)?;
    let spec = json!({"model": {
        "provider": "OpenAICompatible", "name": "scripted", "endpoint": format!("http://{address}/v1"),
    }});
    let personas: Api<Persona> = Api::namespaced(client.clone(), &namespace);
    let persona = serde_json::from_value(manifest("Persona", "helper", spec))?;
    personas.create(&Default::default(), &persona).await?;
    let wait = [
        "wait",
        "--for=condition=Ready",
        "persona/helper",
        "-n",
        &namespace,
        "--timeout=120s",
    ];
    run(cluster.kubectl().await?, &wait).await?;
    let chat = Chat::new(release.url(), release.key())?;
    let answer = chat.answer(&format!("{namespace}/helper"), "Hello").await?;
    assert_eq!(answer, "Hi");

    release.uninstall(&cluster).await?;
    let pods = |namespace: &str| -> Api<Pod> { Api::namespaced(client.clone(), namespace) };
    eventually("no pod of the release is left", async || {
        let left = pods(&system).list(&ListParams::default()).await?;
        Ok(left.items.is_empty().then_some(()))
    })
    .await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definitions = definitions.list(&ListParams::default()).await?;
    assert_eq!(definitions.items.len(), 3);
    let workers = pods(&namespace).list(&ListParams::default()).await?;
    assert_eq!(
        workers.items.len(),
        1,
        "workers go on until their pool is deleted"
    );

    let delete = ["delete", "namespace", &namespace, "--timeout=120s"];
    run(cluster.kubectl().await?, &delete).await?;
    let left = pods(&namespace).list(&ListParams::default()).await?;
    assert_eq!(left.items.len(), 0);
    assert!(
        Api::<Namespace>::all(client.clone())
            .get_opt(&namespace)
            .await?
            .is_none()
    );
    cluster.stop().await
}
