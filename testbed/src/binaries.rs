//! The programs of the testbed and where they come from: KUBEBUILDER_ASSETS, the PATH, or built from
//! the pinned Go modules. The pins in the two go.mod files are the only place with versions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};

use crate::gobuild;

/// A program that can be had by [`Binary::resolve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binary {
    Etcd,
    KubeApiserver,
    KubeControllerManager,
    KubeScheduler,
    Kubectl,
    Kubelet,
    KubeProxy,
    Kwok,
    Helm,
    Kubeconform,
    Coredns,
    Pause,
}

/// One of the two pinned Go modules: Kubernetes does not compile with the client-go of the tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Module {
    Kubernetes,
    Tools,
}

impl Module {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Tools => "tools",
        }
    }

    /// The files of the module, by path; all of them count for the cache key.
    pub const fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Kubernetes => &[
                ("go.mod", include_str!("../go.mod")),
                ("go.sum", include_str!("../go.sum")),
            ],
            Self::Tools => &[
                ("go.mod", include_str!("../tools/go.mod")),
                ("go.sum", include_str!("../tools/go.sum")),
                ("coredns/main.go", include_str!("../tools/coredns/main.go")),
                ("pause/main.go", include_str!("../tools/pause/main.go")),
            ],
        }
    }

    /// The version a required module is pinned to, such as `v1.36.3`.
    pub fn pin(self, path: &str) -> Result<&'static str> {
        let (_, go_mod) = self.files()[0];
        pinned(go_mod, path)
            .with_context(|| format!("{path} is not pinned in the go.mod of {}", self.name()))
    }
}

impl Binary {
    /// In the order in which they are built: what a control plane needs first.
    pub const ALL: [Self; 12] = [
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::Kubectl,
        Self::Kubelet,
        Self::KubeProxy,
        Self::Kwok,
        Self::Helm,
        Self::Kubeconform,
        Self::Coredns,
        Self::Pause,
    ];
    pub const CONTROL_PLANE: [Self; 4] = [
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubectl => "kubectl",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Kwok => "kwok",
            Self::Helm => "helm",
            Self::Kubeconform => "kubeconform",
            Self::Coredns => "coredns",
            Self::Pause => "pause",
        }
    }

    pub const fn module(self) -> Module {
        match self {
            Self::Kwok | Self::Helm | Self::Kubeconform | Self::Coredns | Self::Pause => {
                Module::Tools
            }
            _ => Module::Kubernetes,
        }
    }

    /// What `go build` is given.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::KubeApiserver => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::KubeControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::KubeScheduler => "k8s.io/kubernetes/cmd/kube-scheduler",
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Self::Kubelet => "k8s.io/kubernetes/cmd/kubelet",
            Self::KubeProxy => "k8s.io/kubernetes/cmd/kube-proxy",
            Self::Kwok => "sigs.k8s.io/kwok/cmd/kwok",
            Self::Helm => "helm.sh/helm/v4/cmd/helm",
            Self::Kubeconform => "github.com/yannh/kubeconform/cmd/kubeconform",
            Self::Coredns => "./coredns",
            Self::Pause => "./pause",
        }
    }

    /// The Go module whose pin is this program's version, and the arguments that make it print that.
    /// `None`: only our own build will do.
    const fn version(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Etcd => Some(("go.etcd.io/etcd/server/v3", &["--version"])),
            Self::Kubectl => Some(("k8s.io/kubernetes", &["version", "--client"])),
            Self::Kwok => Some(("sigs.k8s.io/kwok", &["--version"])),
            Self::Helm => Some(("helm.sh/helm/v4", &["version", "--short"])),
            Self::Kubeconform => Some(("github.com/yannh/kubeconform", &["-v"])),
            Self::Coredns | Self::Pause => None,
            _ => Some(("k8s.io/kubernetes", &["--version"])),
        }
    }

    /// The path of the program, building it when this machine has none of the right version.
    pub async fn resolve(self) -> Result<PathBuf> {
        static RESOLVED: OnceLock<Mutex<HashMap<Binary, PathBuf>>> = OnceLock::new();
        let resolved = RESOLVED.get_or_init(Mutex::default);
        let known = resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&self)
            .cloned();
        if let Some(path) = known {
            return Ok(path);
        }
        let path = match self.installed().await? {
            Some(path) => path,
            None => gobuild::build(self).await?,
        };
        resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self, path.clone());
        Ok(path)
    }

    /// As [`Self::resolve`], but `None` where that would have to build it.
    pub async fn available(self) -> Result<Option<PathBuf>> {
        match self.installed().await? {
            Some(path) => Ok(Some(path)),
            None => gobuild::built(self),
        }
    }

    /// A program of the pinned minor version that the user brought.
    async fn installed(self) -> Result<Option<PathBuf>> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.find(assets.into_iter().chain(std::env::split_paths(&path)))
            .await
    }

    /// The first program of the pinned minor version in these folders.
    async fn find(self, folders: impl Iterator<Item = PathBuf>) -> Result<Option<PathBuf>> {
        let Some((module_path, args)) = self.version() else {
            return Ok(None);
        };
        let minor = minor(self.module().pin(module_path)?);
        for folder in folders {
            let candidate = folder.join(self.name());
            if candidate.is_file() && prints_version(&candidate, args, minor).await {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }
}

/// A program that cannot be run or says another version is not ours to complain about: it is not used.
async fn prints_version(program: &Path, args: &[&str], minor: &str) -> bool {
    let run = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(std::time::Duration::from_secs(20), run).await {
        Ok(Ok(output)) => mentions_minor(&String::from_utf8_lossy(&output.stdout), minor),
        Ok(Err(_)) | Err(_) => false,
    }
}

fn pinned<'a>(go_mod: &'a str, path: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line
            .trim_start()
            .trim_start_matches("require ")
            .split_whitespace();
        (words.next()? == path).then(|| words.next()).flatten()
    })
}

