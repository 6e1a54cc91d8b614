//! `cargo testbed up`

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use testbed::process::is_alive;
use testbed::registry::Claim;
use testbed::stack::{Facts, seconds};
use testbed::{ModelOptions, NodeKind, Stack, StackOptions, Stop, cluster, nodes, progress};

use super::{Name, detach, output};

/// How many fake nodes there are when nobody says.
const CPU_NODES: usize = 3;
const GPU_NODES: usize = 2;
/// Between looks at whether all processes are still there.
const WATCH_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Args)]
pub struct Up {
    #[command(flatten)]
    name: Name,
    /// Kinds of nodes, several with commas [default: real where that is possible, else process]
    #[arg(long, value_enum, value_delimiter = ',')]
    nodes: Vec<NodeKind>,
    /// Fake nodes without GPUs [default: 3, where fake nodes are wanted]
    #[arg(long, value_name = "N")]
    cpu_nodes: Option<usize>,
    /// Fake nodes with GPUs [default: 2, where fake nodes are wanted]
    #[arg(long, value_name = "N")]
    gpu_nodes: Option<usize>,
    /// Serves a small language model, too.
    #[arg(long)]
    model: bool,
    /// Builds the operator and gives it to the nodes as an image. Without this, process nodes use the
    /// newest build that there is.
    #[arg(long)]
    operator: bool,
    /// Returns when all is up; `cargo testbed down` ends it.
    #[arg(long, short)]
    detach: bool,
    #[arg(long, hide = true)]
    holder_for: Option<i32>,
}

impl Up {
    pub fn name(&self) -> &str {
        &self.name.name
    }

    /// The flags that say what to bring up.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--name={}", self.name())];
        let number = |flag, number: Option<usize>| number.map(|n| format!("{flag}={n}"));
        arguments.extend(self.nodes.iter().map(|kind| format!("--nodes={kind}")));
        arguments.extend(number("--cpu-nodes", self.cpu_nodes));
        arguments.extend(number("--gpu-nodes", self.gpu_nodes));
        let flags = [(self.model, "--model"), (self.operator, "--operator")];
        let given = flags.into_iter().filter(|(given, _)| *given);
        arguments.extend(given.map(|(_, flag)| flag.to_owned()));
        arguments
    }

    pub async fn run(&self) -> Result<()> {
        let mut stop = Stop::new()?;
        if let Some(starter) = self.holder_for {
            detach::bind(starter)?;
        } else if self.detach {
            return detach::start(self, &mut stop).await;
        }
        let options = self.options()?;
        let mut claim = Claim::new(self.name())?;
        let logs = claim.logs();
        let outcome = self.hold(options, &mut claim, &mut stop).await;
        match outcome {
            Ok(()) => claim.release(),
            Err(error) => {
                claim.fail()?;
                let name = self.name();
                Err(error.context(format!(
                    "testbed {name:?} failed; logs are in {}",
                    logs.display()
                )))
            }
        }
    }

    async fn hold(&self, options: StackOptions, claim: &mut Claim, stop: &mut Stop) -> Result<()> {
        let start = Instant::now();
        let started = async {
            let stack = Stack::start(options).await?;
            let facts = stack.facts(claim.folder()).await?;
            claim.publish(facts.clone())?;
            anyhow::Ok((stack, facts))
        };
        let (stack, facts) = tokio::select! {
            started = started => started?,
            () = stop.wanted() => bail!("stopped before all was up"),
        };
        let name = self.name();
        progress::line(format_args!("{name:?} is up, {}", seconds(start.elapsed())));
        output::print(&facts.environment())?;
        let how = match name {
            "default" => "cargo testbed down".to_owned(),
            name => format!("cargo testbed down --name {name}"),
        };
        if self.holder_for.is_some() {
            progress::line(format_args!("`{how}` stops it"));
            detach::release(&claim.logs().join("testbed.log"))?;
        } else {
            progress::line(format_args!("Ctrl-C or `{how}` stops it"));
        }
        watch(&facts, &claim.logs(), stop).await;
        progress::line(format_args!("stopping {name:?} (once more: at once)"));
        tokio::select! {
            stopped = stack.stop() => stopped,
            // Whatever is left dies with this process.
            () = stop.wanted() => Ok(()),
        }
    }

    fn options(&self) -> Result<StackOptions> {
        if std::env::var_os(cluster::KUBECONFIG_VARIABLE).is_some() {
            let variable = cluster::KUBECONFIG_VARIABLE;
            progress::line(format_args!(
                "{variable} is for tests and changes nothing here"
            ));
        }
        let mut kinds: BTreeSet<NodeKind> = self.nodes.iter().copied().collect();
        if kinds.is_empty() {
            let (kind, why) = nodes::default_kind();
            progress::line(format_args!("{kind} node: {why}"));
            kinds.insert(kind);
        } else if kinds.contains(&NodeKind::Real) {
            testbed::real_node::require_possible()?;
        }
        if self.cpu_nodes.or(self.gpu_nodes).is_some() {
            kinds.insert(NodeKind::Fake);
        }
        Ok(StackOptions {
            nodes: kinds,
            cpu_nodes: self.cpu_nodes.unwrap_or(CPU_NODES),
            gpu_nodes: self.gpu_nodes.unwrap_or(GPU_NODES),
            model: self.model.then(ModelOptions::default),
            operator: self.operator,
        })
    }
}

/// Waits until it shall stop, and tells of processes that end before.
async fn watch(facts: &Facts, logs: &Path, stop: &mut Stop) {
    let mut running = facts.processes.clone();
    let mut look = tokio::time::interval(WATCH_EVERY);
    loop {
        tokio::select! {
            () = stop.wanted() => return,
            _ = look.tick() => running.retain(|(name, pid)| {
                let alive = is_alive(*pid);
                if !alive {
                    let log = logs.join(format!("{name}.log"));
                    progress::line(format_args!("{name} has ended; see {}", log.display()));
                }
                alive
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        up: Up,
    }

    fn up(arguments: &[&str]) -> Up {
        Cli::try_parse_from([&["up"], arguments].concat())
            .unwrap()
            .up
    }

    #[test]
    fn holder_gets_the_flags_of_its_starter() {
        let given = [
            "--nodes=fake,process",
            "--gpu-nodes=4",
            "--model",
            "--name=x",
        ];
        let first = up(&given);
        let arguments = first.arguments();
        let second = up(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }

    #[test]
    fn number_of_fake_nodes_implies_fake_nodes() {
        let options = up(&["--nodes=process", "--gpu-nodes=4"]).options().unwrap();
        assert!(options.nodes.contains(&NodeKind::Fake));
        assert_eq!((options.cpu_nodes, options.gpu_nodes), (CPU_NODES, 4));
    }
}
