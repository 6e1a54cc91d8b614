//! Reading request bodies: bounded each, in time, and in sum over all requests that are held.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::ApiError;

/// Something that counts against the gateway's memory for bodies until it is dropped.
#[derive(Debug)]
pub struct Held<T> {
    value: T,
    permit: OwnedSemaphorePermit,
}

impl<T> Held<T> {
    /// Another form of the same thing, of about the same size.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map<U, E>(self, change: impl FnOnce(T) -> Result<U, E>) -> Result<Held<U>, E> {
        Ok(Held {
            value: change(self.value)?,
            permit: self.permit,
        })
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Limits of request bodies.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    /// Bytes of one body.
    pub each: usize,
    /// Time to send it.
    pub time: Duration,
    memory: Arc<Semaphore>,
}

impl BodyLimits {
    /// `total` bytes are held at once, of all requests together.
    pub fn new(each: usize, total: usize, time: Duration) -> Self {
        let permits = (total / UNIT).min(Semaphore::MAX_PERMITS);
        Self {
            each,
            time,
            memory: Arc::new(Semaphore::new(permits)),
        }
    }

    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        self.memory
            .clone()
            .try_acquire_many_owned(units)
            .map_err(|_| {
                let message = "the gateway holds as many requests as its memory allows";
                ApiError::new(503, "gateway_busy", message).retry_after(Duration::from_secs(1))
            })
    }

    fn too_large(&self) -> ApiError {
        let message = format!("the body is larger than the limit of {} bytes", self.each);
        ApiError::new(413, "request_too_large", message)
    }
}

/// Memory is counted in these steps.
const UNIT: usize = 1024;

/// Reads a body to its end.
///
/// # Errors
/// 413 when it is too large, 408 when it comes too slowly, 503 when too many bodies are held, 400 when
/// it breaks off.
pub async fn read(
    body: Body,
    headers: &HeaderMap,
    limits: &BodyLimits,
) -> Result<Held<BytesMut>, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.each) {
        return Err(limits.too_large());
    }
    let slow = |_| {
        let message = format!("the body did not arrive within {} s", limits.time.as_secs());
        ApiError::new(408, "request_timeout", message)
    };
    timeout(limits.time, collect(body, announced, limits))
        .await
        .map_err(slow)?
}

async fn collect(
    body: Body,
    announced: Option<usize>,
    limits: &BodyLimits,
) -> Result<Held<BytesMut>, ApiError> {
    let mut reserved = announced.unwrap_or(0);
    let mut permit = limits.reserve(reserved)?;
    let mut value = BytesMut::with_capacity(reserved);
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part
            .map_err(|_| ApiError::new(400, "incomplete_body", "the body ended before its end"))?;
        let length = value.len() + part.len();
        if length > limits.each {
            return Err(limits.too_large());
        }
        if length > reserved {
            permit.merge(limits.reserve(length - reserved)?);
            reserved = length;
        }
        value.extend_from_slice(&part);
    }
    Ok(Held { value, permit })
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn limits(each: usize, total: usize) -> BodyLimits {
        BodyLimits::new(each, total, Duration::from_secs(5))
    }

    async fn read_parts(
        parts: Vec<&'static str>,
        limits: &BodyLimits,
    ) -> Result<Held<BytesMut>, u16> {
        let parts = parts.into_iter().map(Ok::<_, std::io::Error>);
        let body = Body::from_stream(stream::iter(parts));
        read(body, &HeaderMap::new(), limits)
            .await
            .map_err(|e| e.status)
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let limits = limits(6, 64 * UNIT);
        let held = read_parts(vec!["abc", "def"], &limits).await.expect("fits");
        assert_eq!(&held[..], b"abcdef");
        assert_eq!(
            read_parts(vec!["abc", "defg"], &limits).await.err(),
            Some(413)
        );
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, 7.into());
        let refused = read(Body::empty(), &headers, &limits)
            .await
            .expect_err("too large");
        assert_eq!(refused.status, 413);
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded_and_given_back() {
        let limits = limits(UNIT, 2 * UNIT);
        let one = read_parts(vec!["a"], &limits).await.expect("fits");
        let two = read_parts(vec!["b"], &limits).await.expect("fits");
        assert_eq!(read_parts(vec!["c"], &limits).await.err(), Some(503));
        drop(one);
        let text = two
            .try_map(|bytes| String::from_utf8(bytes.to_vec()))
            .expect("UTF-8");
        assert_eq!(read_parts(vec!["c"], &limits).await.err(), None);
        drop(text);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let limits = BodyLimits::new(9, UNIT, Duration::from_millis(1));
        let body = Body::from_stream(stream::pending::<Result<&str, std::io::Error>>());
        let refused = read(body, &HeaderMap::new(), &limits)
            .await
            .expect_err("too slow");
        assert_eq!(refused.status, 408);
    }
}
