//! A binary that needs no file of its image: musl where it can be had, else glibc linked in.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo;
use crate::packages::{self, Package};
use crate::process::spawn_bound;
use crate::progress::Slow;

pub(crate) const MUSL: &[Package] = &[Package {
    name: "musl-tools",
    file: "/usr/bin/musl-gcc",
}];

/// Builds the workspace's binary `name` (release) without dynamic libraries and returns its path.
///
/// Blocks: some minutes the first time, seconds after that.
///
/// # Errors
/// Cargo is not there, or the code does not compile; the compiler's words are on stderr.
pub fn static_binary(name: &str) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")?;
    let mut command = cargo::command();
    command.current_dir(workspace);
    command.args([
        "build",
        "--quiet",
        "--release",
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.args(["--package", name, "--bin", name]);
    let triple = link_statically(&mut command);
    command.args(["--target", &triple]);
    let doing = format!("building {name} for {triple}");
    let _slow = Slow::new(doing, "some minutes the first time");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let cargo = spawn_bound(command).context("cannot run cargo")?;
    let output = cargo.wait_with_output()?;
    if !output.status.success() {
        bail!("cargo could not build {name}: {}", output.status);
    }
    executable(&output.stdout).with_context(|| format!("cargo built no executable {name}"))
}

/// The path in cargo's last message about an executable.
fn executable(messages: &[u8]) -> Option<PathBuf> {
    let lines = messages.split(|byte| *byte == b'\n').rev();
    let messages = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    messages
        .filter_map(|m| m["executable"].as_str().map(PathBuf::from))
        .next()
}

/// Sets what static linking takes and returns the target triple.
fn link_statically(command: &mut Command) -> String {
    let musl = format!("{ARCH}-unknown-linux-musl");
    match musl_is_there(&musl) {
        Ok(()) => {
            command.env(format!("CC_{}", musl.replace('-', "_")), "musl-gcc");
            musl
        }
        Err(e) => {
            crate::progress::line(format_args!("linking with glibc instead of musl: {e:#}"));
            let gnu = format!("{ARCH}-unknown-linux-gnu");
            let flags = format!(
                "CARGO_TARGET_{}_RUSTFLAGS",
                gnu.replace('-', "_").to_uppercase()
            );
            command.env(flags, "-C target-feature=+crt-static");
            gnu
        }
    }
}

/// The target's standard library, and a C compiler for the parts of `ring` that are C.
fn musl_is_there(triple: &str) -> Result<()> {
    let output = Command::new("rustup")
        .args(["target", "add", triple])
        .output();
    let output = output.context("no rustup to add the target with")?;
    if !output.status.success() {
        bail!(
            "rustup target add {triple}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    packages::ensure_blocking(MUSL)
}
