//! Local models: their pools by class, and what pools say that no node's GPUs fit.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use kube::ResourceExt;
use kube::api::ListParams;
use persona_operator::api::{PersonaTopology, WorkerPool};
use serde_json::{Value, json};
use testbed::{Cluster, FakeNode};

use crate::devices;
use crate::harness::{Operator, PATIENCE, condition};

/// The operator in a cluster with a node of four L4, whose kinds it watches.
async fn with_an_l4(name: &str) -> Result<Operator> {
    let l4 = FakeNode::gpu("gpus-l4", "NVIDIA-L4", 23_034, 4);
    Cluster::shared().await?.add_fake_nodes(&[l4]).await?;
    Operator::start_with(name, &[("PERSONA_WATCH_NODES", "true")]).await
}

fn overlay() -> Value {
    json!({"tolerations": [{"key": "testbed.persona.dev/node", "operator": "Exists"}]})
}

#[tokio::test]
async fn a_pool_that_no_gpu_fits_says_so_and_mends_when_a_node_comes() -> Result<()> {
    let operator = with_an_l4("gpus").await?;
    let gpu = json!({"memory": "96Gi", "products": ["NVIDIA-GH200-96GB", "NVIDIA-L4"]});
    operator
        .pool(
            "large",
            json!({"placement": {"device": "gpu", "gpu": gpu}, "template": overlay()}),
        )
        .await?;
    let is = |status: &'static str| {
        move |found: Option<&WorkerPool>| {
            found.is_some_and(|pool| condition(pool, "Schedulable").as_deref() == Some(status))
        }
    };
    let pool = operator
        .until("large", "unschedulable", is("False"))
        .await?;
    let status = pool.context("gone")?.status.context("no status")?;
    let mut conditions = status.conditions.iter();
    let words = conditions
        .find(|c| c.type_ == "Schedulable")
        .context("no condition")?;
    assert!(
        words.message.contains("needs 1 nvidia.com/gpu of 96Gi"),
        "{}",
        words.message
    );
    assert!(
        words.message.contains("23034 MiB (NVIDIA-L4)"),
        "{}",
        words.message
    );

    // Of a maker whose cards' memory has no label that large.
    let gpu = json!({"memory": "192Gi", "resourceName": "gpu.intel.com/i915"});
    operator
        .pool(
            "beyond",
            json!({"placement": {"device": "gpu", "gpu": gpu}, "template": overlay()}),
        )
        .await?;
    operator
        .until("beyond", "unschedulable", is("False"))
        .await?;

    // More than one GPU: pods of other tests fit there as well.
    let gh200 = FakeNode::gpu("gpus-gh200", "NVIDIA-GH200-96GB", 97_871, 8);
    Cluster::shared().await?.add_fake_nodes(&[gh200]).await?;
    operator.until("large", "schedulable", is("True")).await?;
    let pods = operator.pods("large").await?;
    let node = pods
        .first()
        .and_then(|pod| pod.spec.as_ref()?.node_name.clone());
    assert_eq!(node.as_deref(), Some("gpus-gh200"));
    operator.stop().await
}

