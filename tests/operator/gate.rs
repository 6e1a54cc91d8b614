//! What stands before a Prometheus that not everybody may ask: TLS with a certificate of its own
//! authority, and 401 without the right bearer token. It counts whom it turned away.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use testbed::certs::Identity;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::harness::PATIENCE;
use crate::webhook::acceptor;

/// The token that opens it.
pub const TOKEN: &str = "let-me-read";

/// A gate; it closes when dropped.
pub struct Gate {
    address: SocketAddr,
    turned_away: watch::Sender<usize>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    client: reqwest::Client,
    behind: String,
    turned_away: watch::Sender<usize>,
}

impl Gate {
    /// Before the server at this address.
    pub async fn start(identity: &Identity, behind: String) -> Result<Self> {
        let turned_away = watch::Sender::default();
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let address = tcp.local_addr()?;
        let listener = TlsListener {
            tcp,
            acceptor: acceptor(identity)?,
            turned_away: turned_away.clone(),
        };
        let shared = Shared {
            client: reqwest::Client::builder().no_proxy().build()?,
            behind,
            turned_away: turned_away.clone(),
        };
        let app = Router::new().fallback(pass).with_state(shared);
        let server = tokio::spawn(async move {
            axum::serve(listener, app).await.ok();
        });
        Ok(Self {
            address,
            turned_away,
            server,
        })
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Waits until so many more were turned away.
    pub async fn turns_away(&self, more: usize) -> Result<()> {
        let mut count = self.turned_away.subscribe();
        let wanted = *count.borrow() + more;
        timeout(PATIENCE, count.wait_for(|count| *count >= wanted)).await??;
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Connections whose handshake has succeeded.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    turned_away: watch::Sender<usize>,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = Listener::accept(&mut self.tcp).await;
            match self.acceptor.accept(stream).await {
                Ok(stream) => return (stream, from),
                // The client does not trust the certificate.
                Err(_) => self.turned_away.send_modify(|count| *count += 1),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn pass(State(shared): State<Shared>, request: Request) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    if given.is_none_or(|given| given != &format!("Bearer {TOKEN}")) {
        shared.turned_away.send_modify(|count| *count += 1);
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let asked = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let answer = async {
        let url = format!("{}{asked}", shared.behind);
        let answer = shared.client.get(url).send().await?;
        Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?))
    };
    match answer.await {
        Ok(answer) => answer.into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
