//! Fake nodes behave as the planner and the scheduler expect.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde_json::json;
use testbed::Cluster;

fn workers(replicas: u32, gpus: u32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "workers"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "workers"}},
            "template": {
                "metadata": {"labels": {"app": "workers"}},
                "spec": {
                    "terminationGracePeriodSeconds": 60,
                    "nodeSelector": {"testbed.persona.dev/node": "fake"},
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "worker",
                        "image": "persona.test/worker:dev",
                        "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}},
                    }],
                },
            },
        },
    }))
    .unwrap()
}

/// Watches the pods of a namespace until the condition holds for all of them together.
async fn until_pods(client: kube::Client, namespace: &str, condition: impl Fn(&[Pod]) -> bool) {
    let (pods, writer) = reflector::store();
    let snapshot = || -> Vec<Pod> { pods.state().iter().map(|pod| Pod::clone(pod)).collect() };
    let events = watcher(
        Api::<Pod>::namespaced(client, namespace),
        watcher::Config::default(),
    );
    let mut events = reflector::reflector(writer, events.default_backoff()).boxed();
    let watch = async {
        let mut listed = false;
        while let Some(event) = events.next().await {
            listed |= matches!(event, Ok(watcher::Event::InitDone));
            if listed && condition(&snapshot()) {
                return;
            }
        }
        panic!("the watch ended");
    };
    let outcome = tokio::time::timeout(Duration::from_secs(60), watch).await;
    assert!(
        outcome.is_ok(),
        "not in time; pods: {:?}",
        phases(&snapshot())
    );
}

fn phases(pods: &[Pod]) -> Vec<String> {
    pods.iter()
        .filter_map(|pod| pod.status.as_ref()?.phase.clone())
        .collect()
}

fn count(pods: &[Pod], phase: &str) -> usize {
    phases(pods).iter().filter(|found| *found == phase).count()
}

#[tokio::test]
async fn two_gpu_pods_fill_the_gpus_and_no_more() {
    let cluster = Cluster::shared().await.unwrap();
    cluster.fake_nodes(2, 3).await.unwrap();
    let client = cluster.client().await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    let gpus: u32 = nodes
        .list(&ListParams::default().labels("nvidia.com/gpu.present=true"))
        .await
        .unwrap()
        .iter()
        .map(|node| {
            node.status.clone().unwrap().allocatable.unwrap()["nvidia.com/gpu"]
                .0
                .parse::<u32>()
                .unwrap()
        })
        .sum();
    assert_eq!(gpus, 4 + 8 + 8);

    let namespace = cluster.namespace("gpu").await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    deployments
        .create(&PostParams::default(), &workers(gpus / 2 + 3, 2))
        .await
        .unwrap();
    let fits = usize::try_from(gpus / 2).unwrap();
    until_pods(client.clone(), &namespace, |pods| {
        count(pods, "Running") == fits && count(pods, "Pending") == 3
    })
    .await;

    // Pods go at once, whatever their grace.
    deployments
        .delete("workers", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    until_pods(client, &namespace, <[Pod]>::is_empty).await;
}

#[tokio::test]
async fn pods_without_the_toleration_stay_off_the_shared_clusters_fake_nodes() {
    let cluster = Cluster::shared().await.unwrap();
    cluster.fake_nodes(1, 0).await.unwrap();
    let client = cluster.client().await.unwrap();
    let namespace = cluster.namespace("plain").await.unwrap();
    let mut plain = workers(1, 0);
    plain
        .spec
        .as_mut()
        .unwrap()
        .template
        .spec
        .as_mut()
        .unwrap()
        .tolerations = None;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    deployments
        .create(&PostParams::default(), &plain)
        .await
        .unwrap();
    until_pods(client, &namespace, |pods| {
        pods.iter().any(|pod| {
            let conditions = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| {
                all.iter()
                    .any(|c| c.reason.as_deref() == Some("Unschedulable"))
            })
        })
    })
    .await;
}
