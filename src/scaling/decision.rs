//! A size, and how it came about.

use jiff::Timestamp;

use super::need::Inputs;

/// Why a size was chosen: the `reason` label of `persona_scale_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `spec.replicas` is set.
    Pinned,
    /// The load asks for it.
    Demand,
    /// It was not needed for idleTimeout.
    Idle,
    /// minReplicas, maxReplicas or warmReplicas changed.
    Bounds,
    /// The load is not known.
    Blind,
}

impl Cause {
    /// As in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Demand => "demand",
            Self::Idle => "idle",
            Self::Bounds => "bounds",
            Self::Blind => "blind",
        }
    }
}

/// The size, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Workers that are wanted.
    pub size: u32,
    /// Why, for machines.
    pub cause: Cause,
    /// Why, as a sentence with the numbers it came from.
    pub reason: String,
    /// Sources that gave no numbers that count, and why.
    pub blind: Vec<(String, String)>,
    /// It would be smaller if the queue said once more that it may: to be read anew.
    pub awaits_reading: bool,
    /// What the queue's part of the decision was computed from.
    pub inputs: Option<Inputs>,
    /// When to decide again, though nothing else changes.
    pub again_at: Option<Timestamp>,
}

/// Without what it came from.
pub(super) fn decision(size: u32, cause: Cause, reason: String) -> Decision {
    Decision {
        size,
        cause,
        reason,
        blind: Vec::new(),
        awaits_reading: false,
        inputs: None,
        again_at: None,
    }
}
