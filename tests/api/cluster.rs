//! The cluster of these tests, with the CRDs on it.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use testbed::Cluster;
use tokio::sync::OnceCell;

/// The shared cluster after `kubectl apply -f crds/`.
pub async fn with_crds() -> Result<&'static Cluster> {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let cluster = Cluster::shared().await?;
    let apply = async || {
        kubectl(&["apply", "-f", "crds"]).await?;
        let kinds = ["personas", "workerpools", "personatopologies"];
        let names = kinds.map(|kind| format!("crd/{kind}.persona.dev"));
        let mut wait = vec!["wait", "--for=condition=Established", "--timeout=60s"];
        wait.extend(names.iter().map(String::as_str));
        kubectl(&wait).await.map(|_| ())
    };
    APPLIED.get_or_try_init(apply).await?;
    Ok(cluster)
}

/// Standard output of a kubectl that succeeds without a warning, run in the root of the repository.
pub async fn kubectl(args: &[&str]) -> Result<String> {
    let output = try_kubectl(args).await?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && complaint.is_empty(),
        "kubectl {}: {complaint}",
        args.join(" ")
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A kubectl that may fail.
pub async fn try_kubectl(args: &[&str]) -> Result<Output> {
    let mut kubectl = Cluster::shared().await?.kubectl().await?;
    kubectl.args(args).current_dir(root());
    kubectl.output().await.context("cannot run kubectl")
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
