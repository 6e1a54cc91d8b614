//! Puts the pieces of an answer together. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::provider::{Delta, End};
use crate::queue::task::{Chunk, Outcome, Usage};

/// The whole of an answer that is not streamed.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    content: String,
    reasoning: String,
    /// By `index`.
    tool_calls: BTreeMap<u64, Map<String, Value>>,
}

impl Answer {
    /// Appends a piece.
    pub fn push(&mut self, delta: Delta) {
        self.content.push_str(&delta.content);
        self.reasoning.push_str(&delta.reasoning);
        for call in delta.tool_calls {
            self.tool_call(call);
        }
    }

    /// A delta of a tool call: the first one of an index brings id and name, the others more of the
    /// arguments. Without an index it is a call of its own.
    fn tool_call(&mut self, delta: Value) {
        let Value::Object(delta) = delta else { return };
        let next = self
            .tool_calls
            .last_key_value()
            .map_or(0, |(last, _)| last + 1);
        let index = delta.get("index").and_then(Value::as_u64).unwrap_or(next);
        let call = self.tool_calls.entry(index).or_default();
        for (field, value) in delta {
            match (field.as_str(), value) {
                ("function", Value::Object(part)) => append_function(call, part),
                // What is no function is none.
                ("index" | "function", _) | (_, Value::Null) => {}
                (_, value) => {
                    call.insert(field, value);
                }
            }
        }
    }

    /// The outcome of a task with this answer.
    pub fn outcome(self, end: &End) -> Outcome {
        let calls = self.tool_calls.into_values().map(|mut call| {
            call.entry("type").or_insert_with(|| json!("function"));
            Value::Object(call)
        });
        let mut outcome = completed(end);
        outcome.tool_calls = calls.collect();
        // OpenAI's form: no text beside tool calls is `null`, no text at all is an empty one.
        outcome.content =
            (!self.content.is_empty() || outcome.tool_calls.is_empty()).then_some(self.content);
        outcome.reasoning = Some(self.reasoning).filter(|text| !text.is_empty());
        outcome
    }
}

/// `name` comes whole, `arguments` in pieces.
fn append_function(call: &mut Map<String, Value>, part: Map<String, Value>) {
    let function = call
        .entry("function")
        .or_insert_with(|| json!({"arguments": ""}));
    for (field, value) in part {
        if field == "arguments"
            && let (Some(Value::String(all)), Value::String(more)) =
                (function.get_mut("arguments"), &value)
        {
            all.push_str(more);
        } else if !value.is_null() {
            function[field] = value;
        }
    }
}

/// The outcome of a task whose answer has been streamed.
pub fn completed(end: &End) -> Outcome {
    let usage = end.usage.map(|usage| Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
    });
    Outcome::completed(None, &end.finish_reason, usage)
}

/// Longest answer, in bytes as [`size`] counts: text, reasoning and tool calls together.
pub const MOST_ANSWER: usize = 4 << 20;
/// Least bytes that a value of a tool call counts: it takes many times that in memory.
const VALUE: usize = 80;

/// About the bytes of a piece on its way through the queue, as JSON.
pub fn size(delta: &Delta) -> usize {
    let calls = delta.tool_calls.iter();
    let calls: usize = calls
        .map(|call| call.to_string().len() + VALUE * values(call))
        .sum();
    text_size(&delta.content) + text_size(&delta.reasoning) + calls
}

fn text_size(text: &str) -> usize {
    let escaped = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

/// How many values it is made of. The parser bounds their depth.
fn values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(fields) => fields.values().map(values).sum(),
        _ => 0,
    }
}

