//! Kubeconfig files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::certs::{self, Identity};

/// Writes a kubeconfig with the certificates embedded, so that the file can be copied anywhere.
pub fn write(path: &Path, server: &str, ca: &Identity, client: &Identity) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {
            "server": server,
            "certificate-authority-data": base64(&ca.cert_pem),
        }}],
        "users": [{"name": "testbed", "user": {
            "client-certificate-data": base64(&client.cert_pem),
            "client-key-data": base64(&client.key_pem),
        }}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
        "current-context": "testbed",
    });
    certs::write(path, &serde_norway::to_string(&config)?)
}

/// A client for the current context of the file.
pub async fn client(path: &Path) -> Result<kube::Client> {
    crate::install_crypto();
    let file =
        Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn base64(text: &str) -> String {
    // The encoding Kubernetes objects use for bytes.
    match serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())) {
        Ok(serde_json::Value::String(encoded)) => encoded,
        other => unreachable!("ByteString serializes to a string, not {other:?}"),
    }
}
