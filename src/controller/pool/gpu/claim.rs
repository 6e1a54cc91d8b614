//! GPUs by dynamic resource allocation: the claim that each pod of a pool gets. Pure.

use k8s_openapi::api::core::v1::{Container, PodResourceClaim, PodSpec, ResourceClaim};
use k8s_openapi::api::resource::v1::{
    CELDeviceSelector, DeviceClaim, DeviceRequest, DeviceSelector, ExactDeviceRequest,
    ResourceClaimSpec, ResourceClaimTemplate, ResourceClaimTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::least_mib;
use crate::api::names::{self, LABEL_MANAGED_BY, LABEL_POOL, MANAGER};
use crate::api::{Gpu, WorkerPool};

/// Name of the claim in a pod.
const CLAIM: &str = "gpu";

/// The template of the claims of a pool's pods, where it names a device class. A template cannot be
/// changed, so its name has a hash of what it asks for; and of the very pool: that of a pool of this name
/// that was deleted goes with it, perhaps before the claim controller has seen this one's first pod.
pub fn template(pool: &WorkerPool, gpu: &Gpu) -> Option<ResourceClaimTemplate> {
    let class = gpu.device_class_name.as_ref()?;
    let request = ExactDeviceRequest {
        device_class_name: class.clone(),
        allocation_mode: Some("ExactCount".to_owned()),
        count: Some(gpu.count.into()),
        selectors: selectors(gpu, class),
        ..ExactDeviceRequest::default()
    };
    let spec = ResourceClaimSpec {
        devices: Some(DeviceClaim {
            requests: Some(vec![DeviceRequest {
                name: CLAIM.to_owned(),
                exactly: Some(request),
                first_available: None,
            }]),
            ..DeviceClaim::default()
        }),
    };
    let shape = serde_json::json!(spec).to_string();
    let (name, uid) = (pool.name_any(), pool.uid().unwrap_or_default());
    let labels = [(LABEL_MANAGED_BY, MANAGER), (LABEL_POOL, name.as_str())];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Some(ResourceClaimTemplate {
        metadata: ObjectMeta {
            name: Some(names::hashed(&name, &["claim", &uid, &shape])),
            namespace: pool.namespace(),
            labels: Some(labels.into()),
            owner_references: pool.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: ResourceClaimTemplateSpec {
            metadata: None,
            spec,
        },
    })
}

/// Lets a pod claim its GPUs, and one of its containers use them.
pub fn attach(claims: &ResourceClaimTemplate, pod: &mut PodSpec, container: &mut Container) {
    pod.resource_claims = Some(vec![PodResourceClaim {
        name: CLAIM.to_owned(),
        resource_claim_template_name: claims.metadata.name.clone(),
        ..PodResourceClaim::default()
    }]);
    let resources = container.resources.get_or_insert_default();
    resources
        .claims
        .get_or_insert_default()
        .push(ResourceClaim {
            name: CLAIM.to_owned(),
            request: None,
        });
}

/// The driver whose devices a class is of.
fn driver<'a>(gpu: &'a Gpu, class: &'a str) -> &'a str {
    match &gpu.driver {
        Some(driver) => driver,
        // NVIDIA's slices are devices of the driver of whole GPUs.
        None if class == "mig.nvidia.com" => "gpu.nvidia.com",
        None => class,
    }
}

/// Driver and, as far as NVIDIA's classes tell, type of the devices that a pool claims.
pub fn devices(gpu: &Gpu) -> Option<(&str, Option<&str>)> {
    let class = gpu.device_class_name.as_deref()?;
    let type_ = class.strip_suffix(".nvidia.com");
    Some((driver(gpu, class), type_))
}

/// Memory and product as the driver's devices name them. Drivers of NVIDIA and Intel call them
/// `memory` and `productName`; a device of another kind does not match, instead of failing.
fn selectors(gpu: &Gpu, class: &str) -> Option<Vec<DeviceSelector>> {
    let driver = driver(gpu, class);
    let mut selectors = Vec::new();
    if let Some(mib) = gpu.memory.as_deref().and_then(least_mib) {
        selectors.push(format!(
            "'memory' in device.capacity['{driver}'] && \
             device.capacity['{driver}'].memory.compareTo(quantity('{mib}Mi')) >= 0"
        ));
    }
    if !gpu.products.is_empty() {
        let products = serde_json::json!(gpu.products);
        selectors.push(format!(
            "'productName' in device.attributes['{driver}'] && \
             device.attributes['{driver}'].productName in {products}"
        ));
    }
    let cel = |expression| DeviceSelector {
        cel: Some(CELDeviceSelector { expression }),
    };
    (!selectors.is_empty()).then(|| selectors.into_iter().map(cel).collect())
}
