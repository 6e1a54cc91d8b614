//! One supervised program of the testbed: how to start it, where it logs, how to know it is ready.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::probe::Probe;
use crate::process::Process;

const LOG_TAIL_LINES: usize = 12;
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// How a program is started; see [`Component::start`].
#[derive(Debug, Clone)]
pub struct Spec {
    /// Shown in messages, and the stem of the log file.
    pub name: String,
    pub program: PathBuf,
    /// What the program sees as its own name, when that is not the file's.
    pub arg0: Option<OsString>,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub probe: Probe,
    /// How long the probe may take to succeed; generous, for loaded machines.
    pub ready_within: Duration,
}

impl Spec {
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, probe: Probe) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            env: Vec::new(),
            probe,
            ready_within: Duration::from_secs(90),
        }
    }

    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// A program that is started once and may be killed, paused and restarted with the same ports and
/// data. Dropping it kills it.
#[derive(Debug)]
pub struct Component {
    spec: Spec,
    log: PathBuf,
    process: Mutex<Option<Arc<Process>>>,
}

impl Component {
    /// Starts the program, its output appended to `<logs>/<name>.log`. Does not wait for it to be ready.
    pub fn start(spec: Spec, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{}.log", spec.name));
        let component = Self {
            spec,
            log,
            process: Mutex::new(None),
        };
        component.spawn()?;
        Ok(component)
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it is started, to start another one like it.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The pid, unless it was stopped or has died.
    pub fn pid(&self) -> Option<i32> {
        self.process()
            .filter(|process| process.exited().is_none())
            .map(|process| process.pid())
    }

    /// Waits for the probe. Fails at once when the program ends, with its last log lines.
    pub async fn ready(&self) -> Result<()> {
        let process = self
            .process()
            .with_context(|| format!("{} is stopped", self.spec.name))?;
        let deadline = Instant::now() + self.spec.ready_within;
        let mut last = None;
        while Instant::now() < deadline {
            if let Some(status) = process.exited() {
                bail!(
                    "{} ended while starting ({status})\n{}",
                    self.spec.name,
                    self.last_words()
                );
            }
            match self.spec.probe.check().await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        let reason = last.map(|error| format!(": {error:#}")).unwrap_or_default();
        bail!(
            "{} is not ready after {:?}{reason}\n{}",
            self.spec.name,
            self.spec.ready_within,
            self.last_words()
        )
    }

    /// SIGKILL, as a crash would be. Returns when it is gone.
    pub async fn kill(&self) -> Result<()> {
        if let Some(process) = self.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, then SIGKILL after `grace`. `None` when it was not running.
    pub async fn stop(&self, grace: Duration) -> Result<Option<ExitStatus>> {
        match self.take() {
            Some(process) => Ok(Some(process.stop(grace).await?)),
            None => Ok(None),
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It was not running.
    pub async fn ended(&self) -> Result<ExitStatus> {
        let process = self.process();
        process
            .with_context(|| format!("{} is stopped", self.spec.name))?
            .wait()
            .await
    }

    /// Starts it again (killing what still runs) with the same arguments, and waits until it is ready.
    pub async fn restart(&self) -> Result<()> {
        self.kill().await?;
        self.spawn()?;
        self.ready().await
    }

    /// Replaces the arguments; they count from the next restart.
    pub fn set_args<I: IntoIterator<Item = S>, S: Into<OsString>>(&mut self, args: I) {
        self.spec.args = args.into_iter().map(Into::into).collect();
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process()
            .with_context(|| format!("{} is stopped", self.spec.name))?
            .signal(signal)
    }

    fn process(&self) -> Option<Arc<Process>> {
        self.process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn take(&self) -> Option<Arc<Process>> {
        self.process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn spawn(&self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.spec.program);
        if let Some(arg0) = &self.spec.arg0 {
            std::os::unix::process::CommandExt::arg0(&mut command, arg0);
        }
        command
            .args(&self.spec.args)
            .envs(self.spec.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::spawn(command)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(process));
        Ok(())
    }

    /// The folder of the logs and the end of this one, for error messages.
    pub fn last_words(&self) -> String {
        let folder = self.log.parent().unwrap_or(&self.log).display();
        let file = self.log.file_name().unwrap_or_default().to_string_lossy();
        match tail(&self.log, LOG_TAIL_LINES) {
            Ok(lines) if lines.is_empty() => format!("logs are in {folder} ({file} is empty)"),
            Ok(lines) => format!("logs are in {folder}; the end of {file}:\n{lines}"),
            Err(error) => format!("logs are in {folder} ({file} cannot be read: {error})"),
        }
    }
}

/// The last lines of a file, indented.
pub fn tail(path: &Path, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| format!("  {}", clip(line)));
    Ok(last.collect::<Vec<_>>().join("\n"))
}

/// Log lines of Kubernetes can be pages long.
fn clip(line: &str) -> String {
    const WIDTH: usize = 300;
    if line.chars().count() <= WIDTH {
        line.to_owned()
    } else {
        line.chars().take(WIDTH).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failed_start_names_the_log_folder_and_shows_the_last_lines() {
        let logs = tempfile::tempdir().unwrap();
        let spec = Spec::new(
            "broken",
            "/bin/sh",
            Probe::Http("http://127.0.0.1:1/".into()),
        )
        .args(["-c", "echo starting; echo no such file: ca.crt >&2; exit 3"]);
        let error = Component::start(spec, logs.path())
            .unwrap()
            .ready()
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&logs.path().display().to_string()),
            "{error}"
        );
        assert!(
            error.contains("no such file: ca.crt") && error.contains("exit status: 3"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn restart_runs_the_same_program_under_a_new_pid() {
        let logs = tempfile::tempdir().unwrap();
        let spec =
            Spec::new("sleeper", "/bin/sh", Probe::None).args(["-c", "while :; do sleep 60; done"]);
        let component = Component::start(spec, logs.path()).unwrap();
        let first = component.pid().unwrap();
        component.kill().await.unwrap();
        assert_eq!(component.pid(), None);
        component.restart().await.unwrap();
        assert_ne!(component.pid().unwrap(), first);
    }
}
