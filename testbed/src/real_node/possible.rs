//! Whether this process may make a real node, and what to do if not.

use std::process::Command;

use anyhow::{Result, anyhow};

use crate::nodes::VARIABLE;

/// Fails when this process may not make a real node, with what to do about it.
pub fn require_root() -> Result<()> {
    check_root(nix::unistd::geteuid().is_root()).map_err(|reason| mend(&reason))
}

/// As [`require_root`], and tries it: a root in a container may be one that may not do everything.
pub fn require_possible() -> Result<()> {
    possible().map_err(|reason| mend(&reason))
}

/// Whether there can be a real node; if not, why.
pub(crate) fn possible() -> Result<(), String> {
    check_root(nix::unistd::geteuid().is_root())?;
    let output = Command::new("unshare")
        .args([
            "--pid", "--fork", "--mount", "--net", "--ipc", "--uts", "true",
        ])
        .output()
        .map_err(|error| format!("unshare of Debian's util-linux cannot be run ({error})"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "this root may not make namespaces ({})",
        words.trim()
    ))
}

fn check_root(is_root: bool) -> Result<(), String> {
    if is_root {
        Ok(())
    } else {
        Err("it takes root (namespaces, mounts, cgroups)".to_owned())
    }
}

fn mend(reason: &str) -> anyhow::Error {
    anyhow!(
        "a real node is not possible: {reason}. Run as root, or leave out what needs it: \
         `{}=process,fake cargo test`, `cargo testbed up --nodes process`",
        VARIABLE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_root_is_told_why_and_what_to_leave_out() {
        let error = mend(&check_root(false).unwrap_err()).to_string();
        assert!(error.contains("it takes root"), "{error}");
        assert!(error.contains("Run as root"), "{error}");
        assert!(error.contains("TESTBED_NODES=process,fake"), "{error}");
        check_root(true).unwrap();
    }
}
