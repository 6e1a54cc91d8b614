//! GPUs as dynamic resource allocation publishes them.

use anyhow::Result;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
use kube::api::{Api, PostParams};
use serde_json::json;

/// Two whole H100 and a slice of another, as NVIDIA's driver publishes them, on a node.
pub async fn publish(client: kube::Client, node: &str) -> Result<()> {
    let classes: Api<DeviceClass> = Api::all(client.clone());
    for (name, kind) in [("gpu.nvidia.com", "gpu"), ("mig.nvidia.com", "mig")] {
        let expression = format!(
            "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == '{kind}'"
        );
        let class = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"selectors": [{"cel": {"expression": expression}}]},
        }))?;
        classes.create(&PostParams::default(), &class).await?;
    }
    let device = |name: &str, kind: &str, product: &str, memory: &str| {
        json!({
            "name": name,
            "attributes": {"type": {"string": kind}, "productName": {"string": product}},
            "capacity": {"memory": {"value": memory}},
        })
    };
    let slice: ResourceSlice = serde_json::from_value(json!({
        "metadata": {"name": format!("{node}-gpus")},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [
                device("gpu-0", "gpu", "NVIDIA H100 80GB HBM3", "81559Mi"),
                device("gpu-1", "gpu", "NVIDIA H100 80GB HBM3", "81559Mi"),
                device("gpu-2-mig-0", "mig", "NVIDIA H100 80GB HBM3", "20096Mi"),
            ],
        },
    }))?;
    let slices: Api<ResourceSlice> = Api::all(client);
    slices.create(&PostParams::default(), &slice).await?;
    Ok(())
}
