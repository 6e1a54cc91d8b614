//! Why an attempt has no answer, what a client sees of it, and whether to try again.

use std::time::Duration;

use thiserror::Error;

use super::CredentialError;

/// Why an attempt at an answer failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProviderError {
    /// No connection: refused, no such host, no route, TLS.
    #[error("the provider is not reachable: {0}")]
    Unreachable(String),
    /// The connection broke during the exchange.
    #[error("the connection to the provider broke: {0}")]
    Broken(String),
    /// The stream ended, in good form for HTTP, without the end mark of its protocol.
    #[error("the provider's answer ended without its end mark ({0})")]
    Truncated(&'static str),
    /// Silence in the middle of an answer.
    #[error("the provider sent nothing for {} ms in the middle of its answer", .0.as_millis())]
    Stalled(Duration),
    /// The attempt's time is over.
    #[error("no complete answer within {} ms, the persona's timeout", .0.as_millis())]
    Timeout(Duration),
    /// 429: too many requests for now.
    #[error("the provider limits the rate of requests: {message}")]
    RateLimited {
        /// The provider's words.
        message: String,
        /// When it may be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// The account has nothing left: a later request fails as well.
    #[error("the provider's account is exhausted: {0}; check plan and billing")]
    Exhausted(String),
    /// 5xx and the like: the provider's own trouble.
    #[error("the provider failed with HTTP {status}: {message}")]
    Failed {
        /// Status of its answer.
        status: u16,
        /// The provider's words.
        message: String,
        /// When it may be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// 400, 413, 422: the request is not acceptable.
    #[error("{message}")]
    Rejected {
        /// Status of its answer.
        status: u16,
        /// The provider's code, like `context_length_exceeded`.
        code: Option<String>,
        /// The provider's words.
        message: String,
    },
    /// 401 or 403. The provider's words are left out: they repeat parts of the key.
    #[error(
        "the provider refused the persona's credential (HTTP {0}); check spec.model.apiKeySecretRef"
    )]
    Unauthorized(u16),
    /// 404, 405 or a redirect: wrong endpoint or model.
    #[error(
        "the provider has no such model or path (HTTP {status}: {message}); check spec.model.name and spec.model.endpoint"
    )]
    NotFound {
        /// Status of its answer.
        status: u16,
        /// The provider's words.
        message: String,
    },
    /// An error in the middle of a stream, without a status to judge it by.
    #[error("the provider reported an error in its answer: {0}")]
    Reported(String),
    /// Not the JSON that the protocol asks for.
    #[error("the provider's answer is malformed: {0}")]
    Malformed(String),
    /// Not a stream of the protocol.
    #[error(
        "the provider answered with content type `{found}` instead of {expected}; check spec.model.endpoint"
    )]
    ContentType {
        /// What the protocol asks for.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// A line or an answer beyond the limits.
    #[error("the provider's answer has {what} of more than {limit} bytes")]
    TooLarge {
        /// `a line`, `a body`, or `text and tool calls`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// No API key to send.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The model server does not load the persona's adapter.
    #[error("adapter {name} is not loaded: {message}")]
    Adapter {
        /// Its name.
        name: String,
        /// The server's words.
        message: String,
    },
    /// An API without a client.
    #[error("provider {0} is not supported yet")]
    Unsupported(&'static str),
    /// The endpoint is missing or no URL.
    #[error("{0}; check spec.model.endpoint")]
    Endpoint(String),
    /// The HTTP client cannot be made.
    #[error(
        "cannot set up TLS ({0}); install CA certificates, or name a bundle with SSL_CERT_FILE"
    )]
    Setup(String),
}

/// What a worker may do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request would fail again.
    Never,
    /// Trouble of the moment; counts as an attempt.
    Attempt {
        /// Not before that, if the provider said so.
        after: Option<Duration>,
    },
    /// The provider asks for patience; no attempt is lost.
    RateLimit {
        /// Not before that, if the provider said so.
        after: Option<Duration>,
    },
}

impl ProviderError {
    /// Judges an HTTP status.
    pub fn from_status(status: u16, said: Said, retry_after: Option<Duration>) -> Self {
        let Said { message, code } = said;
        match status {
            401 | 403 => Self::Unauthorized(status),
            402 => Self::Exhausted(message),
            429 if code.as_deref() == Some("insufficient_quota") => Self::Exhausted(message),
            429 => Self::RateLimited {
                message,
                retry_after,
            },
            // 408, 409, 425: OpenAI's own clients repeat these as well.
            408 | 409 | 425 | 500 | 502..=599 => Self::Failed {
                status,
                message,
                retry_after,
            },
            300..=399 | 404 | 405 | 410 | 501 => Self::NotFound { status, message },
            _ => Self::Rejected {
                status,
                code,
                message,
            },
        }
    }

    /// May the attempt be repeated?
    pub fn retry(&self) -> Retry {
        match self {
            Self::RateLimited { retry_after, .. } => Retry::RateLimit {
                after: *retry_after,
            },
            Self::Failed { retry_after, .. } => Retry::Attempt {
                after: *retry_after,
            },
            Self::Unreachable(_)
            | Self::Broken(_)
            | Self::Truncated(_)
            | Self::Stalled(_)
            | Self::Reported(_)
            | Self::Malformed(_)
            | Self::Adapter { .. }
            | Self::Credential(CredentialError::Missing { .. }) => Retry::Attempt { after: None },
            Self::Timeout(_)
            | Self::Exhausted(_)
            | Self::Rejected { .. }
            | Self::Unauthorized(_)
            | Self::NotFound { .. }
            | Self::ContentType { .. }
            | Self::TooLarge { .. }
            | Self::Credential(_)
            | Self::Unsupported(_)
            | Self::Endpoint(_)
            | Self::Setup(_) => Retry::Never,
        }
    }

