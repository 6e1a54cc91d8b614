//! `cargo demo`: the operator on a real Kubernetes, from nothing to an answer, told while it happens.
//!
//! Each line is checked before it is printed. The first one that is not true ends the demo.

mod acts;
mod crowd;
mod ground;
mod load;
mod manifests;
mod meter;
mod next;
mod objects;
mod story;
mod voice;

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use testbed::run_dir::RunDir;
use testbed::{Stop, progress};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use self::ground::Ground;
use self::story::Story;
use self::voice::{Unmet, Voice};

/// As shells say it of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Brings up a Kubernetes, installs persona-operator with helm and shows what it does, checking each
/// line before it is printed.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo demo")]
struct Cli {
    /// Leaves everything up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// What pods become: containers of a real node, or processes [default: real where that is possible]
    #[arg(long, value_parser = ["real", "process"], conflicts_with = "kubeconfig")]
    node: Option<String>,
    /// Uses the cluster of this kubeconfig instead of bringing one up. Namespaces persona-system and
    /// persona-demo are made there and removed at the end.
    #[arg(long, value_name = "FILE", requires_all = ["image", "model_url", "model"])]
    kubeconfig: Option<PathBuf>,
    /// Image of the operator, which that cluster has or can pull.
    #[arg(long, requires = "kubeconfig")]
    image: Option<String>,
    /// Image of Redis or Valkey for that cluster [default: the chart's]
    #[arg(long, value_name = "IMAGE", requires = "kubeconfig")]
    redis_image: Option<String>,
    /// OpenAI-compatible server that pods of that cluster reach, like http://ollama.default.svc:11434/v1
    #[arg(long, value_name = "URL", requires = "kubeconfig")]
    model_url: Option<String>,
    /// Name of a model that it serves.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    model: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = EnvFilter::builder().with_default_directive(LevelFilter::ERROR.into());
    tracing_subscriber::fmt()
        .with_env_filter(level.from_env_lossy())
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(&cli));
    // A download that was interrupted is no reason to wait for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

/// Somebody pressed Ctrl-C.
#[derive(Debug)]
struct Stopped;

impl Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopped before the end.")
    }
}

impl std::error::Error for Stopped {}

async fn run(cli: &Cli) -> ExitCode {
    let voice = Voice::new();
    progress::divert(move |text| voice.line(text));
    match demo(cli, &voice).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Stopped>() => {
            voice.title(Stopped);
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            match error.downcast_ref::<Unmet>() {
                Some(unmet) => voice.failed(unmet),
                None => voice.error(&error),
            }
            if let Ok(run) = RunDir::current() {
                voice.logs(&run.logs());
            }
            ExitCode::FAILURE
        }
    }
}

async fn demo(cli: &Cli, voice: &Voice) -> Result<()> {
    let mut stop = Stop::new()?;
    let ground = tokio::select! {
        ground = Ground::prepare(cli, voice) => ground?,
        () = stop.wanted() => return Err(Stopped.into()),
    };
    let mut story = Story::new(&ground, voice);
    let told = tokio::select! {
        told = story.tell() => told,
        () = stop.wanted() => Err(Stopped.into()),
    };
    let told = match told {
        Ok(()) => Ok(()),
        Err(error) if error.is::<Stopped>() => Err(error),
        Err(error) => Err(story.with_logs(error).await),
    };
    if told.is_ok()
        && let Some(release) = story.release()
    {
        next::print(&ground, release, voice, cli.keep).await?;
        if cli.keep {
            stop.wanted().await;
        }
    }
    let release = story.into_release();
    let cleared = tokio::select! {
        cleared = ground.clear(release, voice) => cleared,
        // Once more: at once. What is left of our own dies with this process.
        () = stop.wanted() => Ok(()),
    };
    told.and(cleared)?;
    RunDir::current()?.remove()
}
