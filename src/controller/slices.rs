//! The GPUs that drivers publish for dynamic resource allocation, as far as people are told of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::lock::lock;
use crate::placement::requirements::mebibytes;

/// Largest memory in MiB, and its product, by type of device; drivers that publish no types have one.
type Largest = BTreeMap<Option<String>, (u64, String)>;

/// The largest devices of each slice.
#[derive(Default)]
pub struct Slices(Mutex<State>);

#[derive(Default)]
struct State {
    now: HashMap<String, Known>,
    listed: HashMap<String, Known>,
}

struct Known {
    driver: String,
    largest: Largest,
}

impl Slices {
    /// The largest device of a driver, in MiB, and its product; of one type only, where the driver tells
    /// types apart.
    pub fn largest(&self, driver: &str, type_: Option<&str>) -> Option<(u64, String)> {
        let state = self.lock();
        let slices = state.now.values().filter(|slice| slice.driver == driver);
        let devices = slices.flat_map(|slice| &slice.largest);
        let meant = devices.filter(|(of, _)| match (of.as_deref(), type_) {
            (Some(of), Some(type_)) => of == type_,
            _ => true,
        });
        meant.map(|(_, device)| device.clone()).max()
    }

    /// What the watch says.
    pub fn hear(&self, event: &Event<ResourceSlice>) {
        let mut state = self.lock();
        match event {
            Event::Apply(slice) => drop(state.now.insert(slice.name_any(), known(slice))),
            Event::Delete(slice) => drop(state.now.remove(&slice.name_any())),
            Event::Init => state.listed = HashMap::new(),
            Event::InitApply(slice) => drop(state.listed.insert(slice.name_any(), known(slice))),
            Event::InitDone => state.now = std::mem::take(&mut state.listed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

fn known(slice: &ResourceSlice) -> Known {
    let mut largest = Largest::new();
    for device in slice.spec.devices.iter().flatten() {
        let Some((type_, size)) = read(device) else {
            continue;
        };
        let known = largest.entry(type_).or_default();
        *known = size.max(known.clone());
    }
    Known {
        driver: slice.spec.driver.clone(),
        largest,
    }
}

/// Type, memory and product, by the names that drivers of NVIDIA and Intel give them.
fn read(device: &Device) -> Option<(Option<String>, (u64, String))> {
    let memory = device.capacity.as_ref()?.get("memory")?;
    let text = |name: &str| device.attributes.as_ref()?.get(name)?.string.clone();
    // A cast of a float to an integer stops at the integer's ends.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let mib = mebibytes(&memory.value.0)? as u64;
    let product = text("productName").unwrap_or_default();
    Some((text("type"), (mib, product)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, devices: &[(&str, &str, &str)]) -> ResourceSlice {
        let devices = devices
            .iter()
            .enumerate()
            .map(|(at, (type_, product, memory))| {
                json!({
                    "name": format!("gpu-{at}"),
                    "attributes": {"type": {"string": type_}, "productName": {"string": product}},
                    "capacity": {"memory": {"value": memory}},
                })
            });
        let devices: Vec<_> = devices.collect();
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "driver": "gpu.nvidia.com", "nodeName": name, "devices": devices,
                "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
            },
        }))
        .expect("a slice")
    }

    #[test]
    fn the_largest_device_of_a_type_is_known_until_its_slice_goes() {
        let slices = Slices::default();
        let l4 = slice("a", &[("gpu", "L4", "23034Mi")]);
        let h100 = slice(
            "b",
            &[
                ("gpu", "H100", "81559Mi"),
                ("mig", "H100", "20096Mi"),
                ("mig", "H100", "9856Mi"),
            ],
        );
        slices.hear(&Event::Apply(l4));
        slices.hear(&Event::Apply(h100.clone()));
        let largest = |type_| slices.largest("gpu.nvidia.com", type_);
        assert_eq!(largest(Some("gpu")), Some((81_559, "H100".into())));
        assert_eq!(largest(Some("mig")), Some((20_096, "H100".into())));
        assert_eq!(slices.largest("gpu.intel.com", None), None);
        slices.hear(&Event::Delete(h100));
        assert_eq!(largest(None), Some((23_034, "L4".into())));
        slices.hear(&Event::Init);
        slices.hear(&Event::InitDone);
        assert_eq!(largest(None), None);
    }

    #[test]
    fn devices_without_memory_are_passed_over() {
        let slices = Slices::default();
        let mut network = slice("nic", &[("gpu", "X", "1Gi")]);
        for device in network.spec.devices.iter_mut().flatten() {
            device.capacity = None;
        }
        slices.hear(&Event::Apply(network));
        assert_eq!(slices.largest("gpu.nvidia.com", None), None);
    }
}