    /// A static word: label of metrics, and code for clients unless the provider has its own.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "provider_unreachable",
            Self::Broken(_) => "provider_connection_broken",
            Self::Truncated(_) => "provider_truncated",
            Self::Stalled(_) => "provider_stalled",
            Self::Timeout(_) => "timeout",
            Self::RateLimited { .. } => "rate_limit_exceeded",
            Self::Exhausted(_) => "insufficient_quota",
            Self::Failed { .. } => "provider_failed",
            Self::Rejected { .. } => "provider_rejected",
            Self::Unauthorized(_) => "provider_unauthorized",
            Self::NotFound { .. } => "provider_not_found",
            Self::Reported(_) => "provider_error",
            Self::Malformed(_) => "provider_malformed",
            Self::ContentType { .. } => "provider_content_type",
            Self::TooLarge { .. } => "provider_too_large",
            Self::Credential(_) => "credential_missing",
            Self::Adapter { .. } => "adapter_not_loaded",
            Self::Unsupported(_) => "provider_unsupported",
            Self::Endpoint(_) => "endpoint_invalid",
            Self::Setup(_) => "tls_setup",
        }
    }

    /// The error code for the client.
    pub fn code(&self) -> String {
        match self {
            Self::Rejected {
                code: Some(code), ..
            } => code.clone(),
            _ => self.reason().to_owned(),
        }
    }

    /// HTTP status for the client. 401, 403 and 404 of a provider are no fault of the client's, who
    /// would read them as its own key or the persona's name being wrong: they become 502.
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::RateLimited { .. } | Self::Exhausted(_) => 429,
            Self::Rejected { status, .. } => *status,
            Self::Timeout(_) | Self::Stalled(_) => 504,
            Self::Unreachable(_)
            | Self::Failed { .. }
            | Self::Credential(_)
            | Self::Adapter { .. } => 503,
            Self::Unsupported(_) => 501,
            _ => 502,
        }
    }

    /// When a client may try again, if the provider said so.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Failed { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

/// What a provider said about an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// For people; never empty after [`Said::read`].
    pub message: String,
    /// For programs.
    pub code: Option<String>,
}

/// Longest message that is passed on, in characters.
const MESSAGE_CHARS: usize = 500;

impl Said {
    /// Reads the body of an error answer: OpenAI's `{"error": {"message", "code", "type"}}`, Ollama's
    /// `{"error": "…"}`, FastAPI's `{"detail": "…"}`, or plain text.
    pub fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(value) => Self::of(value.get("error").unwrap_or(&value)),
            Err(_) => Self {
                message: shorten(&String::from_utf8_lossy(body)),
                code: None,
            },
        }
    }

    /// Reads the error object, or the error text.
    pub fn of(error: &serde_json::Value) -> Self {
        let text = ["message", "detail"]
            .iter()
            .find_map(|field| error.get(field)?.as_str())
            .or_else(|| error.as_str());
        let message = text.map_or_else(|| shorten(&error.to_string()), shorten);
        let code = ["code", "type"]
            .iter()
            .find_map(|field| error.get(field)?.as_str())
            .filter(|code| !code.is_empty())
            .map(|code| code.chars().take(64).collect());
        Self { message, code }
    }
}

fn shorten(text: &str) -> String {
    let printable = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    let short: String = printable.take(MESSAGE_CHARS).collect();
    if short.is_empty() {
        "no further words".to_owned()
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_of_all_dialects_are_read() {
        let openai = br#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
        let said = Said::read(openai);
        assert_eq!(said.message, "too long");
        assert_eq!(said.code.as_deref(), Some("context_length_exceeded"));
        assert_eq!(
            Said::read(br#"{"error":"no such model"}"#).message,
            "no such model"
        );
        assert_eq!(
            Said::read(br#"{"detail":"Not Found"}"#).message,
            "Not Found"
        );
        assert_eq!(
            Said::read(b"<html>\nbad gateway").message,
            "<html> bad gateway"
        );
        assert_eq!(Said::read(b"").message, "no further words");
        assert_eq!(Said::read(&[b'x'; 10_000]).message.len(), MESSAGE_CHARS);
    }

    #[test]
    fn statuses_are_judged() {
        let judge = |status, code: Option<&str>| {
            let said = Said {
                message: "m".into(),
                code: code.map(Into::into),
            };
            let error = ProviderError::from_status(status, said, None);
            (error.reason(), error.http_status(), error.retry())
        };
        let again = Retry::Attempt { after: None };
        let patience = Retry::RateLimit { after: None };
        for (status, code, verdict) in [
            (400, None, ("provider_rejected", 400, Retry::Never)),
            (413, None, ("provider_rejected", 413, Retry::Never)),
            (401, None, ("provider_unauthorized", 502, Retry::Never)),
            (403, None, ("provider_unauthorized", 502, Retry::Never)),
            (404, None, ("provider_not_found", 502, Retry::Never)),
            (307, None, ("provider_not_found", 502, Retry::Never)),
            (408, None, ("provider_failed", 503, again)),
            (429, None, ("rate_limit_exceeded", 429, patience)),
            (
                429,
                Some("insufficient_quota"),
                ("insufficient_quota", 429, Retry::Never),
            ),
            (402, None, ("insufficient_quota", 429, Retry::Never)),
            (500, None, ("provider_failed", 503, again)),
            (529, None, ("provider_failed", 503, again)),
        ] {
            assert_eq!(judge(status, code), verdict, "{status}");
        }
    }
}