/// Appends a piece to chunks that wait to be sent: plain text to plain text, so that many small
/// pieces travel as one.
pub fn append(chunks: &mut Vec<Chunk>, delta: Delta) {
    if let Some(last) = chunks.last_mut()
        && last.tool_calls.is_empty()
        && delta.tool_calls.is_empty()
    {
        if last.reasoning.is_empty() && delta.reasoning.is_empty() {
            return last.content.push_str(&delta.content);
        }
        if last.content.is_empty() && delta.content.is_empty() {
            return last.reasoning.push_str(&delta.reasoning);
        }
    }
    chunks.push(Chunk {
        content: delta.content,
        reasoning: delta.reasoning,
        tool_calls: delta.tool_calls,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(finish_reason: &str) -> End {
        End {
            finish_reason: finish_reason.into(),
            usage: None,
        }
    }

    fn text(content: &str) -> Delta {
        Delta {
            content: content.into(),
            ..Delta::default()
        }
    }

    fn thought(reasoning: &str) -> Delta {
        Delta {
            reasoning: reasoning.into(),
            ..Delta::default()
        }
    }

    fn calls(calls: Vec<Value>) -> Delta {
        Delta {
            tool_calls: calls,
            ..Delta::default()
        }
    }

    #[test]
    fn text_and_reasoning_are_joined() {
        let mut answer = Answer::default();
        for delta in [thought("hm"), thought("m"), text("Hel"), text("lo")] {
            answer.push(delta);
        }
        let outcome = answer.outcome(&end("stop"));
        assert_eq!(outcome.content.as_deref(), Some("Hello"));
        assert_eq!(outcome.reasoning.as_deref(), Some("hmm"));
        assert_eq!(outcome.finish_reason.as_deref(), Some("stop"));
        let empty = Answer::default().outcome(&end("stop"));
        assert_eq!(
            (empty.content.as_deref(), empty.reasoning),
            (Some(""), None)
        );
    }

    #[test]
    fn tool_calls_are_merged_by_index_into_openais_whole_form() {
        let mut answer = Answer::default();
        answer.push(calls(vec![
            json!({"index": 1, "id": "c1", "type": "function",
            "function": {"name": "sub", "arguments": ""}}),
        ]));
        answer.push(calls(vec![
            json!({"index": 0, "id": "c0", "function": {"name": "add", "arguments": "{\"a\""}}),
            json!({"index": 1, "id": null, "function": {"name": null, "arguments": "{}"}}),
        ]));
        answer.push(calls(vec![
            json!({"index": 0, "function": {"arguments": ":1}"}}),
        ]));
        let outcome = answer.outcome(&end("tool_calls"));
        assert_eq!(outcome.content, None);
        assert_eq!(
            outcome.tool_calls,
            [
                json!({"id": "c0", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}}),
                json!({"id": "c1", "type": "function", "function": {"name": "sub", "arguments": "{}"}}),
            ]
        );
    }

    #[test]
    fn tool_calls_that_are_none_do_no_harm() {
        let mut answer = Answer::default();
        answer.push(calls(vec![
            json!("x"),
            json!({"function": 5}),
            json!({"id": "c"}),
        ]));
        answer.push(calls(vec![
            json!({"index": 0, "function": {"arguments": "x"}}),
        ]));
        let outcome = answer.outcome(&end("tool_calls"));
        assert_eq!(outcome.tool_calls.len(), 2);
    }

    #[test]
    fn a_piece_counts_as_it_travels_and_never_less() {
        let texts = "plain \"quoted\" \\ \n\t\u{1}\u{8} ä";
        let travels = |value: &Value| value.to_string().len();
        assert!(size(&text(texts)) + 2 >= travels(&json!(texts)));
        assert_eq!(size(&thought("abc")), 3);
        let call = json!({"function": {"arguments": [{}, {}, {}]}});
        // The call, its function, the list and what is in it.
        assert_eq!(size(&calls(vec![call.clone()])), travels(&call) + 6 * VALUE);
    }

    #[test]
    fn small_pieces_travel_as_one_chunk_and_keep_their_order() {
        let mut chunks = Vec::new();
        for delta in [
            thought("a"),
            thought("b"),
            text("c"),
            text("d"),
            calls(vec![json!({"index": 0})]),
            text("e"),
        ] {
            append(&mut chunks, delta);
        }
        let seen: Vec<_> = chunks
            .iter()
            .map(|chunk| (chunk.reasoning.as_str(), chunk.content.as_str()))
            .collect();
        assert_eq!(seen, [("ab", ""), ("", "cd"), ("", ""), ("", "e")]);
    }
}
