//! Child processes that never outlive this one, not even when it is SIGKILLed.
//!
//! The kernel kills a child when the *thread* that spawned it ends (PR_SET_PDEATHSIG), so all children
//! are spawned by one thread that lives as long as the process. A waiter thread a child collects its
//! exit status; a pid is only signalled while it is known not to be reaped.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid};
use tokio::sync::watch;

/// A running (or ended) child. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    reaped: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` in a process group of its own, so that Ctrl-C reaches only us and we stop
    /// the children in order. Its stdio is as the command says.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        let child = spawn_bound(command).with_context(|| format!("cannot start {program}"))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("pid out of range")?);
        let reaped = Arc::new(Mutex::new(false));
        let (sender, exit) = watch::channel(None);
        let waiter = std::thread::Builder::new()
            .name(format!("wait-{pid}"))
            .spawn({
                let reaped = Arc::clone(&reaped);
                move || reap(child, pid, &reaped, &sender)
            })?;
        Ok(Self {
            pid,
            reaped,
            exit,
            waiter: Some(waiter),
        })
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// The exit status, once it has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for the end.
    pub async fn wait(&self) -> Result<ExitStatus> {
        let mut exit = self.exit.clone();
        let status = exit
            .wait_for(Option::is_some)
            .await
            .map_err(|_| anyhow!("the waiter of {} is gone", self.pid))?;
        (*status).context("no exit status")
    }

    /// Sends a signal; an ended process is left alone (its pid may be another's by now).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if *reaped {
            return Ok(());
        }
        signal::kill(self.pid, signal)
            .with_context(|| format!("cannot send {signal} to {}", self.pid))
    }

    /// As [`Self::signal`], to all processes that it started in its group, too.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if *reaped {
            return Ok(());
        }
        signal::killpg(self.pid, signal)
            .with_context(|| format!("cannot send {signal} to process group {}", self.pid))
    }

    /// SIGTERM, and SIGKILL when it has not ended after `grace`.
    pub async fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.wait().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.signal(Signal::SIGKILL).is_ok()
            && let Some(waiter) = self.waiter.take()
        {
            drop(waiter.join());
        }
    }
}

/// Waits without reaping first: as long as the zombie is there its pid cannot be reused, and
/// `reaped` is only true when nobody may signal it any more.
fn reap(
    mut child: Child,
    pid: Pid,
    reaped: &Mutex<bool>,
    exit: &watch::Sender<Option<ExitStatus>>,
) {
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let mut reaped = reaped.lock().unwrap_or_else(PoisonError::into_inner);
    let status = child.wait();
    *reaped = true;
    drop(reaped);
    exit.send_replace(status.ok());
}

/// Whether there is a process `pid` that runs: a zombie that nobody collects runs no more.
///
/// Threads end one by one, and the first of them may be a zombie while another still holds the
/// files and their locks: only a zombie that is alone has let go of everything.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !is_ended(&stat))
}

/// Of `/proc/PID/stat` (proc_pid_stat(5)).
fn is_ended(stat: &str) -> bool {
    // After the name, which may contain anything: the state (field 3), and the threads (field 20).
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let ended = fields.next().is_none_or(|state| matches!(state, "Z" | "X"));
    ended
        && fields
            .nth(16)
            .is_none_or(|threads| matches!(threads, "0" | "1"))
}

type Request = (Command, SyncSender<std::io::Result<Child>>);

/// Spawns on the thread that lives as long as this process; the child dies with it.
pub(crate) fn spawn_bound(mut command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Result<SyncSender<Request>, String>> = OnceLock::new();
    let spawner = SPAWNER
        .get_or_init(|| start_spawner().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|error| anyhow!("cannot start the spawner thread: {error}"))?;
    let parent = getpid();
    // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the line above; then nobody would kill us.
            if getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
            Ok(())
        });
    }
    let (reply, answer) = sync_channel(1);
    spawner
        .send((command, reply))
        .map_err(|_| anyhow!("the spawner thread is gone"))?;
    Ok(answer.recv().context("the spawner thread is gone")??)
}

fn start_spawner() -> std::io::Result<SyncSender<Request>> {
    let (sender, requests) = sync_channel::<Request>(16);
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (mut command, reply) in requests {
                // A caller that gave up drops the child's handle; the child still dies with us.
                drop(reply.send(command.spawn()));
            }
        })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn child_outlives_the_thread_that_asked_for_it() {
        let process =
            std::thread::spawn(|| Process::spawn(sh("read forever < /dev/zero")).unwrap())
                .join()
                .unwrap();
        let ended = tokio::time::timeout(Duration::from_millis(200), process.wait()).await;
        assert!(ended.is_err(), "it ended: {ended:?}");
    }

    #[tokio::test]
    async fn stop_escalates_to_sigkill_after_the_grace() {
        use std::os::unix::process::ExitStatusExt;
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("ready");
        let stubborn = Process::spawn(sh(&format!(
            "trap '' TERM; touch {}; while :; do :; done",
            marker.display()
        )))
        .unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !marker.exists() {
            assert!(
                std::time::Instant::now() < deadline,
                "the script never started"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            stubborn
                .stop(Duration::from_millis(50))
                .await
                .unwrap()
                .signal(),
            Some(9)
        );
    }

    #[test]
    fn dropped_process_is_gone() {
        let process = Process::spawn(sh("while :; do sleep 60; done")).unwrap();
        let pid = process.pid();
        assert!(is_alive(pid));
        drop(process);
        assert!(!is_alive(pid));
    }

    #[test]
    fn process_whose_first_thread_has_ended_is_alive_until_the_last_one_has() {
        // Its main thread ends by itself; the other one ends when its stdin does.
        let script = "import ctypes, os, threading\n\
            threading.Thread(target=lambda: os.read(0, 1)).start()\n\
            ctypes.CDLL(None).pthread_exit(None)";
        let mut command = Command::new("python3");
        command
            .args(["-c", script])
            .stdin(std::process::Stdio::piped());
        let mut child = spawn_bound(command).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let path = format!("/proc/{pid}/stat");
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !std::fs::read_to_string(&path).unwrap().contains(") Z ") {
            assert!(
                std::time::Instant::now() < deadline,
                "its thread never ended"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_alive(pid));
        drop(child.stdin.take());
        while is_alive(pid) {
            assert!(std::time::Instant::now() < deadline, "it never ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn ended_process_is_not_signalled() {
        let process = Process::spawn(sh("exit 3")).unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(3));
        process.signal(Signal::SIGKILL).unwrap();
        assert_eq!(process.exited().unwrap().code(), Some(3));
    }
}