#[tokio::test]
async fn models_of_one_namespace_get_pools_by_what_they_need() -> Result<()> {
    let operator = with_an_l4("classes").await?;
    let placement = json!({"device": "gpu", "gpu": {}});
    operator
        .share(json!({
            "mode": "Generic", "gpuSizes": [24, 80],
            "gpuPool": {"placement": placement, "template": overlay()},
        }))
        .await?;
    for (name, model) in [
        ("one", json!({"provider": "Ollama", "name": "llama3.2:1b"})),
        (
            "three",
            json!({"provider": "Ollama", "name": "llama3.2:3b"}),
        ),
        (
            "eight",
            json!({"provider": "Ollama", "name": "llama3.1:8b"}),
        ),
        (
            "seventy",
            json!({"provider": "Ollama", "name": "llama3.1:70b"}),
        ),
        (
            "remote",
            json!({"provider": "Ollama", "name": "llama3.1:70b", "endpoint": "http://o:1"}),
        ),
    ] {
        operator
            .create::<persona_operator::api::Persona>(json!({
                "apiVersion": "persona.dev/v1alpha1",
                "kind": "Persona",
                "metadata": {"name": name},
                "spec": {"model": model},
            }))
            .await?;
    }
    let classes = |topology: &PersonaTopology| {
        let pools = topology.status.iter().flat_map(|status| &status.pools);
        let mut classes: Vec<(String, i32)> = pools
            .map(|pool| (pool.class.clone(), pool.personas))
            .collect();
        classes.sort();
        classes
    };
    let wanted = [("api", 1), ("cpu", 2), ("gpu-24Gi", 1), ("gpu-80Gi", 1)];
    let wanted = wanted.map(|(class, personas)| (class.to_owned(), personas));
    let is = |found: Option<&PersonaTopology>| found.is_some_and(|t| classes(t) == wanted);
    operator.until("default", "split by class", is).await?;

    // Another size of model is another class.
    let larger = json!({"model": {"name": "llama3.1:70b"}});
    operator
        .patch::<persona_operator::api::Persona>("eight", larger)
        .await?;
    let wanted = [("api", 1), ("cpu", 2), ("gpu-80Gi", 2)];
    let wanted = wanted.map(|(class, personas)| (class.to_owned(), personas));
    let is = |found: Option<&PersonaTopology>| found.is_some_and(|t| classes(t) == wanted);
    operator.until("default", "split anew", is).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_pool_that_claims_devices_is_told_of_the_largest_and_leaves_no_old_claims_behind()
-> Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.add_fake_nodes(&[FakeNode::cpu("gpus-dra")]).await?;
    devices::publish(cluster.client().await?, "gpus-dra").await?;
    let watch = [("PERSONA_WATCH_NODES", "true")];
    let operator = Operator::start_with("claims", &watch).await?;
    let gpu = |memory: &str| json!({"deviceClassName": "gpu.nvidia.com", "memory": memory});
    let placement = json!({"device": "gpu", "gpu": gpu("141Gi")});
    operator
        .pool(
            "claiming",
            json!({"placement": placement, "template": overlay()}),
        )
        .await?;
    let told = |pool: Option<&WorkerPool>| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        let mut conditions = status.iter().flat_map(|status| &status.conditions);
        conditions.any(|c| {
            c.type_ == "Schedulable"
                && c.message.contains("1 device class gpu.nvidia.com of 141Gi")
                && c.message.contains("81559 MiB (NVIDIA H100 80GB HBM3)")
        })
    };
    operator
        .until("claiming", "told of the largest", told)
        .await?;
    let templates = async || {
        let all = operator.all::<ResourceClaimTemplate>();
        let found = all.list(&ListParams::default()).await?;
        anyhow::Ok(found.iter().map(ResourceExt::name_any).collect::<Vec<_>>())
    };
    let before = templates().await?;
    assert_eq!(before.len(), 1, "{before:?}");
    operator
        .patch::<WorkerPool>("claiming", json!({"placement": {"gpu": gpu("80Gi")}}))
        .await?;
    let is = |pool: Option<&WorkerPool>| {
        pool.is_some_and(|pool| condition(pool, "Schedulable").as_deref() == Some("True"))
    };
    operator.until("claiming", "schedulable", is).await?;
    let tidy = async {
        loop {
            let now = templates().await?;
            if now.len() == 1 && now != before {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let tidied = tokio::time::timeout(PATIENCE, tidy).await;
    tidied.context("the old template of claims is still there")??;
    let pods = operator.pods("claiming").await?;
    assert_eq!(pods.len(), 1, "it keeps the claim of the present one");
    let node = pods[0]
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone());
    assert_eq!(node.as_deref(), Some("gpus-dra"));
    operator.stop().await
}
