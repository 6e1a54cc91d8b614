//! The folder outside the checkout where built and downloaded things stay between runs.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// `${XDG_CACHE_HOME:-~/.cache}/persona-operator/testbed/<name>`; its parent exists on return.
///
/// # Errors
/// No home folder, or it cannot be written.
pub fn folder(name: &str) -> Result<PathBuf> {
    let caches = match env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir()
            .context("set HOME or XDG_CACHE_HOME")?
            .join(".cache"),
    };
    let parent = caches.join("persona-operator/testbed");
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    Ok(parent.join(name))
}

/// Runs `fill` unless an earlier run filled `folder` to the end; one process at a time does it.
///
/// # Errors
/// Those of `fill`; the next call then starts anew.
pub fn fill_once(folder: &Path, fill: impl FnOnce() -> Result<()>) -> Result<()> {
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(());
    }
    let file = File::create(folder.with_added_extension("lock"))?;
    let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    if !complete.exists() {
        fill()?;
        File::create(&complete)?;
    }
    Ok(())
}
