//! The cgroup below which all pods of a real node run. Namespaces do not cover cgroups, so it has a name
//! of its own a testbed, and is removed at the end.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What the kubelet wants in `cgroup.subtree_control` on a machine with cgroup v2.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "hugetlb"];
/// How long the processes of a killed testbed may take to leave.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes the empty cgroup `name` in every hierarchy; one that a dead testbed left is removed first.
pub fn create(name: &str) -> Result<()> {
    let (roots, unified) = hierarchies()?;
    for root in &roots {
        let folder = root.join(name);
        remove_left_over(&folder)?;
        if unified {
            delegate(root);
        }
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        if unified {
            delegate(&folder);
        }
    }
    Ok(())
}

/// The roots of all hierarchies, and whether it is the single one of cgroup v2.
fn hierarchies() -> Result<(Vec<PathBuf>, bool)> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let of_type = |wanted: &str| -> Vec<PathBuf> {
        let fields = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let matching = fields.filter(|f| f.len() > 2 && f[2] == wanted);
        matching
            .map(|f| PathBuf::from(f[1]))
            .filter(|p| p.starts_with("/sys/fs/cgroup"))
            .collect()
    };
    let v1 = of_type("cgroup");
    if !v1.is_empty() {
        return Ok((v1, false));
    }
    let v2 = of_type("cgroup2");
    if v2.is_empty() {
        bail!("no cgroups are mounted at /sys/fs/cgroup");
    }
    Ok((v2, true))
}

/// Hands controllers down to the children of `folder`; one the kernel does not have is the kubelet's to miss.
fn delegate(folder: &Path) {
    for controller in CONTROLLERS {
        fs::write(
            folder.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )
        .ok();
    }
}

fn remove_left_over(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = remove(folder) {
        if Instant::now() > deadline {
            return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes a cgroup with its children; fails as long as a process is in one of them.
fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    remove(&entry.path())?;
                }
            }
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
