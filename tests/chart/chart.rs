//! Helm and kubectl on the cluster of these tests, and the release that they share.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, anyhow, ensure};
use testbed::Cluster;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// Name of the release, and so the stem of all names.
pub const NAME: &str = "persona-operator";

/// The chart's folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/persona-operator")
}

/// A values file of these tests.
pub fn values(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/values");
    folder.join(format!("{name}.yaml"))
}

/// Runs a command to its end; its standard output, or its complaint as an error.
pub async fn run(mut command: Command, args: &[&str]) -> Result<String> {
    let output = command.args(args).output().await?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {complaint}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// A kubectl on the shared cluster that may fail.
pub async fn try_kubectl(args: &[&str]) -> Result<Output> {
    let mut kubectl = Cluster::shared().await?.kubectl().await?;
    kubectl
        .args(args)
        .output()
        .await
        .context("cannot run kubectl")
}

/// The chart as helm renders it for a release in `namespace`.
pub async fn template(namespace: &str, args: &[&str]) -> Result<String> {
    let helm = Cluster::shared().await?.helm().await?;
    let chart = folder();
    let chart = chart.to_string_lossy();
    let args = [&["template", NAME, &chart, "-n", namespace], args].concat();
    run(helm, &args).await
}

/// The namespace of a release whose pods run on fake nodes, in a namespace that lets only
/// restricted pods in.
pub async fn installed() -> Result<&'static str> {
    static NAMESPACE: OnceCell<Result<String, String>> = OnceCell::const_new();
    let install = async || install().await.map_err(|error| format!("{error:#}"));
    let namespace = NAMESPACE.get_or_init(install).await.as_ref();
    namespace
        .map(String::as_str)
        .map_err(|error| anyhow!(error.clone()))
}

async fn install() -> Result<String> {
    let cluster = Cluster::shared().await?;
    cluster.fake_nodes(2, 0).await?;
    let namespace = cluster.namespace("persona-system").await?;
    let restricted = "pod-security.kubernetes.io/enforce=restricted";
    let label = ["label", "namespace", &namespace, restricted];
    run(cluster.kubectl().await?, &label).await?;
    let chart = folder();
    let chart = chart.to_string_lossy();
    let tolerate = r#"tolerations=[{"key":"testbed.persona.dev/node","operator":"Exists"}]"#;
    let on_fakes = ["controller", "gateway", "redis"].map(|part| format!("{part}.{tolerate}"));
    let mut args = vec![
        "install",
        NAME,
        &chart,
        "-n",
        &namespace,
        "--take-ownership",
    ];
    args.extend([
        "--wait",
        "--timeout",
        "120s",
        "--set",
        "redis.persistence.enabled=false",
    ]);
    args.extend(on_fakes.iter().flat_map(|set| ["--set-json", set]));
    run(cluster.helm().await?, &args).await?;
    Ok(namespace)
}
