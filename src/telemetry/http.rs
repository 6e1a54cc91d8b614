//! `/metrics`, `/livez` and `/readyz`.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Error, Health};

/// The three routes, for a process that serves more on the same port.
pub fn routes(registry: Registry, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(registry)
        .merge(
            Router::new()
                .route("/livez", get(livez))
                .route("/readyz", get(readyz))
                .with_state(health),
        )
}

/// Serves the three routes until the answer is dropped.
pub async fn serve(
    listen: SocketAddr,
    registry: Registry,
    health: Health,
) -> Result<Server, Error> {
    let failed = |source| Error::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let router = routes(registry, health);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics server stopped");
        }
    });
    tracing::info!(%address, "serving metrics and health");
    Ok(Server { address, task })
}

/// A running server; it stops when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens, with the port that the system chose for port 0.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn metrics(State(registry): State<Registry>) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn livez(State(health): State<Health>) -> Response {
    answer(health.liveness())
}

async fn readyz(State(health): State<Health>) -> Response {
    answer(health.readiness())
}

fn answer(verdict: Result<(), Vec<String>>) -> Response {
    match verdict {
        Ok(()) => "ok\n".into_response(),
        Err(failures) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}\n", failures.join("\n")),
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(url: String) -> (u16, String) {
        // Other tests of this binary may have installed it already.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let response = reqwest::get(url).await.expect("answers");
        (
            response.status().as_u16(),
            response.text().await.expect("text"),
        )
    }

    #[tokio::test]
    async fn metrics_and_health_are_served_and_failures_named() {
        let health = Health::default();
        health.ready("queue", || Err("away".into()));
        let registry = crate::telemetry::registry().expect("registers");
        let server = serve(([127, 0, 0, 1], 0).into(), registry, health)
            .await
            .expect("listens");
        let base = format!("http://{}", server.address());
        let (code, text) = get(format!("{base}/metrics")).await;
        assert_eq!(code, 200);
        assert!(text.contains("persona_build_info{version="), "{text}");
        assert_eq!(get(format!("{base}/livez")).await, (200, "ok\n".into()));
        assert_eq!(
            get(format!("{base}/readyz")).await,
            (503, "queue: away\n".into())
        );
    }
}
