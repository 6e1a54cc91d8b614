//! Tells Prometheus which pods of a cluster to scrape, as their annotations say, the way most
//! installations are configured to. Debian's Prometheus is built without Kubernetes' discovery, so a
//! file with the targets is kept up to date.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::kubeconfig;

/// How long the first list of pods may take.
const FIRST_LIST: Duration = Duration::from_secs(60);

/// Follows the pods of a cluster until it is dropped. Has a thread and runtime of its own, because
/// tests come and go with theirs.
#[derive(Debug)]
pub struct Pods {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pods {
    /// Returns when `file` has the pods that are there.
    pub async fn follow(kubeconfig: &Path, file: PathBuf) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (listed, first) = oneshot::channel();
        let kubeconfig = kubeconfig.to_owned();
        let thread = std::thread::Builder::new()
            .name("prometheus-pods".into())
            .spawn(move || {
                // Ends when the sender says so or is gone.
                runtime.block_on(async {
                    tokio::select! {
                        Err(error) = keep(&kubeconfig, &file, listed) => {
                            crate::progress::line(format_args!("Prometheus' pods: {error:#}"));
                        }
                        _ = stopped => {}
                    }
                });
            })?;
        let follower = Self {
            stop: Some(stop),
            thread: Some(thread),
        };
        let first = tokio::time::timeout(FIRST_LIST, first).await;
        first
            .context("the cluster gave no list of pods in time")?
            .context("the cluster gives no list of pods")?;
        Ok(follower)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Err: it panicked, and has stopped too.
            thread.join().ok();
        }
    }
}

async fn keep(kubeconfig: &Path, file: &Path, listed: oneshot::Sender<()>) -> Result<()> {
    let pods: Api<Pod> = Api::all(kubeconfig::client(kubeconfig).await?);
    let (store, writer) = reflector::store();
    let events = watcher(pods, watcher::Config::default()).default_backoff();
    let mut events = reflector::reflector(writer, events).boxed();
    let mut listed = Some(listed);
    let mut written = None;
    loop {
        match events.try_next().await {
            // Half a list would take targets away.
            Ok(Some(watcher::Event::Init | watcher::Event::InitApply(_))) => continue,
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("the watch of pods ended"),
            Err(error) => {
                tracing::debug!(%error, "the watch of pods broke, it begins anew");
                continue;
            }
        }
        let mut targets: Vec<Value> = store.state().iter().filter_map(|pod| target(pod)).collect();
        targets.sort_by_key(ToString::to_string);
        let targets = Value::from(targets).to_string();
        if written.as_ref() != Some(&targets) {
            // Whoever reads it sees the old one or the new one, never a part.
            let partial = file.with_extension("partial");
            fs::write(&partial, &targets)?;
            fs::rename(&partial, file)?;
            written = Some(targets);
        }
        if let Some(listed) = listed.take() {
            // Err: nobody waits any more.
            listed.send(()).ok();
        }
    }
}

/// A running pod that wants to be scraped, in the form of `file_sd_configs`.
fn target(pod: &Pod) -> Option<Value> {
    let annotation = |name: &str| pod.annotations().get(&format!("prometheus.io/{name}"));
    let status = pod.status.as_ref()?;
    let scraped = annotation("scrape")? == "true" && status.phase.as_deref()? == "Running";
    let ip: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    let port: u16 = annotation("port")?.parse().ok()?;
    let mut labels = json!({
        "__metrics_path__": annotation("path").map_or("/metrics", String::as_str),
        "pod": pod.name_any(),
        "pod_namespace": pod.namespace(),
    });
    if let Some(component) = pod.labels().get("app.kubernetes.io/component") {
        labels["component"] = json!(component);
    }
    let target = json!({"targets": [SocketAddr::new(ip, port)], "labels": labels});
    scraped.then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_running_pods_that_ask_for_it_are_scraped() {
        let pod = |scrape: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "p", "namespace": "n",
                    "labels": {"app.kubernetes.io/component": "gateway"},
                    "annotations": {"prometheus.io/scrape": scrape, "prometheus.io/port": "9090"},
                },
                "status": {"phase": phase, "podIP": "198.18.0.2"},
            }))
            .unwrap()
        };
        assert_eq!(target(&pod("false", "Running")), None);
        assert_eq!(target(&pod("true", "Pending")), None);
        assert_eq!(target(&Pod::default()), None);
        let found = target(&pod("true", "Running")).unwrap();
        assert_eq!(found["targets"], json!(["198.18.0.2:9090"]));
        assert_eq!(found["labels"]["component"], "gateway");
        assert_eq!(found["labels"]["__metrics_path__"], "/metrics");
    }
}
