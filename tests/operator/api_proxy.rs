//! A proxy before the API server that cuts the controller off at a write: everything that it wrote
//! before has happened, nothing after does.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kube::Client;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Largest object that is passed on.
const LARGEST: usize = 4 << 20;

/// What happens to the write at which the controller is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The API server never hears of it; all that came before it in the queue is done.
    Before,
    /// It is done, and the controller never hears of that.
    After,
}

/// A proxy to the API server.
pub struct ApiProxy {
    shared: Arc<Shared>,
    files: TempDir,
    server: JoinHandle<()>,
}

struct Shared {
    client: Client,
    fuse: Mutex<Fuse>,
    blown: watch::Sender<bool>,
}

#[derive(Clone, Copy)]
enum Fuse {
    Off,
    /// Blows at the last of so many writes.
    At(usize, Cut),
    Blown,
}

impl ApiProxy {
    pub async fn start(client: Client) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", listener.local_addr()?)}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        let files = tempfile::tempdir()?;
        std::fs::write(files.path().join("kubeconfig"), config.to_string())?;
        let shared = Arc::new(Shared {
            client,
            fuse: Mutex::new(Fuse::Off),
            blown: watch::Sender::default(),
        });
        let app = Router::new().fallback(pass).with_state(shared.clone());
        let server = tokio::spawn(async move {
            axum::serve(listener, app).await.ok();
        });
        Ok(Self {
            shared,
            files,
            server,
        })
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.files.path().join("kubeconfig")
    }

    /// Cuts off at the n-th write from now, the first being 1.
    pub fn arm(&self, number: usize, cut: Cut) {
        self.shared.blown.send_replace(false);
        self.shared.set(Fuse::At(number, cut));
    }

    /// Lets everything through again.
    pub fn disarm(&self) {
        self.shared.set(Fuse::Off);
    }

    /// Returns when the controller is cut off.
    pub async fn blown(&self) {
        let mut blown = self.shared.blown.subscribe();
        // The sender lives as long as this.
        blown.wait_for(|blown| *blown).await.ok();
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn set(&self, fuse: Fuse) {
        *self.fuse.lock().unwrap_or_else(PoisonError::into_inner) = fuse;
    }

    /// What the fuse was when this write came.
    fn count(&self) -> Fuse {
        let mut fuse = self.fuse.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *fuse;
        *fuse = match before {
            Fuse::Off => Fuse::Off,
            Fuse::At(1, _) | Fuse::Blown => Fuse::Blown,
            Fuse::At(left, cut) => Fuse::At(left - 1, cut),
        };
        before
    }
}

/// Leases and events come in their own time and are no step of a move.
fn is_step(request: &Request) -> bool {
    let path = request.uri().path();
    *request.method() != Method::GET && !path.contains("/leases") && !path.contains("/events")
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let fuse = match is_step(&request) {
        true => shared.count(),
        false => Fuse::Off,
    };
    match fuse {
        Fuse::Off | Fuse::At(2.., _) => forward(&shared.client, request).await,
        Fuse::At(_, cut) => {
            if cut == Cut::After {
                forward(&shared.client, request).await;
            }
            shared.blown.send_replace(true);
            std::future::pending().await
        }
        Fuse::Blown => std::future::pending().await,
    }
}

async fn forward(client: &Client, request: Request) -> Response {
    let sent = async {
        let (mut head, body) = request.into_parts();
        head.headers.remove(header::HOST);
        let body = to_bytes(body, LARGEST).await?.to_vec();
        let request = axum::http::Request::from_parts(head, body.into());
        let (mut head, body) = client.send(request).await?.into_parts();
        head.headers.remove(header::TRANSFER_ENCODING);
        anyhow::Ok(Response::from_parts(head, Body::new(body)))
    };
    sent.await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response())
}
