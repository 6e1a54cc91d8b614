//! The Node object and its Lease: how the cluster knows that the node is there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Error;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Context, ProcessNodeOptions};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Says which nodes run host processes; pods can select or avoid them by it.
pub const LABEL: (&str, &str) = ("testbed.persona.dev/node", "process");
const MANAGER: &str = "process-node";

/// The Node as it is created.
pub fn object(options: &ProcessNodeOptions, address: Ipv4Addr, now: Timestamp) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": options.name, "labels": labels(options)},
        "spec": {"taints": options.taints},
        "status": status(options, address, now),
    })
}

fn labels(options: &ProcessNodeOptions) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/hostname", options.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        LABEL,
    ];
    let mut labels = own.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    labels.extend(options.labels.clone());
    labels.into_iter().collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn status(options: &ProcessNodeOptions, address: Ipv4Addr, now: Timestamp) -> Value {
    let mut resources = options.resources.clone();
    let own = [
        ("cpu", options.cpu.clone()),
        ("memory", options.memory.clone()),
        ("pods", options.pods.to_string()),
        ("ephemeral-storage", "100Gi".to_owned()),
    ];
    resources.extend(own.map(|(name, quantity)| (name.to_owned(), quantity)));
    let time = Time(now);
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": time, "lastTransitionTime": time})
    };
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": options.name},
        ],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "not observed"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "not observed"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "not observed"),
            condition("Ready", "True", "KubeletReady", "process node is ready"),
        ],
        "nodeInfo": {
            "architecture": architecture(),
            "operatingSystem": "linux",
            "osImage": "processes of the host",
            "containerRuntimeVersion": format!("process://{}", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": format!("v1.36.0-process-node.{}", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "",
            "machineID": options.name,
            "systemUUID": options.name,
            "bootID": options.name,
            "kernelVersion": "",
        },
    })
}

/// Makes the Node, or takes over one of the same name, and waits until pods can be scheduled on it.
///
/// # Errors
/// The API server refuses it, or no controller manager takes the not-ready taint away.
pub async fn register(cx: &Context) -> Result<()> {
    let name = &cx.options.name;
    let nodes: Api<Node> = Api::all(cx.client.clone());
    let node = object(&cx.options, cx.host, Timestamp::now());
    let made = nodes
        .create(&PostParams::default(), &serde_json::from_value(node)?)
        .await;
    match made {
        Ok(_) => {}
        Err(Error::Api(e)) if e.code == 409 => {
            let again = json!({
                "metadata": {"labels": labels(&cx.options)},
                "spec": {"taints": cx.options.taints},
            });
            nodes
                .patch(name, &PatchParams::default(), &Patch::Merge(again))
                .await?;
        }
        Err(error) => return Err(error).with_context(|| format!("cannot register node {name}")),
    }
    renew(cx).await?;
    write_status(cx).await?;
    let ready = await_condition(nodes, name, |node: Option<&Node>| {
        let spec = node.and_then(|node| node.spec.as_ref());
        spec.is_some_and(|spec| {
            let taints = spec.taints.iter().flatten();
            let mut keys = taints.map(|taint| taint.key.as_str());
            !keys.any(|key| {
                key.starts_with("node.kubernetes.io/not-ready")
                    || key.starts_with("node.kubernetes.io/unreachable")
            })
        })
    });
    timeout(Duration::from_secs(60), ready)
        .await
        .with_context(|| {
            format!("node {name} kept its not-ready taint: does a controller manager run?")
        })??;
    Ok(())
}

async fn write_status(cx: &Context) -> Result<()> {
    let nodes: Api<Node> = Api::all(cx.client.clone());
    let status = json!({"status": status(&cx.options, cx.host, Timestamp::now())});
    nodes
        .patch_status(
            &cx.options.name,
            &PatchParams::default(),
            &Patch::Strategic(status),
        )
        .await?;
    Ok(())
}

async fn renew(cx: &Context) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(cx.client.clone(), LEASE_NAMESPACE);
    let name = &cx.options.name;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": MicroTime(Timestamp::now()),
        },
    });
    let params = PatchParams::apply(MANAGER).force();
    leases.patch(name, &params, &Patch::Apply(lease)).await?;
    Ok(())
}

/// Renews the Lease until dropped; silent while the node is paused, and says at once when it is back.
pub async fn heartbeat(cx: &Context) {
    let mut paused = cx.paused.clone();
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut returned = false;
        if *paused.borrow_and_update() {
            if paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            returned = true;
        }
        let beat = async {
            renew(cx).await?;
            if returned {
                write_status(cx).await
            } else {
                Ok(())
            }
        };
        if let Err(error) = beat.await {
            tracing::warn!("heartbeat of node {}: {error:#}", cx.options.name);
        }
        tokio::select! {
            _ = ticks.tick() => {}
            changed = paused.changed() => if changed.is_err() { return },
        }
    }
}

/// Removes the Node and its Lease.
///
/// # Errors
/// The API server does not answer.
pub async fn unregister(cx: &Context) -> Result<()> {
    let name = &cx.options.name;
    let nodes: Api<Node> = Api::all(cx.client.clone());
    let leases: Api<Lease> = Api::namespaced(cx.client.clone(), LEASE_NAMESPACE);
    let params = DeleteParams::default();
    ignore_absent(nodes.delete(name, &params).await.map(drop))?;
    ignore_absent(leases.delete(name, &params).await.map(drop))
}

/// What is gone already need not be removed.
pub fn ignore_absent(result: Result<(), Error>) -> Result<()> {
    match result {
        Err(Error::Api(e)) if e.code == 404 => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;

    #[test]
    fn node_is_ready_and_tells_what_it_is() {
        let mut options = ProcessNodeOptions::new("n1", []);
        options.labels = BTreeMap::from([("zone".into(), "a".into())]);
        options.resources = BTreeMap::from([("nvidia.com/gpu".into(), "2".into())]);
        let node = object(
            &options,
            Ipv4Addr::new(198, 18, 0, 1),
            Timestamp::UNIX_EPOCH,
        );
        let node: Node = serde_json::from_value(node).unwrap();
        assert_eq!(node.labels()["zone"], "a");
        assert_eq!(node.labels()[LABEL.0], LABEL.1);
        let status = node.status.unwrap();
        let allocatable = status.allocatable.unwrap();
        assert_eq!(allocatable["pods"].0, "250");
        assert_eq!(allocatable["nvidia.com/gpu"].0, "2");
        let conditions = status.conditions.unwrap();
        let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "True");
    }
}
