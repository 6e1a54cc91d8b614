//! A pod that fits nowhere is told so, and gets a node when one comes.

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use testbed::FakeNode;

use crate::fleet::{Fleet, Place, placement};

#[tokio::test]
async fn what_fits_nowhere_is_said_and_mends_when_a_node_comes() -> Result<()> {
    let fleet = Fleet::join().await?;
    let gpu = json!({"memory": "192Gi", "products": ["NVIDIA-B200"]});
    fleet
        .pod("large", placement(json!({"device": "gpu", "gpu": gpu}))?)
        .await?;
    let place = fleet.place("large").await?;
    let Place::Nowhere(words) = place else {
        panic!("there is no such GPU: {place:?}");
    };
    assert!(words.contains("nodes are available"), "{words}");
    let b200 = FakeNode::gpu("b200", "NVIDIA-B200", 183_359, 8);
    fleet.cluster.add_fake_nodes(&[b200]).await?;
    assert_eq!(fleet.node("large").await?, "b200");
    fleet.remove("large").await?;
    let nodes: Api<Node> = Api::all(fleet.cluster.client().await?);
    nodes.delete("b200", &DeleteParams::default()).await?;
    Ok(())
}
