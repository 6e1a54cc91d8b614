//! What can go wrong in the controller.

use std::path::PathBuf;
use std::time::Duration;

use super::leader::LeaderError;
use crate::queue::QueueError;
use crate::telemetry;

/// What ends the controller, or one visit of a reconciler.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Logs, metrics or health cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// A setting that cannot be followed; says what to set.
    #[error("{0}")]
    Setting(String),
    /// A file that is needed cannot be read.
    #[error("cannot read {what} {file} ({source}); mount it, or correct {variable}")]
    File {
        /// What it holds.
        what: &'static str,
        /// The setting that names it.
        variable: &'static str,
        /// Where it should be.
        file: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The API server's refusal, or no answer.
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    /// Pods that could not be deleted; all else of the visit is done.
    #[error("{0} pods cannot be deleted and are tried again; the warning before this says why")]
    Undeleted(usize),
    /// There is no way to reach an API server.
    #[error("no access to a cluster ({0}); run in a pod, or set KUBECONFIG")]
    NoCluster(#[from] kube::config::InferConfigError),
    /// The queue's refusal, or no answer.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The queue's server cannot be used as it is.
    #[error("{0}")]
    QueueUnfit(String),
    /// A visit that did not end.
    #[error("the visit did not end within {0:?} and was given up")]
    Endless(Duration),
    /// A part of the controller ended, so that the rest would decide on what is no longer true.
    #[error("{0}; the controller ends, to be started anew")]
    Broken(String),
    /// Another process leads.
    #[error(transparent)]
    Leader(#[from] LeaderError),
}

impl Error {
    /// Whether it says something of the queue as a whole, and not of one namespace or of the API server.
    pub fn is_of_queue(&self) -> bool {
        match self {
            Self::Queue(error) => error.is_of_all(),
            Self::QueueUnfit(_) => true,
            _ => false,
        }
    }

    /// A static word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Telemetry(_) => "telemetry",
            Self::Setting(_) => "setting",
            Self::File { .. } => "file",
            Self::Kube(kube::Error::Api(status)) => match status.code {
                403 => "forbidden",
                404 => "not_found",
                409 => "conflict",
                422 => "invalid",
                429 => "throttled",
                500.. => "api_server",
                _ => "api",
            },
            Self::Kube(_) | Self::NoCluster(_) => "api_unreachable",
            Self::Undeleted(_) => "undeleted",
            Self::Queue(error) => error.reason(),
            Self::QueueUnfit(_) => "queue_unfit",
            Self::Endless(_) => "endless",
            Self::Broken(_) => "broken",
            Self::Leader(_) => "leader",
        }
    }
}
