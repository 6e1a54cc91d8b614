//! `GET /v1/models` and `/v1/models/{id}`: the personas that a key reaches.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::Context;
use super::address::{Address, NAMESPACE_HEADER};
use super::auth::Principal;
use super::error::ApiError;
use super::refusal;

/// All personas the key reaches, in order.
pub async fn list(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let principal = context.authenticate(&headers)?;
    let namespaces = match principal.namespaces() {
        Some(names) => names.iter().cloned().collect(),
        None => context
            .queue
            .namespaces()
            .await
            .map_err(|e| refusal::no_queue(&e))?,
    };
    let mut data = Vec::new();
    for namespace in namespaces {
        for persona in personas(&context, &namespace).await? {
            if principal.may_ask(&namespace, &persona) {
                data.push(Address {
                    namespace: namespace.clone(),
                    persona,
                });
            }
        }
    }
    data.sort_by(|a, b| (&a.namespace, &a.persona).cmp(&(&b.namespace, &b.persona)));
    let data: Vec<Value> = data
        .iter()
        .map(|address| model(address, &principal))
        .collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

/// One persona.
pub async fn get(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let principal = context.authenticate(&headers)?;
    let namespace = headers.get(NAMESPACE_HEADER).and_then(|v| v.to_str().ok());
    let address = Address::resolve(&id, namespace, &principal)?;
    let personas = personas(&context, &address.namespace).await?;
    if personas.contains(&address.persona) {
        Ok(Json(model(&address, &principal)))
    } else {
        Err(ApiError::no_persona(&address.namespace, &address.persona))
    }
}

async fn personas(context: &Context, namespace: &str) -> Result<Vec<String>, ApiError> {
    let queue = context.queue.namespace(namespace);
    let personas = match queue {
        Ok(queue) => queue.personas().await,
        Err(error) => Err(error),
    };
    personas.map_err(|error| refusal::no_queue(&error))
}

/// The id is what the same key can send as `model`. When a persona was made is not known here.
fn model(address: &Address, principal: &Principal) -> Value {
    let id = match principal.sole_namespace() {
        Some(_) => address.persona.clone(),
        None => format!("{}/{}", address.namespace, address.persona),
    };
    json!({"id": id, "object": "model", "created": 0, "owned_by": address.namespace})
}
