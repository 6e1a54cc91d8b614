//! `POST /v1/chat/completions`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::address::{Address, NAMESPACE_HEADER};
use super::answer::{self, EventWriter, Head, KEEP_ALIVE};
use super::auth::Principal;
use super::error::{ApiError, CLIENT_CLOSED};
use super::exchange::{Event, Exchange, Task};
use super::metrics::Observation;
use super::request::{self, ChatRequest};
use super::{Context, body, refusal};
use crate::queue::task::{OutcomeKind, TaskKind, TaskPayload};

/// Says that the same request, sent again, is to get the same answer.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest Idempotency-Key, as Stripe and others have it.
const KEY_LENGTH: usize = 255;
/// A stream's status waits this long for the first token, so that a refusal is a proper HTTP error.
const STATUS_WAIT: Duration = Duration::from_secs(5);
/// Silence on a stream before a comment is sent.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Answers a chat completion request.
pub async fn complete(
    State(context): State<Arc<Context>>,
    Extension(observation): Extension<Observation>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let principal = context.authenticate(&headers)?;
    let body = body::read(body, &headers, &context.settings.bodies).await?;
    let mut request = request::parse(&body)?;
    let namespace = text(&headers, NAMESPACE_HEADER)?;
    let address = Address::resolve(&request.model, namespace, &principal)?;
    let (id, keyed) = task_id(&headers, &principal, &address)?;
    let head = Head {
        id: format!("chatcmpl-{id}"),
        created: Timestamp::now().as_second(),
        model: std::mem::take(&mut request.model),
    };
    let (stream, include_usage) = (request.stream, request.include_usage);
    tracing::debug!(
        principal = principal.name,
        task = id,
        ?address,
        stream,
        "accepted"
    );
    let task = Task {
        payload: body.try_map(|_| payload(request))?,
        address,
        id,
        stream,
        keyed,
    };
    let exchange = Exchange::begin(context, task).await?;
    if stream {
        let writer = EventWriter::new(head, include_usage);
        streamed(exchange, writer, observation).await
    } else {
        whole(exchange, &head).await
    }
}

/// Keys are sorted, so that equal requests are equal texts: the queue compares them.
fn payload(request: ChatRequest) -> Result<String, ApiError> {
    let payload = TaskPayload {
        kind: TaskKind::ChatCompletions,
        request: request.body,
    };
    serde_json::to_string(&payload).map_err(|e| {
        ApiError::new(
            500,
            "internal_error",
            format!("the request cannot be sent: {e}"),
        )
    })
}

/// An unguessable id, or one that only this principal can name: by its Idempotency-Key.
fn task_id(
    headers: &HeaderMap,
    principal: &Principal,
    address: &Address,
) -> Result<(String, bool), ApiError> {
    let Some(key) = text(headers, IDEMPOTENCY_KEY)? else {
        return Ok((format!("{:032x}", rand::random::<u128>()), false));
    };
    if key.is_empty() || key.len() > KEY_LENGTH {
        let message = format!("the Idempotency-Key must have 1 to {KEY_LENGTH} characters");
        return Err(ApiError::new(400, "invalid_idempotency_key", message));
    }
    // None of the parts can hold a NUL.
    let parts = [&principal.name, &address.namespace, &address.persona, key].join("\0");
    Ok((hex::encode(&Sha256::digest(parts)[..16]), true))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let value = headers.get(name).map(HeaderValue::to_str).transpose();
    value.map_err(|_| {
        ApiError::new(
            400,
            "invalid_header",
            format!("the header `{name}` must be plain text"),
        )
    })
}

async fn whole(mut exchange: Exchange, head: &Head) -> Result<Response, ApiError> {
    loop {
        match exchange.next().await {
            Event::Chunks(_) => {}
            Event::Ended(outcome) if outcome.outcome == OutcomeKind::Completed => {
                return Ok(Json(answer::completion(head, &outcome)).into_response());
            }
            Event::Ended(outcome) => return Err(refusal::of_outcome(&outcome)),
            Event::Failed(error) => return Err(error),
        }
    }
}

async fn streamed(
    mut exchange: Exchange,
    writer: EventWriter,
    observation: Observation,
) -> Result<Response, ApiError> {
    let first = match timeout(STATUS_WAIT, exchange.next()).await {
        Ok(Event::Failed(error)) => return Err(error),
        Ok(Event::Ended(outcome)) if outcome.outcome != OutcomeKind::Completed => {
            return Err(refusal::of_outcome(&outcome));
        }
        Ok(event) => Some(event),
        Err(_) => None,
    };
    let events = Events {
        exchange,
        writer,
        first,
        observation,
        finished: false,
    };
    let parts = stream::unfold(events, |mut events| async move {
        let part = events.next().await?;
        Some((Ok::<_, Infallible>(part), events))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // nginx would collect events otherwise.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// The body of a streamed answer. It is asked for more only as fast as the client reads.
struct Events {
    exchange: Exchange,
    writer: EventWriter,
    first: Option<Event>,
    observation: Observation,
    finished: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        if self.finished {
            return None;
        }
        let event = match self.first.take() {
            Some(event) => event,
            None => match timeout(KEEP_ALIVE_EVERY, self.exchange.next()).await {
                Ok(event) => event,
                Err(_) => return Some(KEEP_ALIVE),
            },
        };
        Some(match event {
            Event::Chunks(chunks) => self.writer.chunks(&chunks),
            Event::Ended(outcome) if outcome.outcome == OutcomeKind::Completed => {
                self.finished = true;
                self.writer.completed(&outcome)
            }
            Event::Ended(outcome) => self.failed(&refusal::of_outcome(&outcome)),
            Event::Failed(error) => self.failed(&error),
        })
    }

    fn failed(&mut self, error: &ApiError) -> Bytes {
        self.finished = true;
        self.observation.code(error.status);
        self.writer.failed(error)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if !self.finished {
            self.observation.code(CLIENT_CLOSED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::auth::tests::principal;
    use super::*;

    fn id(key: Option<&str>, who: &Principal, persona: &str) -> Result<(String, bool), ApiError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert(IDEMPOTENCY_KEY, key.parse().expect("a header"));
        }
        let address = Address {
            namespace: "a".into(),
            persona: persona.into(),
        };
        task_id(&headers, who, &address)
    }

    #[test]
    fn an_idempotency_key_names_one_task_of_one_principal_and_persona() {
        let one = principal(&["*"], &["*"]);
        let mut two = one.clone();
        two.name = "other".into();
        let task = |key, who, persona| id(Some(key), who, persona).expect("an id");
        assert_eq!(task("k", &one, "p"), task("k", &one, "p"));
        assert!(task("k", &one, "p").1);
        assert_ne!(task("k", &one, "p"), task("k", &two, "p"));
        assert_ne!(task("k", &one, "p"), task("k", &one, "q"));
        assert_ne!(task("k", &one, "p"), task("l", &one, "p"));
        let random = || id(None, &one, "p").expect("an id");
        assert_ne!(random(), random());
        assert!(!random().1 && random().0.len() == 32);
        assert_eq!(id(Some(""), &one, "p").expect_err("empty").status, 400);
        let long = "k".repeat(KEY_LENGTH + 1);
        assert_eq!(id(Some(&long), &one, "p").expect_err("long").status, 400);
    }
}
