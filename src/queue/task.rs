//! What gateway and worker exchange through the queue, as JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a pool's workers have to know beside their settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Duties {
    /// Phase that the pool belongs to, a label of metrics; empty for a pool of its owner's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Other pools to serve while idle.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steal_from: Vec<String>,
}

/// The work to do: what the client asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskPayload {
    /// Which API the request belongs to.
    pub kind: TaskKind,
    /// The body as the client sent it, unknown fields included.
    pub request: Value,
}

/// API of a task's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskKind {
    /// OpenAI's `/v1/chat/completions`.
    #[serde(rename = "chat.completions")]
    ChatCompletions,
}

/// A piece of a streamed answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Chunk {
    /// Text to append to the answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content: String,
    /// Text to append to the model's reasoning.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Tool call deltas, in OpenAI's form.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
}

impl Chunk {
    /// A chunk of plain text.
    pub fn text(content: impl Into<String>) -> Self {
        Self {
            content: content.into(),
            ..Self::default()
        }
    }
}

/// How a task ended. A task gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeKind {
    /// The answer is there.
    Completed,
    /// The last attempt failed, or the persona went away.
    Failed,
    /// Its deadline passed before a worker took it.
    Expired,
    /// The client gave up.
    Cancelled,
    /// Workers were lost running it, alone, as often as the persona allows.
    Dead,
}

impl OutcomeKind {
    /// All outcomes.
    pub const ALL: [Self; 5] = [
        Self::Completed,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
        Self::Dead,
    ];

    /// The outcome of that word.
    pub(super) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word in keys, metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }
}

/// The terminal entry of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How it ended.
    pub outcome: OutcomeKind,
    /// Why the model stopped: OpenAI's `finish_reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// Tokens counted by the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The whole answer of a task that does not stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The whole reasoning of a task that does not stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The whole tool calls of a task that does not stream, in OpenAI's form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// What went wrong; absent when completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
}

impl Outcome {
    /// A completed task with the whole answer (none when it was streamed).
    pub fn completed(content: Option<String>, finish_reason: &str, usage: Option<Usage>) -> Self {
        Self {
            outcome: OutcomeKind::Completed,
            finish_reason: Some(finish_reason.to_owned()),
            usage,
            content,
            reasoning: None,
            tool_calls: Vec::new(),
            error: None,
        }
    }

    /// A task that ended without an answer.
    pub fn ended(outcome: OutcomeKind, error: TaskError) -> Self {
        Self {
            outcome,
            finish_reason: None,
            usage: None,
            content: None,
            reasoning: None,
            tool_calls: Vec::new(),
            error: Some(error),
        }
    }
}

/// Tokens of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

/// Why a task has no answer, for the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskError {
    /// A word a program can act on: one of the constants of [`code`], or the provider's own.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Status of the HTTP answer.
    pub http_status: u16,
    /// When a retry may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// Codes of [`TaskError`] that the queue itself writes.
pub mod code {
    /// The worker went away after the first token of a stream.
    pub const INTERRUPTED: &str = "interrupted";
    /// The deadline passed in the queue.
    pub const EXPIRED: &str = "expired";
    /// The client cancelled.
    pub const CANCELLED: &str = "cancelled";
    /// No attempt is left.
    pub const DEAD: &str = "dead";
    /// The worker handed in more than the queue takes.
    pub const ANSWER_TOO_LARGE: &str = "answer_too_large";
    /// The persona was deleted.
    pub const PERSONA_DELETED: &str = "persona_deleted";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_outcomes_travel_in_a_compact_form() {
        let chunk = serde_json::to_string(&Chunk::text("hi")).expect("JSON");
        assert_eq!(chunk, r#"{"content":"hi"}"#);
        let outcome = Outcome::completed(Some("hi".into()), "stop", None);
        assert_eq!(
            serde_json::to_string(&outcome).expect("JSON"),
            r#"{"outcome":"completed","finishReason":"stop","content":"hi"}"#
        );
        let payload: TaskPayload =
            serde_json::from_str(r#"{"kind":"chat.completions","request":{"x":1}}"#).expect("JSON");
        assert_eq!(payload.kind, TaskKind::ChatCompletions);
    }
}
