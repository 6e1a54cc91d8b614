//! The namespaces a real node lives in, and its link to the host.
//!
//! Processes, mounts, interfaces, routes and iptables rules of the node exist in namespaces only, so
//! the kernel removes them with process 1 in there, and that one ends when the testbed does. There is
//! no default route: no packet of a pod can leave the machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::cgroups;
use crate::component::{Spec, tail};
use crate::net::Ranges;
use crate::probe::Probe;

const INIT: &str = include_str!("init.sh");
const KEEPER: &str = include_str!("keeper.sh");

/// Namespaces, link and cgroup of one node. Dropping it ends all that runs in them and waits for that.
#[derive(Debug)]
pub struct Sandbox {
    keeper: Child,
    /// Process 1 of the namespaces, as the host counts.
    init: String,
    interface: String,
    pub cgroup: String,
    pub host: IpAddr,
    pub node: IpAddr,
}

impl Sandbox {
    /// Makes the namespaces and connects them. `folder` is removed with all its contents at the end.
    pub fn create(folder: &Path, log: &Path, ranges: &Ranges, services: &str) -> Result<Self> {
        let slot = ranges.slot();
        let interface = format!("testbed{slot}");
        let cgroup = format!("persona-testbed-{slot}");
        delete_left_over(&interface)?;
        cgroups::create(&cgroup)?;
        fs::write(folder.join("init.sh"), INIT)?;
        // Until the keeper has cleaned up nobody else may use these names: it would remove theirs.
        let lease = ranges.share()?;
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([folder.as_os_str(), interface.as_ref(), cgroup.as_ref()])
            .current_dir("/")
            // Not bound to this process by a death signal: it has to clean up afterwards. The pipe tells it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log)?)
            .spawn()
            .context("cannot start the node's keeper")?;
        drop(lease);
        let mut init = String::new();
        let stdout = keeper.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut init)?;
        if init.is_empty() {
            let status = keeper.wait()?;
            let words = tail(log, 10)?;
            bail!(
                "cannot make the node's namespaces ({status}); this takes a root that may do everything:\n{words}"
            );
        }
        let (host, node) = (ranges.node(1), ranges.node(2));
        let sandbox = Self {
            keeper,
            init: init.trim().into(),
            interface,
            cgroup,
            host,
            node,
        };
        sandbox.connect(&[&ranges.pods(), services])?;
        Ok(sandbox)
    }

    /// A pair of interfaces, and the host's routes to what is behind the node.
    fn connect(&self, routes: &[&str]) -> Result<()> {
        let (host, node) = (format!("{}/30", self.host), format!("{}/30", self.node));
        let link = &self.interface;
        ip(&[
            "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", &self.init,
        ])?;
        ip(&["address", "add", &host, "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        let inside = |args: &[&str]| run(self.command("ip").args(args));
        inside(&["address", "add", &node, "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        for route in routes {
            ip(&["route", "add", route, "via", &self.node.to_string()])?;
        }
        Ok(())
    }

    /// A command that runs `program` on the node.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.enter()).arg(program);
        command
    }

    /// A component that runs `program` on the node.
    pub fn spec(&self, name: String, program: impl Into<PathBuf>, probe: Probe) -> Spec {
        let spec = Spec::new(name, "nsenter", probe).args(self.enter());
        // nsenter waits outside; the program must not outlive it.
        spec.args(["setpriv", "--pdeathsig", "KILL"])
            .args([program.into()])
    }

    /// The node's file at `path`, as seen from the host.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    fn enter(&self) -> [&str; 8] {
        [
            "--target", &self.init, "--pid", "--mount", "--net", "--ipc", "--uts", "--",
        ]
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        match self.keeper.wait() {
            Ok(status) if status.success() => {}
            other => {
                crate::progress::line(format_args!("the real node did not end well: {other:?}"))
            }
        }
    }
}

/// A link of this name belongs to a testbed that is dead: it held the same lease on addresses.
fn delete_left_over(interface: &str) -> Result<()> {
    let there = || Path::new("/sys/class/net").join(interface).exists();
    if !there() {
        return Ok(());
    }
    // Its keeper may be at it, and first.
    ip(&["link", "delete", interface]).or_else(|error| if there() { Err(error) } else { Ok(()) })
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
