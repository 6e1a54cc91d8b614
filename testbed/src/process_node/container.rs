//! A container as a process of the host.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::process::Process;

/// Everything that starts a container's process.
#[derive(Debug)]
pub struct Launch {
    pub program: PathBuf,
    /// What the image calls the program: commands of probes may name it.
    pub alias: Option<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub folder: PathBuf,
    /// Standard output and error of all runs.
    pub log: PathBuf,
}

impl Launch {
    /// Starts it.
    ///
    /// # Errors
    /// The log cannot be written or the program cannot be started.
    pub fn spawn(&self) -> Result<ContainerProcess> {
        if let Some(parent) = self.log.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = self.command(&self.program, &self.args);
        command.stdout(log.try_clone()?).stderr(log);
        let process = Process::spawn(command)?;
        Ok(ContainerProcess(Arc::new(process)))
    }

    /// A command in the container's surroundings: its program's own name means the mapped binary,
    /// others are looked up on the host.
    pub fn exec(&self, command: &[String]) -> Option<Command> {
        let (program, args) = command.split_first()?;
        let name = Path::new(program).file_name();
        let own = self.alias.as_ref().and_then(|a| Path::new(a).file_name());
        let ours = name == self.program.file_name() || (own.is_some() && name == own);
        let program = if ours {
            &self.program
        } else {
            Path::new(program)
        };
        let mut command = self.command(program, args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Some(command)
    }

    fn command(&self, program: &Path, args: &[String]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }
}

/// A running container: the process, and whatever it starts in its process group.
#[derive(Debug, Clone)]
pub struct ContainerProcess(Arc<Process>);

impl ContainerProcess {
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// To the process alone, as a container's runtime does.
    ///
    /// # Errors
    /// The system refuses it; not when the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.0.signal(signal)
    }

    /// SIGKILL to the process and all it started.
    ///
    /// # Errors
    /// The system refuses it; not when the process has ended.
    pub fn kill(&self) -> Result<()> {
        self.0.signal_group(Signal::SIGKILL)
    }

    /// Waits for the end, kills what the process left behind, and answers the exit code as container
    /// runtimes give it: 128 + signal for one that was killed.
    ///
    /// # Errors
    /// The system does not say how it ended.
    pub async fn wait(&self) -> Result<i32> {
        let status = self.0.wait().await?;
        // The group keeps its number as long as it has members; without any there is nobody to kill.
        let group = Pid::from_raw(self.0.pid());
        match killpg(group, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(exit_code(status)),
            Err(error) => Err(error).with_context(|| format!("cannot kill process group {group}")),
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    let by_signal = status.signal().map(|signal| 128 + signal);
    status.code().or(by_signal).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(folder: &Path, script: &str) -> Launch {
        Launch {
            program: "/bin/sh".into(),
            alias: Some("/usr/local/bin/server".into()),
            args: vec!["-c".into(), script.into()],
            env: vec![("GREETING".into(), "hello".into())],
            folder: folder.to_owned(),
            log: folder.join("logs/c.log"),
        }
    }

    #[tokio::test]
    async fn output_of_all_runs_is_in_one_log_and_only_the_given_environment_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let launch = launch(folder.path(), "echo $GREETING $HOME; exit 3");
        for _ in 0..2 {
            assert_eq!(launch.spawn().unwrap().wait().await.unwrap(), 3);
        }
        let log = fs::read_to_string(&launch.log).unwrap();
        assert_eq!(log, "hello\nhello\n");
    }

    #[tokio::test]
    async fn what_the_process_left_behind_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        // The child holds the write end of the pipe: the pipe ends when the child does.
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "sleep 1000 & kill -9 $$"])
            .stdin(Stdio::null())
            .stdout(writer);
        let process = ContainerProcess(Arc::new(Process::spawn(command).unwrap()));
        assert_eq!(process.wait().await.unwrap(), 137);
        let end = tokio::task::spawn_blocking(move || {
            std::io::Read::read_to_end(&mut reader, &mut Vec::new())
        });
        assert_eq!(end.await.unwrap().unwrap(), 0);
        drop(folder);
    }

    #[test]
    fn commands_of_probes_run_the_mapped_binary_under_its_name_in_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let launch = launch(folder.path(), "");
        let program = |name: &str| {
            let command = launch.exec(&[name.to_owned()]).unwrap();
            command.get_program().to_owned()
        };
        assert_eq!(program("server"), "/bin/sh");
        assert_eq!(program("redis-cli"), "redis-cli");
    }
}
