//! The controller's settings, each an environment variable and a flag.

use std::{net::SocketAddr, path::PathBuf};

use super::Error;
use crate::api::Span;

/// Nobody waits longer for a leader that is gone.
const LONGEST_LEASE: Span = Span::secs(3600);

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
    /// A request to the API server that has no answer for this long failed. Longer than admission webhooks
    /// may take together.
    #[arg(long, env = "PERSONA_API_TIMEOUT", default_value = "60s")]
    pub api_timeout: Span,
}

impl Options {
    /// Refuses what two leaders, or none, would follow from.
    ///
    /// # Errors
    /// What to set instead.
    pub fn check(&self) -> Result<(), Error> {
        let (lasts, deadline, retry, api) = (
            self.lease_duration,
            self.lease_renew_deadline,
            self.lease_retry_period,
            self.api_timeout,
        );
        let advice = if lasts < Span::secs(1) || lasts.as_millis() % 1_000 != 0 {
            format!("PERSONA_LEASE_DURATION is {lasts}: set whole seconds, like 15s")
        } else if lasts > LONGEST_LEASE {
            format!("PERSONA_LEASE_DURATION is {lasts}: set {LONGEST_LEASE} at most")
        } else if deadline >= lasts {
            format!(
                "PERSONA_LEASE_RENEW_DEADLINE is {deadline} and the lease lasts {lasts}: another one \
                 would lead before this one ends; set less, like two thirds of PERSONA_LEASE_DURATION"
            )
        } else if retry < Span::millis(10) || retry.as_millis() > deadline.as_millis() / 2 {
            format!(
                "PERSONA_LEASE_RETRY_PERIOD is {retry}: set 10ms at least, and at most half of \
                 PERSONA_LEASE_RENEW_DEADLINE ({deadline}), so that one renewal may fail"
            )
        } else if api < Span::secs(1) {
            format!("PERSONA_API_TIMEOUT is {api}: set 1s at least, like 60s")
        } else {
            return Ok(());
        };
        Err(Error::Setting(advice))
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn with(settings: &[&str]) -> Result<(), String> {
        let command = Options::augment_args(Command::new("controller"));
        let needed = [
            "controller",
            "--queue-url=redis://redis:6379",
            "--master-key-file=key",
            "--worker-image=image",
        ];
        let matches = command.get_matches_from(needed.iter().chain(settings));
        let options = Options::from_arg_matches(&matches).expect("options");
        options.check().map_err(|error| error.to_string())
    }

    #[test]
    fn times_of_a_lease_that_do_not_go_together_are_refused_in_words() {
        assert_eq!(with(&[]), Ok(()));
        let tight = ["--lease-duration=2s", "--lease-renew-deadline=1999ms"];
        assert_eq!(
            with(&[&tight[..], &["--lease-retry-period=10ms"]].concat()),
            Ok(())
        );
        for (settings, word) in [
            (&["--lease-duration=900ms"][..], "whole seconds"),
            (&["--lease-duration=1s500ms"], "whole seconds"),
            (&["--lease-duration=9000h"], "at most"),
            (&["--lease-renew-deadline=15s"], "two thirds"),
            (&["--lease-retry-period=0s"], "10ms at least"),
            (&["--lease-retry-period=6s"], "may fail"),
            (&["--api-timeout=0s"], "like 60s"),
        ] {
            let refused = with(settings).expect_err("refused");
            assert!(refused.contains(word), "{settings:?}: {refused}");
        }
    }
}
