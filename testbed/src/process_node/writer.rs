//! Tells the API server about one pod: the newest status wins, and the last word is its deletion.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Error};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the API server shall know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// `None`: leave the status as it is.
    pub status: Option<PodStatus>,
    /// Nothing of the pod is left on this node: its object may go.
    pub finalize: bool,
}

/// Writes what comes in `reports` until the pod's object is gone or `reports` ends. Nothing is
/// written while `paused` is true.
pub async fn write(
    client: Client,
    pod: &Pod,
    mut reports: watch::Receiver<Report>,
    mut paused: watch::Receiver<bool>,
) {
    let meta = &pod.metadata;
    let (Some(namespace), Some(name), Some(uid)) = (&meta.namespace, &meta.name, &meta.uid) else {
        return;
    };
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    while reports.changed().await.is_ok() {
        let mut pause = RETRY;
        loop {
            if paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            let report = reports.borrow_and_update().clone();
            match send(&pods, name, uid, &report).await {
                Ok(()) if report.finalize => return,
                Ok(()) => break,
                // 404: gone. 409: the name belongs to another pod by now.
                Err(Error::Api(e)) if e.code == 404 || e.code == 409 => return,
                Err(error) => {
                    tracing::warn!("status of pod {namespace}/{name}: {error}");
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = (2 * pause).min(RETRY_MAX);
                }
            }
        }
    }
}

async fn send(pods: &Api<Pod>, name: &str, uid: &str, report: &Report) -> Result<(), Error> {
    if let Some(status) = &report.status {
        let patch = patch(uid, status).map_err(Error::SerdeError)?;
        pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
    }
    if report.finalize {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        pods.delete(name, &params).await?;
    }
    Ok(())
}

/// A strategic merge: conditions of other writers stay. The uid guards against a pod of the same
/// name, and addresses replace those of an earlier life of the node.
fn patch(uid: &str, status: &PodStatus) -> serde_json::Result<Value> {
    let mut status = serde_json::to_value(status)?;
    for list in ["podIPs", "hostIPs"] {
        if let Some(Value::Array(addresses)) = status.get_mut(list) {
            addresses.push(json!({"$patch": "replace"}));
        }
    }
    Ok(json!({"metadata": {"uid": uid}, "status": status}))
}
