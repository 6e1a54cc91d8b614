//! What the client is told when there is no answer: the queue's refusals and bad ends as HTTP errors.

use std::time::Duration;

use super::address::Address;
use super::error::{ApiError, CLIENT_CLOSED};
use crate::queue::QueueError;
use crate::queue::task::{Outcome, OutcomeKind, TaskError, code};

/// When to come back while the queue is away, or short of memory.
const SOON: Duration = Duration::from_secs(5);

/// An outcome that is no answer.
pub fn of_outcome(outcome: &Outcome) -> ApiError {
    let error = outcome.error.as_ref();
    let message = |fallback: &str| {
        error
            .map(|e| e.message.clone())
            .filter(|m| !m.is_empty())
            .unwrap_or_else(|| fallback.to_owned())
    };
    match (outcome.outcome, error) {
        (OutcomeKind::Completed, _) => ApiError::new(
            500,
            "internal_error",
            "a completed task was taken for a failed one",
        ),
        (OutcomeKind::Expired, _) => ApiError::new(
            504,
            "deadline_exceeded",
            message("no worker had time for the request before its deadline"),
        ),
        (OutcomeKind::Cancelled, _) => ApiError::new(
            CLIENT_CLOSED,
            "cancelled",
            message("the request was cancelled"),
        ),
        (OutcomeKind::Dead, _) => {
            // It ended several workers: the same request again would do the same.
            ApiError::new(
                500,
                "dead",
                message("the request was given up after its last attempt"),
            )
            .hopeless()
        }
        (OutcomeKind::Failed, Some(error)) => of_failure(error),
        (OutcomeKind::Failed, None) => ApiError::new(
            502,
            "failed",
            "the request failed and nothing is known of the reason",
        ),
    }
}

/// A failed attempt. The provider's word on the request itself passes; its word on our credentials or
/// on our choice of model is our failure, not the client's.
fn of_failure(error: &TaskError) -> ApiError {
    let status = match error.http_status {
        404 if error.code == code::PERSONA_DELETED => 404,
        status @ (400 | 413 | 422 | 429 | 500..=504) => status,
        408 => 504,
        529 => 503,
        _ => 502,
    };
    let answer = ApiError::new(status, error.code.as_str(), error.message.as_str());
    match error.retry_after_ms {
        Some(after) => answer.retry_after(Duration::from_millis(after)),
        None if status == 429 || status == 503 => answer.retry_after(SOON),
        None => answer,
    }
}

/// The persona's queue is full.
pub fn full(address: &Address, retry_after: Duration) -> ApiError {
    let message = format!("the queue of persona `{}` is full", address.persona);
    ApiError {
        exhausted: true,
        ..ApiError::new(429, "queue_full", message).retry_after(retry_after)
    }
}

/// The persona is suspended; trying again by itself does not help.
pub fn suspended(address: &Address) -> ApiError {
    let message = format!(
        "persona `{}` is suspended: its owner has set `spec.suspend`",
        address.persona
    );
    ApiError::new(503, "persona_suspended", message).hopeless()
}

/// The persona was deleted a moment ago.
pub fn gone(address: &Address) -> ApiError {
    let message = format!("persona `{}` was deleted", address.persona);
    ApiError {
        param: Some("model".to_owned()),
        ..ApiError::new(404, code::PERSONA_DELETED, message)
    }
}

/// The Idempotency-Key came with another body before.
pub fn conflict() -> ApiError {
    ApiError::new(
        422,
        "idempotency_key_reused",
        "this Idempotency-Key was used with another request body",
    )
}

/// Redis is short of memory.
pub fn out_of_memory() -> ApiError {
    ApiError::new(503, "queue_out_of_memory", "the queue has no memory left").retry_after(SOON)
}

/// The queue gave no answer for as long as a request may be held.
pub fn no_queue(error: &QueueError) -> ApiError {
    match error {
        QueueError::OutOfMemory(_) => out_of_memory(),
        error if is_passing(error) => {
            ApiError::new(503, "queue_unavailable", "the queue cannot be reached").retry_after(SOON)
        }
        // What exactly is for the log: it is about our Redis, not about the request.
        _ => ApiError::new(500, "internal_error", "the queue answered with an error"),
    }
}

/// Whether the same call may succeed in a moment.
pub fn is_passing(error: &QueueError) -> bool {
    matches!(
        error,
        QueueError::Unreachable(_)
            | QueueError::Denied(_)
            | QueueError::NotInstalled(_)
            | QueueError::OutOfMemory(_)
    )
}

/// The deadline passed while nothing was heard of the task.
pub fn overdue() -> ApiError {
    ApiError::new(
        504,
        "deadline_exceeded",
        "no answer came before the request's deadline",
    )
}

/// The task was lost after some of its answer was sent on.
pub fn interrupted() -> ApiError {
    ApiError::new(
        502,
        code::INTERRUPTED,
        "the answer broke off: the rest of it was lost; send the request again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: &str, status: u16, after: Option<u64>) -> ApiError {
        of_outcome(&Outcome::ended(
            OutcomeKind::Failed,
            TaskError {
                code: code.into(),
                message: "words of the provider".into(),
                http_status: status,
                retry_after_ms: after,
            },
        ))
    }

    #[test]
    fn a_providers_word_on_the_request_passes_its_word_on_us_does_not() {
        for (theirs, ours) in [
            (400, 400),
            (401, 502),
            (402, 502),
            (403, 502),
            (404, 502),
            (408, 504),
            (409, 502),
            (413, 413),
            (422, 422),
            (429, 429),
            (500, 500),
            (501, 501),
            (502, 502),
            (503, 503),
            (504, 504),
            (529, 503),
            (0, 502),
            (200, 502),
        ] {
            let error = failed("upstream", theirs, None);
            assert_eq!(error.status, ours, "{theirs}");
            assert_eq!(error.message, "words of the provider");
        }
        assert_eq!(failed(code::PERSONA_DELETED, 404, None).status, 404);
        assert_eq!(
            failed("x", 429, Some(70)).retry_after,
            Some(Duration::from_millis(70))
        );
        assert_eq!(failed("x", 429, None).retry_after, Some(SOON));
    }

    #[test]
    fn every_bad_end_has_its_status() {
        for (kind, status, hopeless) in [
            (OutcomeKind::Expired, 504, false),
            (OutcomeKind::Cancelled, 499, false),
            (OutcomeKind::Dead, 500, true),
            (OutcomeKind::Failed, 502, false),
        ] {
            let outcome = Outcome {
                outcome: kind,
                finish_reason: None,
                usage: None,
                content: None,
                reasoning: None,
                tool_calls: Vec::new(),
                error: None,
            };
            let error = of_outcome(&outcome);
            assert_eq!(
                (error.status, error.hopeless),
                (status, hopeless),
                "{kind:?}"
            );
            assert!(!error.message.is_empty());
        }
    }
}
