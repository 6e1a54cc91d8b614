//! The gateway's settings, each an environment variable and a flag.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::api::Span;

/// Settings of the gateway process.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where clients are served.
    #[arg(long, env = "PERSONA_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where metrics and health are served, to keep them off the clients' port.
    #[arg(long, env = "PERSONA_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
    /// Redis, like redis://redis:6379.
    #[arg(long, env = "PERSONA_QUEUE_URL")]
    pub queue_url: String,
    /// First part of every key in Redis; one a cluster.
    #[arg(long, env = "PERSONA_QUEUE_PREFIX", default_value = "persona")]
    pub queue_prefix: String,
    /// File with the key that the gateway's queue password is derived from. Without it the URL says
    /// as whom to reach Redis.
    #[arg(long, env = "PERSONA_MASTER_KEY_FILE")]
    pub master_key_file: Option<PathBuf>,
    /// Folder of the API keys: a file each, its name is the principal.
    #[arg(
        long,
        env = "PERSONA_API_KEYS_DIR",
        default_value = "/var/run/persona/api-keys"
    )]
    pub api_keys_dir: PathBuf,
    /// Id of this gateway. Default: a random one.
    #[arg(long, env = "POD_UID")]
    pub gateway_id: Option<String>,
    /// How long a request may wait for a worker, on top of the time its persona may take.
    #[arg(long, env = "PERSONA_QUEUE_WAIT", default_value = "5m")]
    pub queue_wait: Span,
    /// How long a new request is held while the queue is away.
    #[arg(long, env = "PERSONA_HOLD", default_value = "15s")]
    pub hold: Span,
    /// Bytes of one request body.
    #[arg(long, env = "PERSONA_MAX_BODY_BYTES", default_value_t = 4 << 20)]
    pub max_body_bytes: usize,
    /// Bytes of all request bodies that are held at once.
    #[arg(long, env = "PERSONA_BODY_MEMORY_BYTES", default_value_t = 256 << 20)]
    pub body_memory_bytes: usize,
    /// Connections open at once; more wait.
    #[arg(long, env = "PERSONA_MAX_CONNECTIONS", default_value_t = 8192)]
    pub max_connections: usize,
    /// A client that takes nothing of its answer for this long is cut off.
    #[arg(long, env = "PERSONA_STALL_TIMEOUT", default_value = "60s")]
    pub stall_timeout: Span,
    /// Time for requests in flight after SIGTERM.
    #[arg(long, env = "PERSONA_DRAIN_TIMEOUT", default_value = "120s")]
    pub drain_timeout: Span,
}
