//! The life of a release: what it makes, what an upgrade keeps, what it leaves behind.

use anyhow::{Context, Result};
use insta::{assert_snapshot, with_settings};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use sha2::{Digest, Sha256};
use testbed::{Cluster, Options};

use crate::chart::{NAME, folder, installed, run};

#[tokio::test]
async fn its_pods_are_let_into_a_restricted_namespace_and_become_ready() -> Result<()> {
    let namespace = installed().await?;
    let client = Cluster::shared().await?.client().await?;
    let deployments: Api<Deployment> = Api::namespaced(client, namespace);
    for part in ["controller", "gateway"] {
        let deployment = deployments.get(&format!("{NAME}-{part}")).await?;
        let status = deployment.status.context("no status")?;
        assert_eq!(status.ready_replicas, Some(2), "{part}");
    }
    Ok(())
}

/// A value of a Secret.
async fn value(secrets: &Api<Secret>, name: &str, key: &str) -> Result<Vec<u8>> {
    let data = secrets.get(name).await?.data.unwrap_or_default();
    let value = data
        .get(key)
        .with_context(|| format!("{name} has no {key}"))?;
    Ok(value.0.clone())
}

#[tokio::test]
async fn first_api_key_is_the_one_the_gateway_knows() -> Result<()> {
    let namespace = installed().await?;
    let secrets: Api<Secret> = Api::namespaced(Cluster::shared().await?.client().await?, namespace);
    let key = value(&secrets, "persona-operator-api-key", "key").await?;
    assert!(key.len() >= 32);
    let known = String::from_utf8(value(&secrets, "persona-operator-api-keys", "first").await?)?;
    let hash = hex::encode(Sha256::digest(&key));
    assert_eq!(known, format!("hash: sha256:{hash}\nnamespaces: [\"*\"]\n"));
    Ok(())
}

#[tokio::test]
async fn notes_tell_how_to_ask_the_first_question() -> Result<()> {
    let namespace = installed().await?;
    let helm = Cluster::shared().await?.helm().await?;
    let notes = run(helm, &["get", "notes", NAME, "-n", namespace]).await?;
    with_settings!({omit_expression => true}, {
        assert_snapshot!("notes", notes.replace(namespace, "persona-system"));
    });
    Ok(())
}

#[tokio::test]
async fn upgrade_keeps_secrets_and_added_keys_and_uninstall_keeps_the_definitions() -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    let namespace = cluster.namespace("life").await?;
    let client = cluster.client().await?;
    let chart = folder();
    let chart = chart.to_string_lossy();
    let install = ["upgrade", "--install", NAME, &chart, "-n", &namespace];
    run(cluster.helm().await?, &install).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let kept = [
        ("persona-operator-master-key", "key"),
        ("persona-operator-redis", "password"),
        ("persona-operator-redis", "requirepass.conf"),
        ("persona-operator-api-key", "key"),
        ("persona-operator-api-keys", "first"),
    ];
    let read = async || {
        let mut values = Vec::new();
        for (name, key) in kept {
            values.push(value(&secrets, name, key).await?);
        }
        anyhow::Ok(values)
    };
    let before = read().await?;
    let added = json!({"stringData": {"alice": "hash: sha256:00\nnamespaces: [team-a]"}});
    secrets
        .patch(
            "persona-operator-api-keys",
            &PatchParams::default(),
            &Patch::Merge(added),
        )
        .await?;

    run(
        cluster.helm().await?,
        &[&install[..], &["--set", "gateway.replicas=3"]].concat(),
    )
    .await?;
    assert_eq!(read().await?, before);
    assert!(
        value(&secrets, "persona-operator-api-keys", "alice")
            .await?
            .starts_with(b"hash")
    );

    run(
        cluster.helm().await?,
        &["uninstall", NAME, "-n", &namespace],
    )
    .await?;
    let left = secrets.list(&ListParams::default()).await?;
    assert_eq!(left.items.len(), 0, "Secrets are left behind");
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let definitions = definitions.list(&ListParams::default()).await?;
    assert_eq!(definitions.items.len(), 3);
    // And the next release takes them over.
    run(cluster.helm().await?, &install).await?;
    cluster.stop().await
}
