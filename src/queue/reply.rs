//! Reads the arrays that the functions answer with, item by item.

use std::time::Duration;

use redis::{FromRedisValue, Value, from_redis_value};

use super::QueueError;

/// The rest of an answer.
pub(super) struct Reply {
    verb: &'static str,
    items: std::vec::IntoIter<Value>,
}

impl Reply {
    pub(super) fn new(verb: &'static str, value: Value) -> Result<Self, QueueError> {
        match value {
            Value::Array(items) => Ok(Self {
                verb,
                items: items.into_iter(),
            }),
            other => Err(wrong(verb, format!("no array: {other:?}"))),
        }
    }

    pub(super) fn next<T: FromRedisValue>(&mut self) -> Result<T, QueueError> {
        let value = self
            .items
            .next()
            .ok_or_else(|| wrong(self.verb, "an item is missing"))?;
        from_redis_value(value).map_err(|error| wrong(self.verb, error.to_string()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.len() == 0
    }

    pub(super) fn text(&mut self) -> Result<String, QueueError> {
        self.next()
    }

    pub(super) fn flag(&mut self) -> Result<bool, QueueError> {
        Ok(self.next::<i64>()? == 1)
    }

    /// A number of ms; what is below zero is nothing.
    pub(super) fn millis(&mut self) -> Result<Duration, QueueError> {
        let ms: i64 = self.next()?;
        Ok(Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
    }

    /// The next item, an array itself.
    pub(super) fn list(&mut self) -> Result<Reply, QueueError> {
        let value: Value = self.next()?;
        Reply::new(self.verb, value)
    }

    /// All remaining items, each an array itself.
    pub(super) fn lists(self) -> Result<Vec<Reply>, QueueError> {
        let verb = self.verb;
        self.items.map(|item| Reply::new(verb, item)).collect()
    }

    /// All remaining items.
    pub(super) fn rest<T: FromRedisValue>(self) -> Result<Vec<T>, QueueError> {
        let verb = self.verb;
        self.items
            .map(|item| from_redis_value(item).map_err(|error| wrong(verb, error.to_string())))
            .collect()
    }

    pub(super) fn unknown(&self, word: &str) -> QueueError {
        wrong(self.verb, format!("unknown answer `{word}`"))
    }
}

pub(super) fn wrong(verb: &'static str, what: impl Into<String>) -> QueueError {
    QueueError::Protocol {
        verb,
        what: what.into(),
    }
}
