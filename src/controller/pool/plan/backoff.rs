//! Pauses after pods that were refused or failed.

use jiff::Timestamp;

use crate::api::Span;
use crate::scaling::after_span;

/// First and longest pause before a pod that failed is replaced, and after a refused creation.
const BACKOFF: (Span, Span) = (Span::secs(1), Span::secs(300));

/// A pause that doubles with each failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Failures in a row.
    pub failures: u32,
    /// No creation before this.
    pub until: Option<Timestamp>,
    /// The last failure, in the words of who refused.
    pub words: String,
    /// Pods that may be created at once; none = any number.
    batch: Option<usize>,
}

impl Backoff {
    /// One more failure, of this many pods.
    pub fn fail(&mut self, now: Timestamp, words: String, pods: usize) {
        let (first, longest) = BACKOFF;
        let pause = first
            .as_millis()
            .saturating_mul(1 << self.failures.min(16))
            .min(longest.as_millis());
        self.failures = self.failures.saturating_add(1);
        self.until = Some(after_span(now, Span::millis(pause)));
        self.words = words;
        self.batch = Some((self.batch.unwrap_or(pods) / 2).max(1));
    }

    /// This many pods went well; the next time twice as many may be made.
    pub fn succeed(&mut self, pods: usize) {
        let batch = self.batch.map(|batch| batch.saturating_mul(2));
        *self = Self {
            batch: batch.filter(|batch| *batch <= pods.max(1).saturating_mul(2)),
            ..Self::default()
        };
    }

    /// Something was refused not long ago: more are tried step by step.
    pub fn is_careful(&self) -> bool {
        self.batch.is_some()
    }

    /// No pause is under way.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// Pods of `wanted` that may be made now.
    pub fn allowed(&self, now: Timestamp, wanted: usize) -> usize {
        if self.is_over(now) {
            self.batch.map_or(wanted, |batch| batch.min(wanted))
        } else {
            0
        }
    }
}
