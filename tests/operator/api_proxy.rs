//! A proxy before the API server that cuts the controller off at a write: everything that it wrote
//! before has happened, nothing after does. Or one that lets something else happen before a request,
//! or before its answer.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{self, Request};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use kube::Client;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::fuse::{Cut, Fuse, State};

/// What the fuse calls it.
pub const API: &str = "the API server";
/// Largest object that is passed on.
const LARGEST: usize = 4 << 20;

/// What happens while a request of the controller or its answer waits, by its method and path.
pub type Meanwhile = Arc<dyn Fn(&Method, &str) -> BoxFuture<'static, ()> + Send + Sync>;

/// Whether a request is refused, by its method and path.
pub type Refuses = Arc<dyn Fn(&Method, &str) -> bool + Send + Sync>;

/// A proxy to the API server.
pub struct ApiProxy {
    kubeconfig: String,
    server: JoinHandle<()>,
    _files: TempDir,
}

struct Shared {
    client: Client,
    fuse: Arc<Fuse>,
}

impl ApiProxy {
    /// Passes requests on until the fuse blows.
    pub async fn start(client: Client, fuse: Arc<Fuse>) -> Result<Self> {
        let shared = Arc::new(Shared { client, fuse });
        Self::serve(Router::new().fallback(pass).with_state(shared)).await
    }

    /// Passes each request on after this.
    pub async fn after(client: Client, before: Meanwhile) -> Result<Self> {
        let pass = move |request: Request| {
            let (client, before) = (client.clone(), before.clone());
            async move {
                before(request.method(), request.uri().path()).await;
                forward(&client, request).await
            }
        };
        Self::serve(Router::new().fallback(pass)).await
    }

    /// Passes each answer on after this.
    pub async fn late(client: Client, meanwhile: Meanwhile) -> Result<Self> {
        let pass = move |request: Request| {
            let (client, meanwhile) = (client.clone(), meanwhile.clone());
            async move {
                let waiting = meanwhile(request.method(), request.uri().path());
                let answer = forward(&client, request).await;
                waiting.await;
                answer
            }
        };
        Self::serve(Router::new().fallback(pass)).await
    }

    /// Answers 500 to these requests, as a server that is short of something does, and passes the others on.
    pub async fn refusing(client: Client, refuses: Refuses) -> Result<Self> {
        let pass = move |request: Request| {
            let (client, refuses) = (client.clone(), refuses.clone());
            async move {
                if refuses(request.method(), request.uri().path()) {
                    return (StatusCode::INTERNAL_SERVER_ERROR, "not now").into_response();
                }
                forward(&client, request).await
            }
        };
        Self::serve(Router::new().fallback(pass)).await
    }

    async fn serve(app: Router) -> Result<Self> {
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
        let kubeconfig = files.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string())?;
        let server = tokio::spawn(async move {
            axum::serve(listener, app).await.ok();
        });
        Ok(Self {
            kubeconfig: kubeconfig.to_str().context("a path")?.to_owned(),
            server,
            _files: files,
        })
    }

    /// The setting with which a controller goes this way.
    pub fn setting(&self) -> (&str, &str) {
        ("KUBECONFIG", &self.kubeconfig)
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Leases and events come in their own time and are no step of a move.
fn is_step(request: &Request) -> bool {
    let path = request.uri().path();
    *request.method() != Method::GET && !path.contains("/leases") && !path.contains("/events")
}

async fn pass(extract::State(shared): extract::State<Arc<Shared>>, request: Request) -> Response {
    let state = match is_step(&request) {
        true => shared.fuse.count(),
        false => State::Off,
    };
    match state {
        State::Off | State::At(2.., _) => forward(&shared.client, request).await,
        State::At(_, cut) => {
            if cut == Cut::After {
                forward(&shared.client, request).await;
            }
            shared.fuse.has_blown(API);
            std::future::pending().await
        }
        State::Blown => std::future::pending().await,
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
