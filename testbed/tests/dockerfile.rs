//! The Dockerfile, built by buildah: every instruction of it, on a stand-in for the base image.
//!
//! The published Rust image cannot be pulled on a machine without a registry. The stand-in bears its
//! name and has a shell, CA certificates, and a `cargo` that hands out the binary which this machine's
//! cargo has built from the same sources. What that could hide is checked besides: that the build's
//! context holds every file that the compiler has read, and manifests that cargo accepts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use testbed::image::{self, Config, Layer};
use testbed::{packages, real_node, real_node_wanted};

const CARGO: &str = r#"#!/bin/sh
set -eu
[ "$*" = "build --locked --release --package persona-operator --bin persona-operator" ]
mkdir -p target/release
cp /built target/release/persona-operator
"#;

/// buildah with a storage of its own.
struct Buildah {
    folder: TempDir,
}

impl Buildah {
    fn new() -> Result<Self> {
        packages::ensure_blocking(packages::BUILDAH)?;
        let folder = tempfile::tempdir()?;
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(folder.path().join("policy.json"), policy)?;
        Ok(Self { folder })
    }

    /// What the command printed, without the line's end.
    fn run(&self, command: &str, arguments: &[&str]) -> Result<String> {
        let path = |name: &str| self.folder.path().join(name);
        let mut buildah = Command::new("buildah");
        buildah.arg("--root").arg(path("root"));
        buildah.arg("--runroot").arg(path("run"));
        buildah.args(["--storage-driver", "vfs", command]);
        if matches!(command, "build" | "pull" | "push") {
            buildah.arg("--signature-policy").arg(path("policy.json"));
        }
        let output = buildah.args(arguments).output()?;
        succeeded(command, &output)?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The image's files.
    fn mount(&self, image: &str) -> Result<PathBuf> {
        let container = self.run("from", &["--pull-never", image])?;
        Ok(PathBuf::from(self.run("mount", &[&container])?))
    }
}

fn succeeded(what: &str, output: &Output) -> Result<()> {
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}", words.trim());
    Ok(())
}

fn workspace() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")
}

/// The image that the Dockerfile builds with.
fn base() -> Result<String> {
    let dockerfile = fs::read_to_string(workspace()?.join("Dockerfile"))?;
    let from = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("FROM "));
    let name = from.and_then(|rest| rest.split_whitespace().next());
    Ok(name.context("no FROM")?.to_owned())
}

/// Makes the stand-in and gives it the name of the real one.
fn stand_in(buildah: &Buildah, binary: &Path) -> Result<()> {
    let mut layer = Layer::default();
    for (path, program) in [
        ("bin/sh", "/bin/sh"),
        ("usr/bin/cp", "/bin/cp"),
        ("usr/bin/mkdir", "/bin/mkdir"),
    ] {
        layer.program(path, Path::new(program))?;
    }
    layer.bytes("usr/local/bin/cargo", CARGO.into(), 0o755);
    layer.bytes(
        "etc/ssl/certs/ca-certificates.crt",
        image::ca_bundle()?,
        0o644,
    );
    layer.file("built", binary, 0o755);
    let mut config = Config::new("persona.test/stand-in:1", "/bin/sh");
    config.user = 0;
    let tar = buildah.folder.path().join("stand-in.tar");
    image::write(&layer, &config, &tar)?;
    let id = buildah.run("pull", &[&format!("oci-archive:{}", tar.display())])?;
    buildah.run("tag", &[&id, &base()?])?;
    Ok(())
}

fn build(buildah: &Buildah, arguments: &[&str]) -> Result<()> {
    let context = workspace()?.to_str().context("not UTF-8")?;
    let fixed = ["--pull-never", "--isolation", "chroot"];
    buildah.run("build", &[&fixed, arguments, &[context]].concat())?;
    Ok(())
}

/// The sources that the compiler has read for `binary`, from the list that cargo writes beside it.
fn inputs(binary: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(binary.with_added_extension("d"))?;
    let (_, files) = text
        .split_once(": ")
        .context("not a list of dependencies")?;
    // A blank in a name is written with a backslash; no source has one.
    let files = files.split_whitespace().map(Path::new);
    files
        .map(|file| Ok(file.strip_prefix(workspace()?)?.to_owned()))
        .collect()
}

/// The context lacks nothing that a real cargo would need.
fn check_context(stage: &Path, binary: &Path) -> Result<()> {
    let source = stage.join("src");
    let inputs = inputs(binary)?;
    ensure!(inputs.len() > 20, "{inputs:?}");
    for file in &inputs {
        ensure!(
            source.join(file).is_file(),
            ".dockerignore leaves out {}",
            file.display()
        );
    }
    for absent in [".git", "charts"] {
        ensure!(!source.join(absent).exists(), "{absent} is in the context");
    }
    let mut cargo = testbed::cargo::command();
    cargo.args([
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version=1",
        "--manifest-path",
    ]);
    succeeded(
        "cargo metadata",
        &cargo.arg(source.join("Cargo.toml")).output()?,
    )?;
    ensure!(source.join("Cargo.lock").is_file(), "no Cargo.lock");
    Ok(())
}

#[test]
fn dockerfile_gives_a_small_image_with_the_working_binary_and_no_privilege() -> Result<()> {
    if !real_node_wanted() {
        return Ok(());
    }
    real_node::require_root().context("building the Dockerfile")?;
    let buildah = Buildah::new()?;
    let binary = image::static_binary("persona-operator")?;
    stand_in(&buildah, &binary)?;
    build(&buildah, &["--target", "build", "--tag", "stage"])?;
    check_context(&buildah.mount("stage")?, &binary)?;

    build(&buildah, &["--tag", "operator"])?;
    let files = buildah.mount("operator")?;
    let output = Command::new("chroot")
        .args(["--userspec=65532:65532"])
        .arg(&files)
        .args(["/persona-operator", "--version"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()?;
    succeeded("chroot", &output)?;
    let version = concat!("persona-operator ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8(output.stdout)?, version);
    let bundle = fs::read_to_string(files.join("etc/ssl/certs/ca-certificates.crt"))?;
    assert!(bundle.matches("BEGIN CERTIFICATE").count() > 50);

    let config = buildah.run("inspect", &["--type", "image", "operator"])?;
    let config: Value = serde_json::from_str(&config)?;
    let config = &config["OCIv1"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(
        config["Entrypoint"],
        serde_json::json!(["/persona-operator"])
    );
    let tar = buildah.folder.path().join("operator.tar");
    buildah.run(
        "push",
        &["operator", &format!("docker-archive:{}", tar.display())],
    )?;
    // Not compressed.
    let size = tar.metadata()?.len();
    assert!(size < 20_000_000, "{size} bytes");
    Ok(())
}

#[test]
fn dockerfile_builds_with_the_rust_that_the_workspace_asks_for() -> Result<()> {
    let manifest = fs::read_to_string(workspace()?.join("Cargo.toml"))?;
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "));
    let version = line.context("no rust-version")?.trim_matches('"');
    let base = base()?;
    if !base.ends_with(&format!("/rust:{version}-alpine")) {
        bail!("the Dockerfile builds with {base}, the workspace with Rust {version}");
    }
    Ok(())
}
