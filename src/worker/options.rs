//! The worker's settings, each an environment variable and a flag.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::recycle::{Limits, MemorySize, Recycles};
use crate::api::{ModelServerKind, Recycle, Span, names};

/// Settings of the worker process. The controller sets all of them on a pool's pods.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where metrics and health are served.
    #[arg(long, env = "PERSONA_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Redis, like redis://redis:6379.
    #[arg(long, env = "PERSONA_QUEUE_URL")]
    pub queue_url: String,
    /// First part of every key in Redis; one a cluster.
    #[arg(long, env = "PERSONA_QUEUE_PREFIX", default_value = "persona")]
    pub queue_prefix: String,
    /// Folder with the files `username` and `password` for Redis. Without them the URL says as whom
    /// to reach it.
    #[arg(long, env = "PERSONA_QUEUE_ACCESS_DIR", default_value = names::QUEUE_ACCESS_DIR)]
    pub queue_access_dir: PathBuf,
    /// Folder with the credentials of providers: a folder a Secret, a file a key.
    #[arg(long, env = "PERSONA_CREDENTIALS_DIR", default_value = names::CREDENTIALS_DIR)]
    pub credentials_dir: PathBuf,
    /// Namespace of the pool.
    #[arg(long, env = "PERSONA_NAMESPACE")]
    pub namespace: String,
    /// The worker's pool.
    #[arg(long, env = "PERSONA_POOL")]
    pub pool: String,
    /// Uid of the pod.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: String,
    /// Address of the pod, as others reach it.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: IpAddr,
    /// Tasks it runs at once.
    #[arg(long, env = "PERSONA_SLOTS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: u32,
    /// Base URL of the model server beside it, for personas whose model has no endpoint.
    #[arg(long, env = "PERSONA_MODEL_ENDPOINT")]
    pub model_endpoint: Option<String>,
    /// Kind of that server: Ollama, vLLM or LlamaCpp.
    #[arg(long, env = "PERSONA_MODEL_SERVER", value_parser = server_kind)]
    pub model_server: Option<ModelServerKind>,
    /// LoRA adapters that it holds at most.
    #[arg(long, env = "PERSONA_MAX_ADAPTERS", default_value_t = names::MAX_ADAPTERS, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub max_adapters: u32,
    /// Models that the server beside it has, separated by blanks.
    #[arg(long, env = "PERSONA_MODELS", value_delimiter = ' ')]
    pub models: Vec<String>,
    /// What the pool runs on, a label of metrics.
    #[arg(long, env = "PERSONA_DEVICE", default_value = "cpu", value_parser = ["cpu", "gpu"])]
    pub device: String,
    /// How long running tasks may take to end after SIGTERM.
    #[arg(long, env = "PERSONA_DRAIN_TIMEOUT", default_value = "60s")]
    pub drain_timeout: Span,
    /// Asks to be replaced, or beside a model server starts afresh, after that many tasks; 0 = never.
    #[arg(long, env = "PERSONA_RECYCLE_AFTER_TASKS", default_value_t = Recycle::default().after_tasks)]
    pub recycle_after_tasks: u64,
    /// The same after that time; 0s = never.
    #[arg(long, env = "PERSONA_RECYCLE_AFTER_AGE", default_value_t = Recycle::default().after_age)]
    pub recycle_after_age: Span,
    /// The same at that much resident memory, like 512Mi.
    #[arg(long, env = "PERSONA_RECYCLE_AT_MEMORY", default_value = "512Mi")]
    pub recycle_at_memory: MemorySize,
    /// How often this container has started afresh: set by the worker itself when it does.
    #[arg(long, env = "PERSONA_RECYCLES", default_value_t, hide = true)]
    pub recycles: Recycles,
}

impl Options {
    pub(super) fn recycle_limits(&self) -> Limits {
        Limits {
            after_tasks: self.recycle_after_tasks,
            after_age: self.recycle_after_age.into(),
            at_memory: self.recycle_at_memory.bytes(),
        }
    }
}

fn server_kind(text: &str) -> Result<ModelServerKind, String> {
    serde_json::from_value(text.into()).map_err(|_| "is Ollama, vLLM or LlamaCpp".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(more: &[&str]) -> Result<Options, clap::Error> {
        let mut args = vec![
            "worker",
            "--queue-url=redis://q",
            "--namespace=a",
            "--pool=p",
        ];
        args.extend(["--pod-uid=u", "--pod-ip=10.0.0.1"]);
        args.extend(more);
        Cli::try_parse_from(args).map(|cli| cli.options)
    }

    #[test]
    fn defaults_are_those_of_the_kind() {
        let options = parse(&[]).expect("complete");
        let limits = options.recycle_limits();
        assert_eq!(limits.after_tasks, 10_000);
        assert_eq!(limits.after_age.as_secs(), 86_400);
        assert_eq!(limits.at_memory, 512 << 20);
        let default = Recycle::default().at_memory;
        assert_eq!(default.parse(), Ok(options.recycle_at_memory));
        assert_eq!(options.device, "cpu");
    }

    #[test]
    fn labels_that_are_not_known_are_refused() {
        assert!(parse(&["--device=tpu"]).is_err());
        assert!(parse(&["--slots=0"]).is_err());
        assert!(parse(&["--recycle-at-memory=0.5G"]).is_err());
    }
}
