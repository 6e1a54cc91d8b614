//! The subcommands; each is one process of the system.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use persona_operator::{api, controller, explain, gateway, plan, simulator, telemetry, worker};

/// Runs AI personas on worker pools that follow their queues.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// How log lines look.
    #[arg(
        long,
        global = true,
        value_enum,
        env = "PERSONA_LOG_FORMAT",
        default_value_t
    )]
    log_format: telemetry::LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Process(Process),
    /// Says what would happen with a number of personas: phase, pools, workers, moves. Asks no cluster.
    Plan(plan::Options),
    /// Says in words what the status of objects says: pipe `kubectl get workerpool NAME -o yaml` into it.
    Explain(explain::Options),
    /// Prints the CustomResourceDefinitions as YAML.
    Crds {
        /// Writes one file a definition into this folder instead.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Plays traces of tasks to the autoscaler, KEDA and an HPA on virtual time.
    Simulate(Box<simulator::Options>),
}

/// Those that run until they are told to stop.
#[derive(Subcommand)]
enum Process {
    /// Reconciles Personas, WorkerPools and PersonaTopologies.
    Controller(Box<controller::Options>),
    /// Serves the OpenAI-compatible API.
    Gateway(Box<gateway::Options>),
    /// Runs the tasks of a pool's personas.
    Worker(Box<worker::Options>),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let text = match cli.command {
        Command::Process(process) => return run(process, cli.log_format),
        Command::Plan(options) => plan::run(&options)?,
        Command::Explain(options) => explain::run(&options)?,
        Command::Crds { dir } => return crds(dir.as_deref()),
        Command::Simulate(options) => simulator::run(&options)?,
    };
    print!("{text}");
    Ok(())
}

fn run(process: Process, log_format: telemetry::LogFormat) -> anyhow::Result<()> {
    telemetry::init_logging(log_format)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before main"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = telemetry::shutdown_signal()?;
        match process {
            Process::Controller(options) => controller::run(*options, stop).await?,
            Process::Gateway(options) => gateway::run(*options, stop).await?,
            Process::Worker(options) => worker::run(*options, stop).await?,
        }
        Ok(())
    })
}

fn crds(dir: Option<&Path>) -> anyhow::Result<()> {
    for (name, text) in api::crd_files()? {
        match dir {
            Some(dir) => {
                let file = dir.join(name);
                fs::write(&file, text)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            None => print!("---\n{text}"),
        }
    }
    Ok(())
}
