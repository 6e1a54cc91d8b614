//! One HTTP exchange as a [`ReplyStream`]: timeouts, limits, and the demand for an end mark, the same
//! for all dialects.

use std::{collections::VecDeque, error::Error as _, time::Duration};

use bytes::Bytes;
use futures::stream;
use reqwest::{
    Response,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::{Call, Event, Limits, ProviderError, ReplyStream, lines::Lines, retry_after};
use crate::provider::error::Said;

/// The shared HTTP client.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    limits: Limits,
}

/// What a dialect sends.
#[derive(Debug)]
pub struct Request {
    /// Full URL.
    pub url: String,
    /// JSON body.
    pub body: Map<String, Value>,
}

/// How a dialect reads its stream.
pub trait Decoder: Send + 'static {
    /// Content types of the stream; the first one is asked for.
    const CONTENT_TYPES: &'static [&'static str];
    /// What ends a complete stream, for the error of an incomplete one.
    const END_MARK: &'static str;

    /// Reads a line; adds what it means to `events`, [`Event::End`] last.
    ///
    /// # Errors
    /// For what is not of the protocol, or is its way to report an error.
    fn line(&mut self, line: &[u8], events: &mut VecDeque<Event>) -> Result<(), ProviderError>;

    /// Bytes that it holds of something incomplete.
    fn pending(&self) -> usize {
        0
    }
}

/// Longest body of an error answer that is read.
const ERROR_BODY: usize = 64 << 10;
/// Time to read the body of an error answer.
const ERROR_PATIENCE: Duration = Duration::from_secs(5);
/// Wait for the end of the body after the end mark: seen, the connection can be used again.
const TAIL_PATIENCE: Duration = Duration::from_millis(10);

impl Http {
    /// Prepares the client.
    ///
    /// # Errors
    /// [`ProviderError::Setup`] where TLS cannot be set up.
    pub fn new(limits: Limits) -> Result<Self, ProviderError> {
        let client = reqwest::Client::builder()
            .connect_timeout(limits.connect)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("persona-operator/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ProviderError::Setup(root_cause(&error)))?;
        Ok(Self { client, limits })
    }

    /// Sends `request` for `call` at the first poll, and streams what comes back.
    pub fn reply<D: Decoder>(
        &self,
        request: Result<Request, ProviderError>,
        call: &Call,
        decoder: D,
    ) -> ReplyStream {
        let exchange = Exchange {
            http: self.clone(),
            request: Some(request),
            authorization: call.credential.clone(),
            timeout: call.timeout,
            deadline: None,
            response: None,
            lines: Lines::new(self.limits.line_bytes),
            received: 0,
            heard_at: None,
            decoder,
            events: VecDeque::new(),
            failure: None,
        };
        Box::pin(stream::try_unfold(Some(exchange), |exchange| async move {
            let Some(mut exchange) = exchange else {
                return Ok(None);
            };
            let event = exchange.next().await?;
            let last = matches!(event, Event::End(_));
            Ok(Some((event, (!last).then_some(exchange))))
        }))
    }
}

struct Exchange<D> {
    http: Http,
    request: Option<Result<Request, ProviderError>>,
    authorization: Option<super::Credential>,
    timeout: Duration,
    deadline: Option<Instant>,
    response: Option<Response>,
    lines: Lines,
    received: usize,
    /// Last complete line of an answer that has begun.
    heard_at: Option<Instant>,
    decoder: D,
    events: VecDeque<Event>,
    /// What ended the answer after the events.
    failure: Option<ProviderError>,
}

impl<D: Decoder> Exchange<D> {
    async fn next(&mut self) -> Result<Event, ProviderError> {
        if let Some(request) = self.request.take() {
            let deadline = Instant::now() + self.timeout;
            self.deadline = Some(deadline);
            self.response = Some(self.open(request?, deadline).await?);
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                if matches!(event, Event::End(_)) {
                    self.read_tail().await;
                } else {
                    self.heard_at.get_or_insert_with(Instant::now);
                }
                return Ok(event);
            }
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            self.failure = self.read().await.err();
        }
    }

