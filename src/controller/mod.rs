//! Kubernetes: one folder a kind, each observe (I/O) -> plan (pure) -> apply (I/O) -> status.

mod options;

pub use options::Options;

use tokio_util::sync::CancellationToken;

/// What ends the controller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Logs, metrics or health cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] crate::telemetry::Error),
}

/// Runs the controller until `stop` is cancelled or leadership is lost.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let health = crate::telemetry::Health::default();
    let registry = crate::telemetry::registry()?;
    let _server = crate::telemetry::serve(options.listen, registry, health).await?;
    stop.cancelled().await;
    Ok(())
}
