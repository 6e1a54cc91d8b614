//! `cargo testbed up --detach`: starts a process in a session of its own that holds the testbed, and
//! returns when that is ready.
//!
//! What the holder prints when it is ready comes through a pipe. Until then it dies with the starter;
//! from then on it writes to a log file and belongs to nobody.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, getppid};
use testbed::{Stop, registry};
use tokio::io::AsyncReadExt;

use super::output;
use super::up::Up;

/// The flag that makes a process a holder: the pid of its starter.
pub const HOLDER: &str = "--holder-for";

/// Starts the holder and passes on what it says until it is ready.
pub async fn start(up: &Up, stop: &mut Stop) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("up")
        .args(up.arguments())
        .args([HOLDER, &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
    }
    let mut holder = tokio::process::Command::from(command)
        .spawn()
        .context("cannot start the process that holds the testbed")?;
    let pid = holder.id().context("it is gone")?.cast_signed();
    let mut stdout = holder.stdout.take().context("no stdout")?;
    let mut said = String::new();
    let mut listen = std::pin::pin!(stdout.read_to_string(&mut said));
    loop {
        tokio::select! {
            read = &mut listen => {
                read?;
                break;
            }
            () = stop.wanted() => kill(Pid::from_raw(pid), Signal::SIGTERM)?,
        }
    }
    let entry = registry::find(up.name())?.filter(|entry| entry.record.pid == pid);
    if entry.is_some_and(|entry| entry.record.facts.is_some()) {
        return output::print(&said);
    }
    let status = holder.wait().await?;
    bail!("testbed {:?} is not up ({status})", up.name())
}

/// What the holder does first: from now on it ends when its starter does.
pub fn bind(starter: i32) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    // It may have died before the line above.
    ensure!(getppid().as_raw() == starter, "who started this is gone");
    Ok(())
}

/// What the holder does when all is up: it lets go of its starter, which so learns that all is up.
pub fn release(log: &Path) -> Result<()> {
    prctl::set_pdeathsig(None)?;
    let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    Ok(())
}
