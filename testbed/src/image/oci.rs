//! The OCI image layout (specification 1.1) with one image of one layer, in a tar.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::Builder;

use super::USER;
use super::layer::{Layer, append};

/// How a container of the image starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Full name with tag, as pods write it.
    pub name: String,
    pub entrypoint: String,
    /// Numeric, else `runAsNonRoot` cannot be verified.
    pub user: u32,
}

impl Config {
    /// An image that runs `entrypoint` without any privilege.
    pub fn new(name: &str, entrypoint: &str) -> Self {
        Self {
            name: name.into(),
            entrypoint: entrypoint.into(),
            user: USER,
        }
    }
}

/// Writes `layer` as an image to the file `out`. Equal input gives equal bytes.
///
/// The layer is not compressed: the tar goes no further than the next `ctr images import`.
///
/// # Errors
/// A file of the layer cannot be read, or `out` cannot be written.
pub fn write(layer: &Layer, config: &Config, out: &Path) -> Result<()> {
    let layer = layer.tar()?;
    let image = serde_json::to_vec(&image_config(config, &digest(&layer)))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &image),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({"os": "linux", "architecture": architecture()});
    // The first is what containerd looks at, the second what buildah and skopeo do.
    let (_, tag) = config
        .name
        .rsplit_once(':')
        .context("an image name needs a tag")?;
    entry["annotations"] = json!({
        "io.containerd.image.name": config.name,
        "org.opencontainers.image.ref.name": tag,
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;
    let mut tar = Builder::new(Vec::new());
    append(
        &mut tar,
        "oci-layout",
        0o644,
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    append(&mut tar, "index.json", 0o644, &index)?;
    for blob in [&manifest, &image, &layer] {
        append(
            &mut tar,
            &format!("blobs/sha256/{}", digest(blob)),
            0o644,
            blob,
        )?;
    }
    let tar = tar.into_inner()?;
    fs::write(out, tar).with_context(|| format!("cannot write {}", out.display()))
}

fn image_config(config: &Config, layer: &str) -> Value {
    json!({
        "os": "linux",
        "architecture": architecture(),
        "config": {
            "User": format!("{0}:{0}", config.user),
            "Entrypoint": [config.entrypoint],
            "WorkingDir": "/",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
    })
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    let digest = format!("sha256:{}", digest(blob));
    json!({"mediaType": media_type, "digest": digest, "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    hex::encode(Sha256::digest(blob))
}

/// Go's name for the machine this runs on.
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
