//! Logs, metrics, health and signals: what every process has.

mod health;
mod http;

pub use health::{Health, Pulse};
pub use http::{Server, routes, serve};

use std::io;

use prometheus::{IntGaugeVec, Opts, Registry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What can be wrong when logs and metrics are set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("PERSONA_LOG is no log filter ({0}); write it like info,persona_operator=debug")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Logs were set up twice.
    #[error("logging was set up before: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// Two metrics of one name, or a name that Prometheus does not take.
    #[error("a metric cannot be registered: {0}")]
    Metric(#[from] prometheus::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen} ({source}); choose another address with PERSONA_LISTEN")]
    Listen {
        /// What was asked for.
        listen: std::net::SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
}

/// Sends log lines to standard error, filtered by `PERSONA_LOG` (default `info`).
pub fn init_logging(format: LogFormat) -> Result<(), Error> {
    let directives = std::env::var("PERSONA_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::builder().parse(directives)?;
    let subscriber = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => subscriber
            .with(fmt::layer().with_writer(io::stderr).with_ansi(false))
            .try_init()?,
        LogFormat::Json => subscriber
            .with(
                fmt::layer()
                    .with_writer(io::stderr)
                    .json()
                    .flatten_event(true),
            )
            .try_init()?,
    }
    Ok(())
}

/// A registry that holds `persona_build_info` already.
pub fn registry() -> Result<Registry, Error> {
    let registry = Registry::new();
    let build = IntGaugeVec::new(
        Opts::new(
            "persona_build_info",
            "Version of the running binary; always 1",
        ),
        &["version"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    Ok(registry)
}

/// A token that is cancelled at the first SIGTERM or SIGINT; a second signal ends the process at once.
pub fn shutdown_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "shutting down");
        stop.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("second signal: exiting at once");
        std::process::exit(1);
    });
    Ok(token)
}