    async fn open(
        &mut self,
        request: Request,
        deadline: Instant,
    ) -> Result<Response, ProviderError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static(D::CONTENT_TYPES[0]));
        if let Some(credential) = self.authorization.take() {
            headers.insert(reqwest::header::AUTHORIZATION, bearer(&credential)?);
        }
        let Request { url, body: values } = request;
        let body = serde_json::to_vec(&values)
            .map_err(|error| ProviderError::Malformed(error.to_string()))?;
        // Many times its text in memory, and the answer may take minutes.
        drop(values);
        let sending = self
            .http
            .client
            .post(&url)
            .headers(headers)
            .body(body)
            .send();
        let response = timeout_at(deadline, sending)
            .await
            .map_err(|_| ProviderError::Timeout(self.timeout))?
            .map_err(|error| sending_failed(&error))?;
        if !response.status().is_success() {
            return Err(refusal(response, deadline).await);
        }
        let found = header(&response, CONTENT_TYPE.as_str()).unwrap_or_default();
        let kind = found.split(';').next().unwrap_or_default().trim();
        if !D::CONTENT_TYPES
            .iter()
            .any(|known| kind.eq_ignore_ascii_case(known))
        {
            return Err(ProviderError::ContentType {
                expected: D::CONTENT_TYPES[0],
                found: found.chars().take(100).collect(),
            });
        }
        Ok(response)
    }

    /// Waits for more bytes and decodes the lines they complete.
    async fn read(&mut self) -> Result<(), ProviderError> {
        let Some(bytes) = self.bytes().await? else {
            if let Some(rest) = self.lines.rest() {
                self.decode(&rest)?;
            }
            return if self.events.is_empty() {
                Err(ProviderError::Truncated(D::END_MARK))
            } else {
                Ok(())
            };
        };
        self.received += bytes.len();
        self.lines.push(&bytes);
        let limits = self.http.limits;
        while let Some(line) = self
            .lines
            .next_line()
            .map_err(|_| ProviderError::TooLarge {
                what: "a line",
                limit: limits.line_bytes,
            })?
        {
            self.heard_at = self.heard_at.map(|_| Instant::now());
            self.decode(&line)?;
        }
        if self.decoder.pending() > limits.line_bytes {
            return Err(ProviderError::TooLarge {
                what: "a line",
                limit: limits.line_bytes,
            });
        }
        if self.received > limits.body_bytes {
            return Err(ProviderError::TooLarge {
                what: "a body",
                limit: limits.body_bytes,
            });
        }
        Ok(())
    }

    fn decode(&mut self, line: &[u8]) -> Result<(), ProviderError> {
        match self.events.back() {
            Some(Event::End(_)) => Ok(()),
            _ => self.decoder.line(line, &mut self.events),
        }
    }

    async fn bytes(&mut self) -> Result<Option<Bytes>, ProviderError> {
        let idle = self.http.limits.idle;
        let deadline = self.deadline.unwrap_or_else(Instant::now);
        let silence_ends = self.heard_at.map(|heard| heard + idle);
        let limit = silence_ends.map_or(deadline, |ends| ends.min(deadline));
        let Some(response) = self.response.as_mut() else {
            return Ok(None);
        };
        match timeout_at(limit, response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(ProviderError::Broken(root_cause(&error))),
            Err(_) if limit < deadline => Err(ProviderError::Stalled(idle)),
            Err(_) => Err(ProviderError::Timeout(self.timeout)),
        }
    }

    /// The answer is complete whatever comes here, so errors mean nothing any more.
    async fn read_tail(&mut self) {
        if let Some(mut response) = self.response.take() {
            timeout_at(Instant::now() + TAIL_PATIENCE, response.chunk())
                .await
                .ok();
        }
    }
}

fn bearer(credential: &super::Credential) -> Result<HeaderValue, ProviderError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", credential.expose()))
        .map_err(|_| ProviderError::Unauthorized(401))?;
    value.set_sensitive(true);
    Ok(value)
}

fn sending_failed(error: &reqwest::Error) -> ProviderError {
    let cause = root_cause(error);
    if error.is_builder() {
        ProviderError::Endpoint(format!("the endpoint is no URL: {cause}"))
    } else if error.is_connect() {
        ProviderError::Unreachable(cause)
    } else {
        ProviderError::Broken(cause)
    }
}

async fn refusal(mut response: Response, deadline: Instant) -> ProviderError {
    let wait = retry_after::parse(
        header(&response, RETRY_AFTER.as_str()).as_deref(),
        header(&response, "retry-after-ms").as_deref(),
        jiff::Timestamp::now(),
    );
    let status = response.status().as_u16();
    let limit = deadline.min(Instant::now() + ERROR_PATIENCE);
    let mut body = Vec::new();
    // A body that breaks off or takes too long still leaves the status to judge by.
    while let Ok(Ok(Some(bytes))) = timeout_at(limit, response.chunk()).await {
        body.extend_from_slice(&bytes);
        if body.len() >= ERROR_BODY {
            body.truncate(ERROR_BODY);
            break;
        }
    }
    ProviderError::from_status(status, Said::read(&body), wait)
}

fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// The innermost error: reqwest's own words name the URL, which may hold a password, and little else.
fn root_cause(error: &reqwest::Error) -> String {
    let Some(mut cause) = error.source() else {
        return "no further words".to_owned();
    };
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