/// `1.36` of `v1.36.3`.
pub(crate) fn minor(version: &str) -> &str {
    let version = version.trim_start_matches('v');
    version
        .match_indices('.')
        .nth(1)
        .map_or(version, |(at, _)| &version[..at])
}

fn mentions_minor(output: &str, minor: &str) -> bool {
    output.match_indices(minor).any(|(at, _)| {
        let before = output[..at].chars().next_back();
        let after = output[at + minor.len()..].chars().next();
        !before.is_some_and(|c| c.is_ascii_digit() || c == '.')
            && !after.is_some_and(|c| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary_has_its_pin() {
        for binary in Binary::ALL {
            if let Some((module_path, _)) = binary.version() {
                let pin = binary.module().pin(module_path).unwrap();
                assert!(
                    pin.starts_with('v') && minor(pin).contains('.'),
                    "{binary:?}: {pin}"
                );
            }
        }
        assert_eq!(minor("v1.36.3"), "1.36");
    }

    /// A folder with a program that prints `says` about its version.
    fn brought(binary: Binary, says: &str) -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(binary.name());
        std::fs::write(&program, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[tokio::test]
    async fn program_of_the_right_minor_version_is_found_behind_a_wrong_one() {
        let minor = minor(Module::Kubernetes.pin("k8s.io/kubernetes").unwrap());
        let old = brought(Binary::KubeApiserver, "Kubernetes v1.20.7");
        let right = brought(Binary::KubeApiserver, &format!("Kubernetes v{minor}.99"));
        let newer = brought(Binary::KubeApiserver, &format!("Kubernetes v{minor}.100"));
        let folders = [&old, &right, &newer].map(|folder| folder.path().to_owned());
        let found = Binary::KubeApiserver.find(folders.into_iter()).await;
        assert_eq!(found.unwrap(), Some(right.path().join("kube-apiserver")));
        let found = Binary::KubeApiserver.find([old.path().to_owned()].into_iter());
        assert_eq!(found.await.unwrap(), None);
    }

    #[tokio::test]
    async fn only_our_own_build_of_our_own_programs_will_do() {
        let folder = brought(Binary::Pause, "1.36");
        let found = Binary::Pause.find([folder.path().to_owned()].into_iter());
        assert_eq!(found.await.unwrap(), None);
    }

    #[test]
    fn only_the_right_minor_version_is_taken() {
        assert!(mentions_minor(
            "Client Version: v1.36.0\nKustomize Version: v5.8.1",
            "1.36"
        ));
        assert!(mentions_minor("etcd Version: 3.6.8", "3.6"));
        assert!(mentions_minor("v4.3", "4.3"));
        assert!(!mentions_minor("Client Version: v1.32.4", "1.36"));
        assert!(!mentions_minor("v1.3.1.36", "1.36"));
        assert!(!mentions_minor("v1.360.1", "1.36"));
    }
}
