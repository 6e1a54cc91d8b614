//! Python environments with pinned packages, one for each state of a requirements file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::packages::{self, Package};
use crate::process::spawn_bound;

pub(crate) const PYTHON: &[Package] = &[Package {
    name: "python3-venv",
    file: "/usr/share/doc/python3-venv",
}];
const OPENAI: &str = include_str!("../openai-requirements.txt");

/// A Python with OpenAI's SDK.
///
/// # Errors
/// It cannot be installed; what pip said.
pub async fn openai_python() -> Result<PathBuf> {
    let make = || environment("openai", OPENAI, "OpenAI's SDK");
    let folder = tokio::task::spawn_blocking(make).await??;
    Ok(folder.join("bin/python"))
}

/// The folder of an environment, installed on first use. `what` is for the progress line.
///
/// # Errors
/// As [`openai_python`].
pub(crate) fn environment(name: &str, requirements: &str, what: &str) -> Result<PathBuf> {
    let digest = hex::encode(Sha256::digest(requirements));
    let folder = crate::cache::folder(&format!("{name}-{}", &digest[..12]))?;
    crate::cache::fill_once(&folder, || install(&folder, requirements, what))?;
    Ok(folder)
}

/// Without dependencies: the requirements name all that is needed.
fn install(folder: &Path, requirements: &str, what: &str) -> Result<()> {
    crate::progress::line(format_args!("installing {what} into {}", folder.display()));
    let python = |args: &[&str]| {
        let mut command = Command::new("python3");
        command.args(args);
        command
    };
    if run(python(&["-m", "ensurepip", "--version"])).is_err() {
        packages::ensure_blocking(PYTHON)?;
    }
    let mut venv = python(&["-m", "venv", "--clear"]);
    venv.arg(folder);
    run(venv)?;
    let file = folder.join("requirements.txt");
    fs::write(&file, requirements)?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--requirement",
    ]);
    pip.arg(&file);
    run(pip)
}

/// Runs it to its end, silently.
///
/// # Errors
/// It fails; what it said.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let words = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = spawn_bound(command).with_context(|| format!("cannot run {words}"))?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{words}: {}", String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}
