//! How to know that a component answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const ATTEMPT: Duration = Duration::from_secs(2);

/// One way to ask a component whether it is ready.
#[derive(Debug, Clone)]
pub enum Probe {
    /// Ready as soon as it is started.
    None,
    /// A GET that must answer 200. The server's certificate is not checked: it is our own child on
    /// this machine, and several components make their own certificate.
    Http(String),
    /// A Unix socket that takes connections.
    Socket(PathBuf),
    /// A Redis that answers PING, be it with "authenticate first"; not while it is loading its data.
    Redis(SocketAddr),
}

impl Probe {
    /// One attempt.
    pub async fn check(&self) -> Result<()> {
        let attempt = async {
            match self {
                Self::None => Ok(()),
                Self::Http(url) => http(url).await,
                Self::Socket(path) => Ok(UnixStream::connect(path).await.map(drop)?),
                Self::Redis(address) => redis(*address).await,
            }
        };
        tokio::time::timeout(ATTEMPT, attempt)
            .await
            .context("no answer in time")?
    }
}

async fn http(url: &str) -> Result<()> {
    // A client an attempt: it must not be tied to the runtime of the test that asked first.
    crate::install_crypto();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .context("HTTP client")?;
    let response = client.get(url).send().await?;
    if !response.status().is_success() {
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        bail!(
            "{url} answered {status}: {}",
            body.lines()
                .filter(|line| line.starts_with("[-]"))
                .collect::<String>()
        );
    }
    Ok(())
}

async fn redis(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    if !answer.starts_with("+PONG") && !answer.starts_with("-NOAUTH") {
        bail!("Redis answered {}", answer.trim());
    }
    Ok(())
}
