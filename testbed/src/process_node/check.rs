//! One attempt of a probe or of a preStop hook: HTTP, TCP, a command, or a pause.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::container::Launch;
use crate::process::Process;

/// What is asked of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Http {
        scheme: String,
        host: Option<String>,
        port: u16,
        path: String,
        headers: BTreeMap<String, String>,
    },
    Tcp {
        host: Option<String>,
        port: u16,
    },
    Exec(Vec<String>),
    Sleep(Duration),
    /// What this node cannot do; fails with these words.
    Unsupported(String),
}

impl Check {
    pub fn of_probe(probe: &Probe, container: &Container) -> Self {
        if let Some(get) = &probe.http_get {
            Self::http(get, container)
        } else if let Some(tcp) = &probe.tcp_socket {
            Self::tcp(tcp, container)
        } else if let Some(exec) = &probe.exec {
            Self::exec(exec)
        } else {
            Self::Unsupported("process nodes know httpGet, tcpSocket and exec probes only".into())
        }
    }

    pub fn of_hook(hook: &LifecycleHandler, container: &Container) -> Self {
        if let Some(get) = &hook.http_get {
            Self::http(get, container)
        } else if let Some(exec) = &hook.exec {
            Self::exec(exec)
        } else if let Some(pause) = &hook.sleep {
            Self::Sleep(Duration::from_secs(
                u64::try_from(pause.seconds).unwrap_or(0),
            ))
        } else {
            Self::Unsupported("process nodes know httpGet, exec and sleep hooks only".into())
        }
    }

    fn http(get: &HTTPGetAction, container: &Container) -> Self {
        let port = match resolve(&get.port, container) {
            Ok(port) => port,
            Err(words) => return Self::Unsupported(words),
        };
        let headers = get.http_headers.iter().flatten();
        let path = get.path.clone().unwrap_or_default();
        Self::Http {
            scheme: get.scheme.as_deref().unwrap_or("HTTP").to_lowercase(),
            host: get.host.clone().filter(|h| !h.is_empty()),
            port,
            path: format!("/{}", path.trim_start_matches('/')),
            headers: headers.map(|h| (h.name.clone(), h.value.clone())).collect(),
        }
    }

    fn tcp(tcp: &TCPSocketAction, container: &Container) -> Self {
        match resolve(&tcp.port, container) {
            Ok(port) => Self::Tcp {
                host: tcp.host.clone().filter(|h| !h.is_empty()),
                port,
            },
            Err(words) => Self::Unsupported(words),
        }
    }

    fn exec(exec: &ExecAction) -> Self {
        Self::Exec(exec.command.clone().unwrap_or_default())
    }
}

/// A port number, or the name of one of the container's ports.
fn resolve(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|p| p.name.as_deref() == Some(name));
            named
                .map(|p| p.container_port)
                .or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|n| u16::try_from(n).ok());
    number.ok_or_else(|| format!("container {} has no port {port:?}", container.name))
}

/// Asks one container of one pod.
#[derive(Debug)]
pub struct Checker {
    pub client: reqwest::Client,
    pub pod_ip: Ipv4Addr,
    pub launch: Arc<Launch>,
}

/// A client as the kubelet's: it follows no redirect, checks no certificate, keeps no connection.
pub fn http_client() -> Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
        .pool_max_idle_per_host(0)
        .user_agent("kube-probe/1.36 (process node)")
        .build();
    client.context("HTTP client of the probes")
}

impl Checker {
    /// One attempt, without a time limit of its own.
    ///
    /// # Errors
    /// Why the check did not pass.
    pub async fn check(&self, check: &Check) -> Result<()> {
        match check {
            Check::Http {
                scheme,
                host,
                port,
                path,
                headers,
            } => {
                let url = format!("{scheme}://{}:{port}{path}", self.host(host.as_ref()));
                let mut request = self.client.get(&url);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let status = request.send().await?.status();
                if !status.is_success() && !status.is_redirection() {
                    bail!("HTTP probe failed with statuscode: {}", status.as_u16());
                }
            }
            Check::Tcp { host, port } => {
                TcpStream::connect((self.host(host.as_ref()), *port)).await?;
            }
            Check::Exec(command) => self.exec(command).await?,
            Check::Sleep(pause) => tokio::time::sleep(*pause).await,
            Check::Unsupported(words) => bail!("{words}"),
        }
        Ok(())
    }

    fn host(&self, host: Option<&String>) -> String {
        host.cloned().unwrap_or_else(|| self.pod_ip.to_string())
    }

    async fn exec(&self, command: &[String]) -> Result<()> {
        let command = self.launch.exec(command).context("an empty command")?;
        // Dropped, so killed, when the attempt's time is over.
        let status = Process::spawn(command)?.wait().await?;
        if !status.success() {
            bail!("the command failed: {status}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(probe: serde_json::Value) -> Check {
        let container = json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]});
        let container = serde_json::from_value(container).unwrap();
        Check::of_probe(&serde_json::from_value(probe).unwrap(), &container)
    }

    #[test]
    fn named_port_is_looked_up_in_the_container() {
        let Check::Http { port, path, .. } =
            check(json!({"httpGet": {"port": "http", "path": "livez"}}))
        else {
            panic!("not HTTP")
        };
        assert_eq!((port, path.as_str()), (8080, "/livez"));
        let unknown = check(json!({"tcpSocket": {"port": "grpc"}}));
        assert!(matches!(unknown, Check::Unsupported(words) if words.contains("grpc")));
    }

    #[test]
    fn grpc_probe_says_that_it_is_not_supported() {
        let check = check(json!({"grpc": {"port": 9}}));
        assert!(matches!(check, Check::Unsupported(words) if words.contains("httpGet")));
    }
}
