//! The downward API: fields of a pod as text, for environment variables and files.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;

/// Where a pod and its node are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub pod: Ipv4Addr,
    pub host: Ipv4Addr,
}

/// The value of `path`, e.g. `metadata.labels['app']`. An absent label or annotation is empty text.
///
/// # Errors
/// A field that pods do not offer.
pub fn field(pod: &Pod, addresses: Addresses, path: &str) -> Result<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => bail!("process nodes do not know the field {path}"),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => meta.labels.as_ref().map(lines),
        "metadata.annotations" => meta.annotations.as_ref().map(lines),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()),
        "status.podIP" | "status.podIPs" => Some(addresses.pod.to_string()),
        "status.hostIP" | "status.hostIPs" => Some(addresses.host.to_string()),
        _ => bail!("process nodes do not know the field {path}"),
    };
    Ok(text.unwrap_or_default())
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// The kubelet's format of all labels or annotations in one file.
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ADDRESSES: Addresses = Addresses {
        pod: Ipv4Addr::new(198, 18, 0, 7),
        host: Ipv4Addr::new(198, 18, 0, 1),
    };

    #[test]
    fn fields_of_the_pod_are_text() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x", "b": "a \"y\""}},
            "spec": {"nodeName": "node", "containers": []},
        }))
        .unwrap();
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "n"),
            ("metadata.uid", "u"),
            ("metadata.labels['app']", "x"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['none']", ""),
            ("metadata.labels", "app=\"x\"\nb=\"a \\\"y\\\"\""),
            ("spec.nodeName", "node"),
            ("status.podIP", "198.18.0.7"),
            ("status.hostIP", "198.18.0.1"),
        ] {
            assert_eq!(field(&pod, ADDRESSES, path).unwrap(), expected, "{path}");
        }
        let error = field(&pod, ADDRESSES, "spec.priority").unwrap_err();
        assert!(error.to_string().contains("spec.priority"));
    }
}
