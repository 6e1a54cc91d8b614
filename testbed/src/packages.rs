//! Debian packages the testbed needs: installed when root, otherwise named with the exact command.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// A package and a file that proves it is installed. The file, and not dpkg's word, decides: a
/// machine may have the same program from elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    pub name: &'static str,
    pub file: &'static str,
}

const LOCK: &str = "/run/lock/persona-testbed-packages";
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// What builds an image from a Dockerfile without an engine.
pub const BUILDAH: &[Package] = &[Package {
    name: "buildah",
    file: "/usr/bin/buildah",
}];

/// All that the testbed may want some day; `root` includes what only a root can use.
pub fn all(root: bool) -> Vec<Package> {
    let groups = [
        crate::redis::PACKAGES,
        crate::venv::PYTHON,
        crate::image::CERTIFICATES,
        crate::prometheus::PACKAGES,
        crate::rabbitmq::PACKAGES,
    ];
    let for_root = [crate::real_node::PACKAGES, crate::image::MUSL, BUILDAH];
    let mut all = groups.concat();
    if root {
        all.extend(for_root.concat());
    }
    all
}

/// Installs what is missing of `packages`, without starting any service they bring.
///
/// # Errors
/// Not root, or not Debian: the error names the packages and the command. Or apt failed.
pub async fn ensure(packages: &[Package]) -> Result<()> {
    let packages = packages.to_vec();
    tokio::task::spawn_blocking(move || ensure_blocking(&packages)).await?
}

/// As [`ensure`], for threads that may block.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_blocking(packages: &[Package]) -> Result<()> {
    if missing(packages).is_empty() {
        Ok(())
    } else {
        install(packages)
    }
}

fn missing(packages: &[Package]) -> Vec<&'static str> {
    let absent = packages.iter().filter(|p| !Path::new(p.file).exists());
    absent.map(|p| p.name).collect()
}

/// What a person types who is root.
fn command(names: &[&str]) -> String {
    let names = names.join(" ");
    format!("apt-get install -y --no-install-recommends {names}")
}

fn require_root(is_root: bool, names: &[&str]) -> Result<()> {
    if !is_root {
        bail!(
            "not installed: {}; run: sudo {}",
            names.join(", "),
            command(names)
        );
    }
    Ok(())
}

fn install(packages: &[Package]) -> Result<()> {
    require_root(nix::unistd::geteuid().is_root(), &missing(packages))?;
    let file = fs::File::create(LOCK).with_context(|| format!("cannot create {LOCK}"))?;
    let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    // Another testbed may have installed them while this one waited.
    let names = missing(packages);
    if names.is_empty() {
        return Ok(());
    }
    crate::progress::line(format_args!("installing {}", names.join(", ")));
    let _no_services = NoServices::for_now()?;
    if apt_install(&names).is_err() {
        // The lists of a fresh machine are empty or old.
        apt(&["update", "-q"])?;
        apt_install(&names).with_context(|| format!("try by hand: {}", command(&names)))?;
    }
    match missing(packages).as_slice() {
        [] => Ok(()),
        left => bail!(
            "installed, but their files are not where they were expected: {}",
            left.join(", ")
        ),
    }
}

fn apt_install(names: &[&str]) -> Result<()> {
    apt(&[&["install", "-q", "-y", "--no-install-recommends"], names].concat())
}

fn apt(args: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("cannot run apt-get: the testbed knows only Debian's packages")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {}: {}", args.join(" "), words.trim());
    }
    Ok(())
}

/// While it lives, Debian's invoke-rc.d starts no service. A policy the machine already has stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn for_now() -> Result<Self> {
        let mut options = OpenOptions::new();
        match options
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
        {
            Ok(mut file) => {
                file.write_all(b"#!/bin/sh\nexit 101\n")?;
                Ok(Self { ours: true })
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(Self { ours: false }),
            Err(e) => Err(e).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(e) = fs::remove_file(POLICY)
        {
            crate::progress::line(format_args!(
                "remove {POLICY} by hand, it keeps services from starting: {e}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSING: Package = Package {
        name: "no-such-package",
        file: "/no/such/file",
    };

    #[test]
    fn who_is_not_root_is_told_the_exact_command() {
        let error = require_root(false, &["runc", "iptables"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not installed: runc, iptables; \
             run: sudo apt-get install -y --no-install-recommends runc iptables"
        );
        require_root(true, &["runc"]).unwrap();
    }

    #[test]
    fn only_the_file_decides_what_is_missing() {
        let there = Package {
            name: "a-shell-from-somewhere",
            file: "/bin/sh",
        };
        assert_eq!(missing(&[there, MISSING]), ["no-such-package"]);
        ensure_blocking(&[there]).unwrap();
    }
}
