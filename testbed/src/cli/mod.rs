//! The commands and their flags.

mod build;
mod detach;
mod down;
mod output;
mod status;
mod up;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use testbed::registry::{self, Entry};

/// A real Kubernetes with Redis and a language model on this machine.
///
/// Nothing of it leaves the machine, and nothing outlives it. Several can live side by side, by name.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo testbed")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings a testbed up and holds it until Ctrl-C.
    Up(up::Up),
    /// Tells what runs, and whether it answers.
    Status(status::Status),
    /// Stops a testbed and removes all that was its own.
    Down(down::Down),
    /// Prints the path of the kubeconfig.
    Kubeconfig(Kubeconfig),
    /// Builds and fetches all that testbeds, tests and the demo need, so that they start in seconds.
    Build(build::Build),
}

/// Which of the testbeds side by side.
#[derive(Debug, Clone, Args)]
struct Name {
    /// Tells testbeds that live side by side apart.
    #[arg(long, default_value = "default")]
    name: String,
}

impl Name {
    /// The testbed of this name, if it runs.
    fn running(&self) -> Result<Entry> {
        let entry = registry::find(&self.name)?.filter(Entry::is_running);
        entry.with_context(|| match self.name.as_str() {
            "default" => "no testbed is running; start one: cargo testbed up".to_owned(),
            name => {
                format!("testbed {name:?} is not running; start it: cargo testbed up --name {name}")
            }
        })
    }
}

#[derive(Debug, Args)]
struct Kubeconfig {
    #[command(flatten)]
    name: Name,
    /// The content instead of the path.
    #[arg(long)]
    raw: bool,
}

impl Kubeconfig {
    fn run(&self) -> Result<()> {
        let entry = self.name.running()?;
        let Some(facts) = entry.record.facts else {
            bail!("testbed {:?} is still coming up", entry.name);
        };
        if self.raw {
            let path = &facts.kubeconfig;
            let content = std::fs::read_to_string(path);
            let content = content.with_context(|| format!("cannot read {}", path.display()))?;
            output::print(&content)
        } else {
            output::print(&format!("{}\n", facts.kubeconfig.display()))
        }
    }
}

impl Cli {
    /// Does what was asked for.
    pub async fn run(self) -> Result<()> {
        match self.command {
            Command::Up(up) => up.run().await,
            Command::Status(status) => status.run().await,
            Command::Down(down) => down.run().await,
            Command::Kubeconfig(kubeconfig) => kubeconfig.run(),
            Command::Build(build) => build.run().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_well_formed() {
        Cli::command().debug_assert();
    }
}
