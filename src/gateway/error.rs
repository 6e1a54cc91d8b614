//! Error answers in the form the OpenAI SDKs read.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::api::Span;

/// Status of a request whose client went away; nobody sees it but the metrics.
pub const CLIENT_CLOSED: u16 = 499;

/// One error answer: the status, and what goes into `{"error": {…}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// `error.type`: the family, as OpenAI names it.
    pub kind: &'static str,
    /// `error.code`: a word a program can act on.
    pub code: String,
    /// `error.param`: the field of the request that is wrong.
    pub param: Option<String>,
    /// `error.message`: a sentence for people.
    pub message: String,
    /// When a retry may succeed.
    pub retry_after: Option<Duration>,
    /// No request more is taken until `retry_after`: the client is told as OpenAI tells it.
    pub exhausted: bool,
    /// A retry cannot help, though the status suggests one; SDKs obey `x-should-retry`.
    pub hopeless: bool,
}

impl ApiError {
    /// An error of this status; its type follows from it.
    pub fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: kind_of(status),
            code: code.into(),
            param: None,
            message: message.into(),
            retry_after: None,
            exhausted: false,
            hopeless: false,
        }
    }

    /// 400: the request is wrong in `param`.
    pub fn invalid(param: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(400, code, message)
        }
    }

    /// 401: who asks is not known.
    pub fn unauthenticated(message: &str) -> Self {
        Self::new(401, "invalid_api_key", message)
    }

    /// 404: no such persona.
    pub fn no_persona(namespace: &str, persona: &str) -> Self {
        Self {
            param: Some("model".to_owned()),
            ..Self::new(
                404,
                "model_not_found",
                format!("there is no persona `{persona}` in namespace `{namespace}`"),
            )
        }
    }

    /// Says when to come back.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Tells the SDK not to try again by itself.
    pub fn hopeless(mut self) -> Self {
        self.hopeless = true;
        self
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

/// `error.type` by status.
fn kind_of(status: u16) -> &'static str {
    match status {
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            let milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            headers.insert("retry-after-ms", milliseconds.into());
            // Whole seconds, rounded up: coming back too early is refused again.
            headers.insert(
                header::RETRY_AFTER,
                milliseconds.div_ceil(1000).max(1).into(),
            );
            if self.exhausted {
                headers.insert("x-ratelimit-remaining-requests", 0.into());
                let reset = HeaderValue::from_str(&Span::millis(milliseconds).to_string());
                if let Ok(reset) = reset {
                    headers.insert("x-ratelimit-reset-requests", reset);
                }
            }
        }
        if self.hopeless {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_the_four_fields_of_openai() {
        let error = ApiError::invalid("temperature", "invalid_type", "must be a number");
        assert_eq!(
            error.body().to_string(),
            r#"{"error":{"code":"invalid_type","message":"must be a number","param":"temperature","type":"invalid_request_error"}}"#
        );
        assert!(ApiError::new(500, "x", "y").body()["error"]["param"].is_null());
    }

    #[test]
    fn waiting_times_are_rounded_up_and_hopeless_ones_say_so() {
        let response = ApiError::new(429, "queue_full", "full")
            .retry_after(Duration::from_millis(1200))
            .into_response();
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["retry-after-ms"], "1200");
        assert!(!response.headers().contains_key("x-should-retry"));
        let response = ApiError::new(500, "dead", "poison")
            .hopeless()
            .into_response();
        assert_eq!(response.headers()["x-should-retry"], "false");
    }
}
