//! Conditions: their types, and how one is set without writing when nothing changed.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// On every kind: the object does what it is for. What `kubectl wait --for=condition=Ready` waits on.
pub const READY: &str = "Ready";
/// Persona: its route in the queue points to the pool it belongs to.
pub const ROUTED: &str = "Routed";
/// Persona: a class of workers that can run its model is known.
pub const MODEL_PLACED: &str = "ModelPlaced";
/// Persona: its adapter is loaded on a worker (only with an adapter).
pub const ADAPTER_LOADED: &str = "AdapterLoaded";
/// WorkerPool: fresh numbers are there and the size follows them.
pub const SCALING_ACTIVE: &str = "ScalingActive";
/// WorkerPool: its pods find nodes.
pub const SCHEDULABLE: &str = "Schedulable";
/// WorkerPool: creating pods fails; the message has the server's words.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";
/// PersonaTopology: no transition is under way.
pub const STABLE: &str = "Stable";
/// PersonaTopology: the queue's server keeps what it is given.
pub const QUEUE_SAFE: &str = "QueueSafe";

/// What a reconciler says about one condition, before it is merged into the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One of the condition types above.
    pub type_: &'static str,
    /// `Some(true)` is `True`, `Some(false)` is `False`, `None` is `Unknown`.
    pub holds: Option<bool>,
    /// CamelCase, stable, for machines.
    pub reason: &'static str,
    /// A sentence for people: what is, and what to do about it.
    pub message: String,
}

impl Verdict {
    /// The condition holds.
    pub fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds: Some(true),
            reason,
            message: message.into(),
        }
    }

    /// The condition does not hold.
    pub fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds: Some(false),
            reason,
            message: message.into(),
        }
    }

    /// It cannot be told whether the condition holds.
    pub fn unknown(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds: None,
            reason,
            message: message.into(),
        }
    }
}

/// Merges verdicts into the conditions that were there: the transition time moves only when the
/// status flips, types without a verdict are dropped, the order is that of the verdicts.
pub fn merge(
    before: &[Condition],
    verdicts: &[Verdict],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    verdicts
        .iter()
        .map(|verdict| {
            let status = match verdict.holds {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let since = before
                .iter()
                .find(|c| c.type_ == verdict.type_ && c.status == status)
                .map_or(Time(now), |c| c.last_transition_time.clone());
            Condition {
                type_: verdict.type_.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.to_owned(),
                message: verdict.message.clone(),
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

/// Whether the condition is there and `True`.
pub fn holds(conditions: &[Condition], type_: &str) -> bool {
    conditions
        .iter()
        .any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let first = merge(
            &[],
            &[Verdict::no(READY, "Waiting", "waits")],
            Some(1),
            at(10),
        );
        let same = merge(
            &first,
            &[Verdict::no(READY, "StillWaiting", "waits more")],
            Some(1),
            at(20),
        );
        assert_eq!(same[0].last_transition_time.0, at(10));
        assert_eq!(same[0].reason, "StillWaiting");
        let flipped = merge(&same, &[Verdict::yes(READY, "Up", "up")], Some(2), at(30));
        assert_eq!(flipped[0].last_transition_time.0, at(30));
        assert!(holds(&flipped, READY));
    }
}
