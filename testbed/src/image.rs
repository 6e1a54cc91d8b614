//! OCI images without a Docker engine: a few files on scratch, written as one reproducible tar.

mod layer;
mod llama;
mod oci;
mod static_binary;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use layer::Layer;
pub use llama::{LLAMA, LLAMA_ADAPTERS, LLAMA_WEIGHTS, llama};
pub use oci::{Config, write};
pub(crate) use static_binary::MUSL;
pub use static_binary::static_binary;

use crate::packages::{self, Package};

// `.test` is a reserved domain: a name of it that is missing on a node can never be pulled from somewhere.
/// The operator: controller, gateway and worker.
pub const OPERATOR: &str = "persona.test/persona-operator:dev";
/// Redis from Debian, with redis-cli. Its user may write to mounted volumes only.
pub const REDIS: &str = "persona.test/redis:dev";
/// The container that holds a pod's namespaces.
pub const PAUSE: &str = "persona.test/pause:dev";

/// User and group of every image: no privilege, no entry in the host's /etc/passwd.
pub const USER: u32 = 65532;

pub(crate) const CERTIFICATES: &[Package] = &[Package {
    name: "ca-certificates",
    file: "/usr/share/ca-certificates/mozilla",
}];

/// Writes the operator's image to `out`: the static `binary` and a CA bundle on scratch.
///
/// # Errors
/// A file cannot be read or written, or Debian's CA certificates cannot be installed.
pub fn build(binary: &Path, out: &Path) -> Result<()> {
    let mut layer = Layer::default();
    layer.file("persona-operator", binary, 0o755);
    layer.bytes("etc/ssl/certs/ca-certificates.crt", ca_bundle()?, 0o644);
    write(&layer, &Config::new(OPERATOR, "/persona-operator"), out)
}

/// Writes an image named `name` with nothing but a static binary.
///
/// # Errors
/// A file cannot be read or written.
pub fn single_binary(name: &str, binary: &Path, out: &Path) -> Result<()> {
    let file = binary.file_name().and_then(|f| f.to_str());
    let file = file.with_context(|| format!("{} has no file name", binary.display()))?;
    let mut layer = Layer::default();
    layer.file(file, binary, 0o755);
    write(&layer, &Config::new(name, &format!("/{file}")), out)
}

/// Writes the image of Redis to `out`: Debian's binaries with the libraries they load.
///
/// # Errors
/// Redis is not installed and cannot be, or a file cannot be read or written.
pub fn redis(out: &Path) -> Result<()> {
    packages::ensure_blocking(crate::redis::PACKAGES)?;
    let mut layer = Layer::default();
    // One binary has both roles in Debian and looks at the name it was started under.
    let server = Path::new("/usr/bin/redis-check-rdb");
    layer.program("usr/local/bin/redis-server", server)?;
    layer.program("usr/local/bin/redis-cli", Path::new("/usr/bin/redis-cli"))?;
    write(
        &layer,
        &Config::new(REDIS, "/usr/local/bin/redis-server"),
        out,
    )
}

/// Mozilla's certificates as Debian ships them; never those that only this machine trusts.
///
/// # Errors
/// They are not installed and cannot be, or cannot be read.
pub fn ca_bundle() -> Result<Vec<u8>> {
    packages::ensure_blocking(CERTIFICATES)?;
    let mut files = Vec::<PathBuf>::new();
    for entry in fs::read_dir(CERTIFICATES[0].file)? {
        files.push(entry?.path());
    }
    files.sort();
    let mut bundle = Vec::new();
    for file in files {
        bundle.extend(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    Ok(bundle)
}
