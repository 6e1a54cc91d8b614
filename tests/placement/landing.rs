//! Where a pool's pod lands, by its placement.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fleet::{Fleet, Place, placement};

/// The `gpu` field of a pool's placement, and the nodes that are right; none for nowhere.
fn cases() -> Vec<(Value, &'static [&'static str])> {
    let amd = |memory: &str| json!({"memory": memory, "resourceName": "amd.com/gpu"});
    let claim = |class: &str, memory: &str| json!({"memory": memory, "deviceClassName": class});
    let mig = json!({"memory": "20Gi", "resourceName": "nvidia.com/mig-3g.20gb"});
    vec![
        (json!({"memory": "16Gi"}), &["l4", "a10"]),
        (json!({"memory": "24Gi"}), &["l4", "a10"]),
        (
            json!({"memory": "24Gi", "products": ["NVIDIA-A10"]}),
            &["a10"],
        ),
        (json!({"memory": "24Gi", "count": 2}), &["l4"]),
        (json!({"memory": "24Gi", "count": 8}), &["a100-40"]),
        (json!({"memory": "40Gi"}), &["a100-40"]),
        (json!({"memory": "48Gi"}), &["a100-80", "h100"]),
        (json!({"memory": "80Gi", "count": 8}), &["a100-80", "h100"]),
        (
            json!({"memory": "80Gi", "products": ["NVIDIA-H100-80GB-HBM3"]}),
            &["h100"],
        ),
        (json!({"memory": "96Gi"}), &["h200"]),
        (json!({"memory": "141Gi", "count": 8}), &["h200"]),
        (json!({"memory": "192Gi"}), &[]),
        (json!({"memory": "24Gi", "count": 16}), &[]),
        (mig, &["mig"]),
        (amd("192Gi"), &["mi300x"]),
        (amd("256Gi"), &[]),
        (amd("320Gi"), &[]),
        (
            json!({"memory": "48Gi", "resourceName": "gpu.intel.com/i915"}),
            &["max1100"],
        ),
        (
            json!({"memory": "192Gi", "resourceName": "gpu.intel.com/i915"}),
            &[],
        ),
        (claim("gpu.nvidia.com", "80Gi"), &["dra"]),
        (
            json!({"count": 2, "deviceClassName": "gpu.nvidia.com", "products": ["NVIDIA H100 80GB HBM3"]}),
            &["dra"],
        ),
        (
            json!({"count": 3, "deviceClassName": "gpu.nvidia.com"}),
            &[],
        ),
        (claim("gpu.nvidia.com", "141Gi"), &[]),
        (claim("mig.nvidia.com", "20Gi"), &["dra"]),
        (claim("mig.nvidia.com", "40Gi"), &[]),
    ]
}

#[tokio::test]
async fn pods_land_on_the_smallest_gpus_that_fit() -> Result<()> {
    let fleet = Fleet::join().await?;
    let mut wrong = Vec::new();
    for (at, (gpu, expected)) in cases().into_iter().enumerate() {
        let name = format!("landing-{at}");
        let place = fleet
            .tried(&name, placement(json!({"device": "gpu", "gpu": gpu}))?)
            .await?;
        let right = match &place {
            Place::Node(node) => expected.contains(&node.as_str()),
            Place::Nowhere(_) => expected.is_empty(),
        };
        if !right {
            wrong.push(format!("{gpu}: {place:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn pods_without_gpus_leave_gpu_nodes_alone_while_a_cpu_node_has_room() -> Result<()> {
    let fleet = Fleet::join().await?;
    let names: Vec<String> = (0..24).map(|at| format!("plain-{at}")).collect();
    for name in &names {
        fleet.pod(name, placement(json!({}))?).await?;
    }
    for name in &names {
        let node = fleet.node(name).await?;
        assert!(node.starts_with("cpu-"), "{name} is on {node}");
    }
    for name in &names {
        fleet.remove(name).await?;
    }
    Ok(())
}
