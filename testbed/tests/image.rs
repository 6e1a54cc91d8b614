//! Images are reproducible, small and well formed.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use testbed::image;

type Files = HashMap<String, Vec<u8>>;

fn unpack(tar: &[u8]) -> Result<Files> {
    let mut files = Files::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(entry.path()?.display().to_string(), bytes);
    }
    Ok(files)
}

/// The blob a descriptor points to; digest and size must be true.
fn blob<'a>(files: &'a Files, descriptor: &Value) -> Result<&'a [u8]> {
    let digest = descriptor["digest"]
        .as_str()
        .and_then(|d| d.strip_prefix("sha256:"));
    let digest = digest.context("no digest")?;
    let bytes = files
        .get(&format!("blobs/sha256/{digest}"))
        .context("no such blob")?;
    assert_eq!(hex::encode(Sha256::digest(bytes)), digest);
    assert_eq!(descriptor["size"], bytes.len());
    Ok(bytes)
}

/// Config and files of the only image in an OCI tar.
fn open(tar: &Path) -> Result<(Value, Files)> {
    let files = unpack(&fs::read(tar)?)?;
    let index: Value = serde_json::from_slice(&files["index.json"])?;
    let manifest: Value = serde_json::from_slice(blob(&files, &index["manifests"][0])?)?;
    let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])?)?;
    let layer = blob(&files, &manifest["layers"][0])?;
    let diff = format!("sha256:{}", hex::encode(Sha256::digest(layer)));
    assert_eq!(config["rootfs"]["diff_ids"][0], diff);
    Ok((config, unpack(layer)?))
}

#[test]
fn operator_image_is_one_static_binary_and_a_ca_bundle_below_20_mb() -> Result<()> {
    let binary = image::static_binary("persona-operator")?;
    let folder = tempfile::tempdir()?;
    let (first, second) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
    image::build(&binary, &first)?;
    image::build(&binary, &second)?;
    assert!(fs::read(&first)? == fs::read(&second)?, "two builds differ");
    assert!(
        first.metadata()?.len() < 20_000_000,
        "{} bytes",
        first.metadata()?.len()
    );
    let (config, files) = open(&first)?;
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/persona-operator");
    assert_eq!(files.len(), 2);
    assert!(
        !has_interpreter(&files["persona-operator"]),
        "it asks for a dynamic loader"
    );
    let bundle = std::str::from_utf8(&files["etc/ssl/certs/ca-certificates.crt"])?;
    assert!(bundle.matches("BEGIN CERTIFICATE").count() > 50);
    Ok(())
}

/// Whether a 64-bit ELF file has a program header of type `PT_INTERP` (3).
fn has_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, len: usize| {
        elf[at..at + len]
            .iter()
            .rev()
            .fold(0_usize, |n, byte| n << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count).any(|i| number(table + i * size, 4) == 3)
}

#[test]
fn redis_image_brings_every_library_it_loads() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tar = folder.path().join("redis.tar");
    image::redis(&tar)?;
    let (config, files) = open(&tar)?;
    assert_eq!(
        config["config"]["Entrypoint"][0],
        "/usr/local/bin/redis-server"
    );
    assert!(has_interpreter(&files["usr/local/bin/redis-server"]));
    assert!(
        files.keys().any(|path| path.contains("libc.so.6")),
        "{:?}",
        files.keys()
    );
    assert!(
        files.keys().any(|path| path.starts_with("lib64/ld-linux")),
        "{:?}",
        files.keys()
    );
    Ok(())
}

#[test]
fn llama_image_brings_weights_and_adapters() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tar = folder.path().join("llama.tar");
    image::llama(&tar)?;
    let (config, files) = open(&tar)?;
    assert_eq!(config["config"]["Entrypoint"][0], "/llama-server");
    for path in [&[image::LLAMA_WEIGHTS][..], &image::LLAMA_ADAPTERS].concat() {
        let file = files.get(path.trim_start_matches('/')).context(path)?;
        assert!(file.starts_with(b"GGUF"), "{path}");
    }
    Ok(())
}
