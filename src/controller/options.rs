//! The controller's settings, each an environment variable and a flag.

use std::{net::SocketAddr, path::PathBuf};

use crate::api::Span;

/// Settings of the controller process.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where metrics and health are served.
    #[arg(long, env = "PERSONA_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Redis as the controller reaches it, like redis://redis:6379.
    #[arg(long, env = "PERSONA_QUEUE_URL")]
    pub queue_url: String,
    /// Redis as worker pods reach it. Default: as the controller does.
    #[arg(long, env = "PERSONA_WORKER_QUEUE_URL")]
    pub worker_queue_url: Option<String>,
    /// First part of every key in Redis; one a cluster.
    #[arg(long, env = "PERSONA_QUEUE_PREFIX", default_value = "persona")]
    pub queue_prefix: String,
    /// What claims the queue prefix. Default: the uid of namespace kube-system.
    #[arg(long, env = "PERSONA_CLUSTER_ID")]
    pub cluster_id: Option<String>,
    /// File with the key that every namespace's queue password is derived from.
    #[arg(long, env = "PERSONA_MASTER_KEY_FILE")]
    pub master_key_file: PathBuf,
    /// File with the password of Redis' default user.
    #[arg(long, env = "PERSONA_QUEUE_ADMIN_PASSWORD_FILE")]
    pub queue_admin_password_file: Option<PathBuf>,
    /// Folder with credentials for Prometheus and RabbitMQ, a file for each address.
    #[arg(
        long,
        env = "PERSONA_METRIC_CREDENTIALS_DIR",
        default_value = "/var/run/persona/metric-credentials"
    )]
    pub metric_credentials_dir: PathBuf,
    /// Image of worker pods.
    #[arg(long, env = "PERSONA_WORKER_IMAGE")]
    pub worker_image: String,
    /// Pull policy of worker pods.
    #[arg(
        long,
        env = "PERSONA_WORKER_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    pub worker_image_pull_policy: String,
    /// Watches this namespace only. Default: all.
    #[arg(long, env = "PERSONA_WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Watches nodes, to replace workers before their node goes. Default: unless one namespace is watched
    /// only, whose rights do not reach nodes.
    #[arg(long, env = "PERSONA_WATCH_NODES")]
    pub watch_nodes: Option<bool>,
    /// Name of this process in the lease and in events.
    #[arg(long, env = "POD_NAME", default_value = "persona-operator")]
    pub pod_name: String,
    /// Namespace of the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub pod_namespace: String,
    /// Name of the lease.
    #[arg(long, env = "PERSONA_LEASE_NAME", default_value = "persona-operator")]
    pub lease_name: String,
    /// After this long without renewal another process may take the lease; whole seconds.
    #[arg(long, env = "PERSONA_LEASE_DURATION", default_value = "15s")]
    pub lease_duration: Span,
    /// A leader that could not renew for this long exits.
    #[arg(long, env = "PERSONA_LEASE_RENEW_DEADLINE", default_value = "10s")]
    pub lease_renew_deadline: Span,
    /// Time between attempts to take or renew the lease.
    #[arg(long, env = "PERSONA_LEASE_RETRY_PERIOD", default_value = "2s")]
    pub lease_retry_period: Span,
}
