//! Testbeds with a name: each is a process that holds everything up, and writes down where it is in a
//! run folder called after it, so that other processes can find it, look at it and end it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::certs;
use crate::process::is_alive;
use crate::progress;
use crate::run_dir::{self, RunDir};
use crate::stack::Facts;

/// Before the name, so that no name can be that of another run folder.
const PREFIX: &str = "up-";
const RECORD: &str = "testbed.json";
const NAME_LENGTH: usize = 40;

/// What a named testbed says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub pid: i32,
    /// Seconds since 1970.
    pub started: u64,
    /// Unset while it comes up.
    pub facts: Option<Facts>,
}

/// The name of this process, until [`Self::release`].
#[derive(Debug)]
pub struct Claim {
    run: &'static RunDir,
    record: Record,
}

impl Claim {
    /// Takes the name for this process.
    ///
    /// # Errors
    /// Another living testbed has it, or it is no name.
    pub fn new(name: &str) -> Result<Self> {
        check_name(name)?;
        if find(name)?.is_some_and(|other| other.is_running()) {
            bail!(
                "testbed {name:?} is running already: stop it with `cargo testbed down --name {name}`, \
                 or give this one another --name"
            );
        }
        let run = RunDir::claim(&format!("{PREFIX}{name}"))?;
        let record = Record {
            pid: std::process::id().cast_signed(),
            started: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            facts: None,
        };
        let claim = Self { run, record };
        claim.write()?;
        Ok(claim)
    }

    pub fn folder(&self) -> &Path {
        self.run.path()
    }

    pub fn logs(&self) -> PathBuf {
        self.run.logs()
    }

    /// Tells the others that everything is up, and where.
    pub fn publish(&mut self, facts: Facts) -> Result<()> {
        self.record.facts = Some(facts);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let path = self.run.path().join(RECORD);
        // Whoever reads it sees the old one or the new one, never a part. It has passwords in it.
        let partial = path.with_extension("partial");
        certs::write(&partial, &serde_json::to_string_pretty(&self.record)?)?;
        fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives the name back and removes the folder with the logs.
    pub fn release(self) -> Result<()> {
        self.run.remove()
    }

    /// Gives the name back after a failure: the logs stay for a day.
    pub fn fail(self) -> Result<()> {
        Ok(fs::remove_file(self.run.path().join(RECORD))?)
    }
}

/// A named testbed as other processes see it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub folder: PathBuf,
    pub record: Record,
}

impl Entry {
    /// Whether its process lives; otherwise that was killed, and only its logs are left.
    pub fn is_running(&self) -> bool {
        run_dir::is_owned(&self.folder)
    }

    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub fn age(&self) -> Duration {
        let started = UNIX_EPOCH + Duration::from_secs(self.record.started);
        // A clock that was set back makes it young, not an error.
        started.elapsed().unwrap_or_default()
    }

    /// Asks it to stop, and waits until it is gone. After `grace` it is killed.
    ///
    /// # Errors
    /// It cannot be signalled, or does not even end when killed.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        let pid = self.record.pid;
        // Who holds the folder's lock wrote the record in it, so the pid is not another's by now.
        if self.is_running() {
            self.signal(Signal::SIGTERM)?;
            if !ends_within(pid, grace).await {
                self.signal(Signal::SIGKILL)?;
                if !ends_within(pid, Duration::from_secs(10)).await {
                    bail!("process {pid} of testbed {:?} does not end", self.name);
                }
            }
        }
        run_dir::remove_dead(&self.folder).map(drop)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.record.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error)
                .with_context(|| format!("cannot send {signal} to process {}", self.record.pid)),
        }
    }
}

async fn ends_within(pid: i32, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    while is_alive(pid) {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// All of this user, by name: those that run, and those that were killed.
pub fn list() -> Result<Vec<Entry>> {
    let root = run_dir::root();
    let mut entries = Vec::new();
    if !root.exists() {
        return Ok(entries);
    }
    for folder in fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))? {
        let file = folder?.file_name();
        if let Some(name) = file.to_str().and_then(|file| file.strip_prefix(PREFIX)) {
            match find(name) {
                Ok(entry) => entries.extend(entry),
                // One that cannot be read is no reason to hide the others.
                Err(error) => progress::line(format_args!("{error:#}")),
            }
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The testbed of this name.
pub fn find(name: &str) -> Result<Option<Entry>> {
    check_name(name)?;
    let folder = run_dir::root().join(format!("{PREFIX}{name}"));
    let path = folder.join(RECORD);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let record = serde_json::from_str(&text)
        .with_context(|| format!("{} is of another version; remove it", path.display()))?;
    Ok(Some(Entry {
        name: name.to_owned(),
        folder,
        record,
    }))
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > NAME_LENGTH || !name.chars().all(plain) {
        bail!(
            "a testbed's name has 1 to {NAME_LENGTH} lower-case letters, digits and hyphens, not {name:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_are_those_of_folders_and_nothing_else() {
        for good in ["default", "a-1"] {
            check_name(good).unwrap();
        }
        for bad in ["", "..", "a/b", "A", "a b", &"a".repeat(41)] {
            let error = check_name(bad).unwrap_err().to_string();
            assert!(error.contains("letters, digits and hyphens"), "{error}");
        }
    }
}
