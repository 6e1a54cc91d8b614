//! Builds programs from the pinned Go modules into a cache outside the checkout.
//!
//! `<cache>/<module>-<hash of its files and flags>/<program>`: a clean clone finds what another one
//! built, and two processes that want the same module wait for each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::binaries::{Binary, Module};
use crate::cache;
use crate::component::tail;
use crate::process::Process;
use crate::progress;
use crate::run_dir::lock_file;
use crate::toolchain;

const REPORT_EVERY: Duration = Duration::from_secs(15);
const FLAGS: [&str; 2] = ["-trimpath", "-mod=readonly"];

/// Tasks of this process that want to build: one after the other, in silence.
static BUILDING: Mutex<()> = Mutex::const_new(());

/// The path of our own build of `binary`, if there is one.
pub fn built(binary: Binary) -> Result<Option<PathBuf>> {
    let path = module_dir(binary.module())?.join(binary.name());
    Ok(path.is_file().then_some(path))
}

/// The path of our own build of `binary`; builds it when the cache has none.
pub async fn build(binary: Binary) -> Result<PathBuf> {
    if let Some(path) = built(binary)? {
        return Ok(path);
    }
    let folder = module_dir(binary.module())?;
    let path = folder.join(binary.name());
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _task = BUILDING.lock().await;
    let _process = wait_for_lock(&folder, binary).await?;
    if !path.is_file() {
        compile(binary, &folder, &path).await?;
    }
    Ok(path)
}

fn module_dir(module: Module) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for (name, content) in module.files() {
        hash.update(name);
        hash.update(content);
    }
    for flag in FLAGS {
        hash.update(flag);
    }
    hash.update(ld_flags(module)?);
    cache::folder(&format!(
        "{}-{}",
        module.name(),
        &hex::encode(hash.finalize())[..12]
    ))
}

/// Stamps the pinned versions: without them the API server calls itself v0.0.0.
fn ld_flags(module: Module) -> Result<String> {
    Ok(match module {
        Module::Kubernetes => {
            let version = module.pin("k8s.io/kubernetes")?;
            let mut parts = version.trim_start_matches('v').split('.');
            let (major, minor) = (
                parts.next().unwrap_or_default(),
                parts.next().unwrap_or_default(),
            );
            format!(
                "-s -w -X k8s.io/component-base/version.gitVersion={version} \
                 -X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor} \
                 -X k8s.io/client-go/pkg/version.gitVersion={version}"
            )
        }
        Module::Tools => format!(
            "-s -w -X helm.sh/helm/v4/internal/version.version={} -X sigs.k8s.io/kwok/pkg/consts.Version={} \
             -X main.version={}",
            module.pin("helm.sh/helm/v4")?,
            module.pin("sigs.k8s.io/kwok")?,
            module.pin("github.com/yannh/kubeconform")?,
        ),
    })
}

async fn wait_for_lock(folder: &Path, binary: Binary) -> Result<File> {
    let lock = lock_file(&folder.join(".lock"))?;
    if lock.try_lock().is_ok() {
        return Ok(lock);
    }
    progress::line(format_args!(
        "waiting for {}: another process is building from the same Go module",
        binary.name()
    ));
    tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await?
        .context("cannot lock the build cache")
}

async fn compile(binary: Binary, folder: &Path, output: &Path) -> Result<()> {
    let go = toolchain::go().await?;
    let source = write_sources(binary.module(), folder)?;
    let partial = folder.join(format!(".{}.partial", binary.name()));
    let log_path = folder.join(format!("{}.log", binary.name()));
    let log =
        File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut command = Command::new(go);
    command
        .arg("build")
        .args(FLAGS)
        .arg("-ldflags")
        .arg(ld_flags(binary.module())?)
        .arg("-o")
        .arg(&partial)
        .arg(binary.package())
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let started = Instant::now();
    progress::line(format_args!(
        "building {} {}",
        binary.name(),
        expectation(binary)
    ));
    let status = watch(&Process::spawn(command)?, binary, started).await?;
    if !status.success() {
        let lines = tail(&log_path, 12).unwrap_or_default();
        bail!(
            "go build of {} failed ({status}); its output is in {}:\n{lines}",
            binary.name(),
            log_path.display()
        );
    }
    fs::rename(&partial, output)
        .with_context(|| format!("cannot move {} into place", binary.name()))?;
    progress::line(format_args!(
        "built {} in {} s",
        binary.name(),
        started.elapsed().as_secs()
    ));
    Ok(())
}

async fn watch(
    process: &Process,
    binary: Binary,
    started: Instant,
) -> Result<std::process::ExitStatus> {
    loop {
        match tokio::time::timeout(REPORT_EVERY, process.wait()).await {
            Ok(status) => return status,
            Err(_) => progress::line(format_args!(
                "still building {}, {} s so far",
                binary.name(),
                started.elapsed().as_secs()
            )),
        }
    }
}

/// Measured on two quiet cores with nothing compiled before, in this order.
fn expectation(binary: Binary) -> &'static str {
    match binary {
        Binary::KubeApiserver => "(the first time about 6 minutes on 2 cores)",
        Binary::KubeControllerManager => "(the first time about 100 s on 2 cores)",
        Binary::Kwok | Binary::Helm => "(the first time one to two minutes on 2 cores)",
        _ => "(the first time less than a minute on 2 cores)",
    }
}

/// The module's files lie in the cache, so that the build does not depend on where the checkout is.
fn write_sources(module: Module, folder: &Path) -> Result<PathBuf> {
    let source = folder.join("src");
    for (name, content) in module.files() {
        let path = source.join(name);
        let parent = path.parent().unwrap_or(&source);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, content))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(source)
}
