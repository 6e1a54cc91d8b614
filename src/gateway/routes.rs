//! The routes, and what every answer has.

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};

use super::error::ApiError;
use super::metrics::Metrics;
use super::{Context, chat, health, models};

const CHAT: &str = "/v1/chat/completions";
const MODELS: &str = "/v1/models";
/// Names of personas have a `/` when they come with their namespace.
const MODEL: &str = "/v1/models/{*id}";
const HEALTH: &str = "/health";

/// The API.
pub fn routes(context: Arc<Context>, metrics: Metrics) -> Router {
    Router::new()
        .route(CHAT, post(chat::complete))
        .route(MODELS, get(models::list))
        .route(MODEL, get(models::get))
        .route(HEALTH, get(health::health))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(metrics, observe))
        .with_state(context)
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    let message = format!("there is no {method} {}", uri.path());
    ApiError::new(404, "unknown_url", message)
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{method} is not allowed on {}", uri.path());
    ApiError::new(405, "method_not_allowed", message)
}

/// Counts a request and gives its answer an id.
async fn observe(State(metrics): State<Metrics>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    // As labels: a fixed set.
    let route = match path.map(MatchedPath::as_str) {
        Some(CHAT) => CHAT,
        Some(MODELS) => MODELS,
        Some(MODEL) => "/v1/models/{id}",
        Some(HEALTH) => HEALTH,
        _ => "other",
    };
    let observation = metrics.begin(route);
    request.extensions_mut().insert(observation.clone());
    let id = format!("req_{:032x}", rand::random::<u128>());
    let mut response = next.run(request).await;
    let status = response.status();
    observation.code(status.as_u16());
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        tracing::warn!(request = id, route, %status, "a request failed");
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
