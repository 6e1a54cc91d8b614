//! The image of llama.cpp's server with weights and adapters: Python and the wheels of the testbed on scratch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Config, Layer, write};
use crate::model::{WEIGHTS, adapters_in, environment, weights_in};

/// llama.cpp's server, which takes options of `llama-server`.
pub const LLAMA: &str = "persona.test/llama.cpp:dev";
/// Path of the model's weights in it.
pub const LLAMA_WEIGHTS: &str = "/weights/SmolLM2-135M-Instruct.Q4_1.gguf";
/// Paths of two LoRA adapters in it, which it loads when `--lora` names them.
pub const LLAMA_ADAPTERS: [&str; 2] = ["/weights/one.gguf", "/weights/two.gguf"];

const SERVER: &str = include_str!("../../llama_server.py");
/// Where an interpreter, its library and its packages are.
const PLACES: &str = "import os, sys, sysconfig\n\
    print(os.path.realpath(sys.executable))\n\
    print(sysconfig.get_path('stdlib'))\n\
    print(sysconfig.get_path('platlib'))";
/// Parts of Python's library that no server needs.
const LEFT_OUT: [&str; 8] = [
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tkinter",
];

/// Writes the image to `out`.
///
/// # Errors
/// The wheels are not installed and cannot be, the adapters cannot be made, or a file cannot be read or written.
pub fn llama(out: &Path) -> Result<()> {
    let environment = environment()?;
    let output = Command::new(environment.join("bin/python"))
        .args(["-c", PLACES])
        .output()?;
    let places = String::from_utf8(output.stdout)?;
    let mut places = places.lines().map(PathBuf::from);
    let mut place = || places.next().context("Python does not say where it is");
    let (python, library, packages) = (place()?, place()?, place()?);
    let mut layer = Layer::default();
    layer.program(inside(&python)?, &python)?;
    tree(&mut layer, &library)?;
    for entry in fs::read_dir(&packages)? {
        let path = entry?.path();
        // Beside the package there may be the libraries that it brings.
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("xllamacpp"))
        {
            tree(&mut layer, &path)?;
        }
    }
    ensure!(
        LLAMA_WEIGHTS.ends_with(WEIGHTS),
        "the weights are {WEIGHTS}"
    );
    layer.file(
        LLAMA_WEIGHTS.trim_start_matches('/'),
        &weights_in(&environment)?,
        0o644,
    );
    for (path, source) in LLAMA_ADAPTERS.iter().zip(adapters_in(&environment)?) {
        layer.file(path.trim_start_matches('/'), &source, 0o644);
    }
    let first = format!(
        "#!{} -B\nimport sys\nsys.path.insert(0, {packages:?})\n",
        python.display()
    );
    layer.bytes(
        "llama-server",
        format!("{first}{SERVER}").into_bytes(),
        0o755,
    );
    write(&layer, &Config::new(LLAMA, "/llama-server"), out)
}

/// Adds a folder of the host at its own path, with the libraries that its modules load.
fn tree(layer: &mut Layer, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if LEFT_OUT.contains(&name.as_str()) || name.starts_with("config-") {
            continue;
        }
        if path.is_dir() {
            tree(layer, &path)?;
        } else if name.ends_with(".so") {
            layer.program(inside(&path)?, &path)?;
        } else if path.is_file() && !name.ends_with(".a") {
            layer.file(inside(&path)?, &path, 0o644);
        }
    }
    Ok(())
}

fn inside(path: &Path) -> Result<&str> {
    let path = path.to_str().context("a path that is not UTF-8")?;
    Ok(path.trim_start_matches('/'))
}
