//! Observed demand -> size of a pool.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::api::{Span, WorkerPoolSpec};

/// What is known of a pool's load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Read just now.
    Fresh(Fresh),
    /// Missing or stale, and why: nothing may shrink on them.
    Blind(String),
}

/// A pool's load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// Sum over its personas of min(queued + running, maxConcurrency): slots that have work.
    pub demand: u64,
    /// Waiting tasks.
    pub queued: u64,
    /// Tasks that its workers run, stolen ones and direct calls included.
    pub running: u64,
}

/// What sizing remembers from one decision to the next. It starts anew with the process; then
/// nothing shrinks for one full window, because nobody knows what was needed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    size: u32,
    since: Timestamp,
    /// Sizes that were needed and until when, the largest first; the last is the latest reading.
    needed: VecDeque<(u32, Timestamp)>,
}

impl Memory {
    /// Begins at the size that was found.
    pub const fn resume(now: Timestamp, size: u32) -> Self {
        Self {
            size,
            since: now,
            needed: VecDeque::new(),
        }
    }

    /// The last decision.
    pub const fn size(&self) -> u32 {
        self.size
    }

    fn note(&mut self, now: Timestamp, needed: u32) {
        let readings = self.needed.len();
        while self.needed.back().is_some_and(|(size, _)| *size < needed) {
            self.needed.pop_back();
        }
        let nothing_smaller = self.needed.len() == readings;
        match self.needed.back_mut() {
            Some((size, until)) if *size == needed => *until = now,
            Some((_, until)) if nothing_smaller => {
                // The reading before this one: more was needed up to now, as far as anyone knows.
                *until = now;
                self.needed.push_back((needed, now));
            }
            _ => self.needed.push_back((needed, now)),
        }
    }

    /// The most that was needed within the window, and when that will be less.
    fn most_needed(&mut self, now: Timestamp, window: Span) -> (u32, Option<Timestamp>) {
        while self.needed.len() > 1
            && self
                .needed
                .front()
                .is_some_and(|(_, until)| after(*until, window) <= now)
        {
            self.needed.pop_front();
        }
        let front = self.needed.front().copied();
        let ends = front.filter(|_| self.needed.len() > 1);
        (
            front.map_or(0, |(size, _)| size),
            ends.map(|(_, until)| after(until, window)),
        )
    }
}

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Workers that are wanted.
    pub size: u32,
    /// Why, for machines.
    pub cause: Cause,
    /// Why, as a sentence with the numbers it came from.
    pub reason: String,
    /// When to decide again, though nothing else changes.
    pub again_at: Option<Timestamp>,
}

/// Decides the size of a pool: runnable demand over slots, within minReplicas..maxReplicas, at least
/// one worker while there is any work, smaller only when no more was needed for idleTimeout, never
/// smaller on numbers that are missing or stale.
pub fn desired(
    now: Timestamp,
    numbers: &Numbers,
    spec: &WorkerPoolSpec,
    memory: &mut Memory,
) -> Decision {
    let decision = match (spec.replicas, numbers) {
        (Some(size), _) => Decision {
            size,
            cause: Cause::Pinned,
            reason: format!("pinned by spec.replicas {size}"),
            again_at: None,
        },
        (None, Numbers::Fresh(load)) => by_load(now, *load, spec, memory),
        (None, Numbers::Blind(why)) => blind(why, spec, memory),
    };
    memory.size = decision.size;
    decision
}

fn blind(why: &str, spec: &WorkerPoolSpec, memory: &Memory) -> Decision {
    let fallback = spec.scaling.fallback.as_ref().map_or(0, |f| f.replicas);
    let hold = memory.size.max(fallback);
    let (size, limit) = bounded(hold, spec);
    let held = if size > memory.size && fallback >= size {
        format!("scaling.fallback {fallback}")
    } else {
        "holding".to_owned()
    };
    Decision {
        size,
        cause: if limit.is_some() && size != memory.size {
            Cause::Bounds
        } else {
            Cause::Blind
        },
        reason: sentence(&format!("no fresh numbers ({why}): {held}"), limit),
        again_at: None,
    }
}

fn by_load(now: Timestamp, load: Fresh, spec: &WorkerPoolSpec, memory: &mut Memory) -> Decision {
    let slots = u64::from(spec.slots_per_worker.max(1));
    let by_demand = load.demand.div_ceil(slots).max(u64::from(load.running > 0));
    let by_demand = u32::try_from(by_demand).unwrap_or(u32::MAX);
    let numbers = format!(
        "demand {} (queued {}, running {}) at {slots} slots a worker",
        load.demand, load.queued, load.running
    );
    memory.note(now, by_demand);
    let (most, ends) = memory.most_needed(now, spec.idle_timeout);
    let settled = after(memory.since, spec.idle_timeout);
    let (wanted, limit) = bounded(by_demand, spec);
    if wanted >= memory.size {
        return Decision {
            size: wanted,
            cause: cause(limit.filter(|_| wanted > by_demand)),
            reason: sentence(&numbers, limit),
            again_at: None,
        };
    }
    let keep = if now < settled {
        most.max(memory.size)
    } else {
        most
    };
    let (size, limit) = bounded(keep, spec);
    let again_at = if now < settled { Some(settled) } else { ends };
    if size >= memory.size {
        return Decision {
            size: size.min(memory.size),
            cause: Cause::Idle,
            reason: sentence(
                &format!("{numbers}; more was needed within {}", spec.idle_timeout),
                limit,
            ),
            again_at,
        };
    }
    let lowered = size == spec.max_replicas && keep > size;
    Decision {
        size,
        cause: if lowered { Cause::Bounds } else { Cause::Idle },
        reason: sentence(
            &format!("{numbers}; no more was needed for {}", spec.idle_timeout),
            limit,
        ),
        again_at,
    }
}

const fn cause(floor: Option<Limit>) -> Cause {
    match floor {
        Some(_) => Cause::Bounds,
        None => Cause::Demand,
    }
}

/// The bound that took effect.
#[derive(Clone, Copy)]
struct Limit {
    field: &'static str,
    value: u32,
}

fn bounded(size: u32, spec: &WorkerPoolSpec) -> (u32, Option<Limit>) {
    let warm = spec.warm_replicas.unwrap_or(0);
    let floor = if warm > spec.min_replicas {
        Limit {
            field: "warmReplicas",
            value: warm,
        }
    } else {
        Limit {
            field: "minReplicas",
            value: spec.min_replicas,
        }
    };
    let ceiling = Limit {
        field: "maxReplicas",
        value: spec.max_replicas,
    };
    if size > ceiling.value || floor.value > ceiling.value {
        (ceiling.value, Some(ceiling))
    } else if size < floor.value {
        (floor.value, Some(floor))
    } else {
        (size, None)
    }
}

fn sentence(numbers: &str, limit: Option<Limit>) -> String {
    match limit {
        Some(Limit { field, value }) => format!("{numbers}; limited by {field} {value}"),
        None => numbers.to_owned(),
    }
}

fn after(time: Timestamp, span: Span) -> Timestamp {
    time.checked_add(span.as_duration())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
