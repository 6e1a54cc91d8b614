//! Observed load -> size of a pool.

use std::cmp::{Ordering, Reverse};
use std::time::Duration;

use jiff::Timestamp;

use super::behavior::{Rules, after, after_span};
use super::decision::{Cause, Decision, decision};
use super::memory::Memory;
use super::need::{Figure, Inputs, Sentence};
use super::reading::{QUEUE, QueueReading, Reading};
use super::regret::is_small_shrink;
use crate::api::{Span, WorkerPoolSpec};

/// While the size follows an arrival rate: time until that rate is looked at again.
const RATE_CHECK: Duration = Duration::from_secs(1);
/// Time until the reading after a stale one.
const NEXT_READING: Duration = Duration::from_millis(500);
/// Time that a reading takes that was asked for.
pub const LOOK: Duration = Duration::from_millis(50);

/// A small shrink waits for so many windows without need, where nobody set the window: under a load that
/// is constant but for chance, what one window does not need the next one often does. Four would have
/// fewer reversals still, for a sixth over the oracle's pod-seconds on heavy-tailed tasks.
const PATIENT: u32 = 3;

/// What one source asks for.
struct Proposal {
    /// Workers, with their fraction.
    workers: f64,
    sentence: String,
}

/// Decides the size of a pool: the largest that a source asks for, within minReplicas..maxReplicas,
/// no faster than spec.scaling.behavior allows, at least one worker while there is any work, none
/// only after idleTimeout without any, and never smaller while a source is missing or stale.
pub fn desired(
    now: Timestamp,
    readings: &[Reading],
    spec: &WorkerPoolSpec,
    memory: &mut Memory,
) -> Decision {
    let mut proposals = Vec::new();
    let mut blind = Vec::new();
    let mut inputs = None;
    let mut spare = 0;
    for reading in readings {
        match reading {
            Reading::Queue(queue) => match memory.hear(now, queue, spec) {
                Ok(heard) => {
                    spare = workers(heard.cannot_spare(), spec).ceil() as u32;
                    proposals.push(by_queue(&heard, queue, spec));
                    inputs = Some(heard);
                }
                Err(why) => blind.push((QUEUE.to_owned(), why.to_owned())),
            },
            Reading::External {
                name,
                value,
                target,
            } => match by_number(name, *value, *target) {
                Ok(proposal) => {
                    if proposal.workers > 0.0 {
                        memory.busy_at = now;
                    }
                    proposals.push(proposal);
                }
                Err(why) => blind.push((name.clone(), why)),
            },
            Reading::Failed { name, why } => blind.push((name.clone(), why.clone())),
        }
    }
    if proposals.is_empty() && blind.is_empty() {
        blind.push(("metrics".to_owned(), "none is set".to_owned()));
    }
    if !blind.is_empty() {
        memory.busy_at = now;
    }
    let largest = proposals
        .into_iter()
        .max_by(|a, b| a.workers.total_cmp(&b.workers));
    let view = View {
        now,
        spec,
        spare,
        is_old: readings
            .iter()
            .any(|reading| matches!(reading, Reading::Queue(queue) if queue.is_old)),
        rate: inputs.is_some_and(|inputs: Inputs| inputs.rate > 0.0),
    };
    let from = memory.size;
    let mut decision = match (spec.replicas, largest, &*blind) {
        (Some(size), _, _) => view.pinned(size, memory),
        (None, Some(largest), []) => view.follow(&largest, memory),
        (None, largest, blind) => view.hold(largest.as_ref(), blind, memory),
    };
    memory.changes.note(now, from, decision.size);
    memory.size = decision.size;
    decision.blind = blind;
    decision.inputs = inputs;
    decision
}

fn by_queue(inputs: &Inputs, queue: &QueueReading, spec: &WorkerPoolSpec) -> Proposal {
    let need = inputs.need();
    let sentence = Sentence {
        inputs,
        queued: queue.queued,
        slots_per_worker: spec.slots_per_worker,
        target_wait: spec.scaling.target_wait,
        need,
    };
    Proposal {
        workers: workers(need.slots, spec),
        sentence: sentence.to_string(),
    }
}

fn by_number(name: &str, value: f64, target: f64) -> Result<Proposal, String> {
    let workers = value / target;
    if !value.is_finite() || workers.is_nan() || target <= 0.0 {
        return Err(format!(
            "{value} at {target} a worker is no number of workers"
        ));
    }
    Ok(Proposal {
        workers: workers.clamp(0.0, f64::from(u32::MAX)),
        sentence: format!("{name}: {}, {} a worker", Figure(value), Figure(target)),
    })
}

fn workers(slots: u64, spec: &WorkerPoolSpec) -> f64 {
    slots as f64 / f64::from(spec.slots_per_worker.max(1))
}

/// What all ways to decide look at.
struct View<'a> {
    now: Timestamp,
    spec: &'a WorkerPoolSpec,
    /// Workers that what waits now needs.
    spare: u32,
    /// The queue was read a while ago.
    is_old: bool,
    /// An arrival rate is in use.
    rate: bool,
}

impl View<'_> {
    fn pinned(&self, size: u32, memory: &mut Memory) -> Decision {
        memory.lowest.note(self.now, Reverse(size));
        memory.highest.note(self.now, size);
        decision(
            size,
            Cause::Pinned,
            format!("pinned by spec.replicas {size}"),
        )
    }

    /// A source is missing: it may be the one that asks for most. The others, and the fallback, may make
    /// the pool grow, as fast as it may in any case.
    fn hold(
        &self,
        largest: Option<&Proposal>,
        blind: &[(String, String)],
        memory: &mut Memory,
    ) -> Decision {
        let (now, spec) = (self.now, self.spec);
        let (up, down) = (Rules::up(spec), Rules::down(spec));
        let (size, bound) = bounded(memory.size, spec);
        let fallback = spec.scaling.fallback.as_ref().map_or(0, |f| f.replicas);
        let mut asked = largest.map_or(0, |proposal| proposal.workers.ceil() as u32);
        if largest.is_some_and(|most| within_tolerance(most.workers, size, &up, &down)) {
            asked = size;
        }
        let wanted = size.max(asked).max(fallback);
        let (low, _) = least_wanted(now, wanted, &up, memory);
        let (mut chosen, mut limit) = bounded(size.max(low), spec);

        let grows = chosen > size;
        let (by_demand, by_fallback) = (grows && asked >= chosen, grows && fallback >= chosen);
        let mut words = match largest {
            Some(proposal) if by_demand => proposal.sentence.clone(),
            _ if by_fallback => format!("scaling.fallback {fallback}"),
            _ => "holding".to_owned(),
        };
        let ceiling = up.ceiling(now, size, &memory.changes);
        if grows && chosen > ceiling {
            (chosen, limit) = (ceiling, None);
            words += &format!("; limited to {ceiling} by behavior.scaleUp");
        }
        let cause = if by_demand && chosen > size {
            Cause::Demand
        } else if limit.or(bound).is_some() && chosen != memory.size {
            Cause::Bounds
        } else {
            Cause::Blind
        };
        if chosen > memory.size {
            memory.highest.note(now, chosen);
        }
        let missing: Vec<_> = blind
            .iter()
            .map(|(name, why)| format!("{name}: {why}"))
            .collect();
        let reason = sentence(
            &format!("no fresh numbers ({}): {words}", missing.join("; ")),
            limit.or(bound.filter(|_| chosen == size)),
        );
        Decision {
            again_at: Some(after(now, NEXT_READING)),
            ..decision(chosen, cause, reason)
        }
    }

    fn follow(&self, largest: &Proposal, memory: &mut Memory) -> Decision {
        let (now, spec) = (self.now, self.spec);
        let (up, down) = (Rules::up(spec), Rules::down(spec));
        let idle_at = after_span(memory.busy_at, spec.idle_timeout);
        let mut times = Vec::new();
        let (size, bound) = bounded(memory.size, spec);

        let mut wanted = largest.workers.ceil() as u32;
        if within_tolerance(largest.workers, size, &up, &down) {
            wanted = size;
        }
        let kept = memory.regret.keeps(now, size, wanted);
        let kept = kept.filter(|_| !down.is_own_window);
        if kept.is_some() {
            wanted = size;
            times.extend(kept);
        }
        let (low, low_ends) = least_wanted(now, wanted, &up, memory);
        memory.highest.note(now, wanted);
        memory.highest.forget(now, down.window * PATIENT);
        let mut window = down.window;
        let mut high = memory.highest.extreme(now, window);
        if !down.is_own_window && high.is_some_and(|(high, _)| is_small_shrink(size, high)) {
            window *= PATIENT;
            high = memory.highest.extreme(now, window);
        }
        let (high, high_ends) = high.unwrap_or((wanted, None));
        let mut stable = size.max(low).min(high);
        if stable == 0 && size > 0 && now < idle_at {
            stable = 1;
            times.push(idle_at);
        }
        let (mut chosen, mut limit) = bounded(stable, spec);

        let pause = memory.regret.next_step(now).filter(|_| !down.is_own_window);
        if chosen < size && pause.is_some() {
            (chosen, limit) = (size, None);
            times.extend(pause);
        }
        let (mut words, mut awaits_reading) = (String::new(), false);
        let (target, _) = bounded(wanted, spec);
        if chosen > size {
            let ceiling = up.ceiling(now, size, &memory.changes);
            if chosen > ceiling {
                (chosen, limit) = (ceiling, None);
                words = format!("; limited to {ceiling} by behavior.scaleUp");
            }
        } else if chosen < size {
            let floor = down.floor(now, size, &memory.changes);
            words = format!("; no more was needed for {}", Span::from(window));
            if chosen < floor {
                (chosen, limit) = (floor, None);
                words += &format!(", limited to {floor} by behavior.scaleDown");
            }
            if chosen < self.spare.min(size) {
                (chosen, limit) = (self.spare.min(size), None);
                words += ", and what waits needs it";
            }
            awaits_reading = chosen < size && self.is_old;
            if awaits_reading {
                (chosen, limit) = (size, None);
                times.push(after(now, LOOK));
            }
        } else if kept.is_some() {
            words = "; kept for a while, because the last shrink was regretted".to_owned();
        } else if target < size {
            words = format!("; more was needed within {}", Span::from(window));
        } else if target > size {
            words = format!("; less was needed within {}", Span::from(up.window));
        }

        // The bounds have changed, and not what is needed.
        let forced = bound.is_some() && chosen == size && chosen != memory.size;
        if forced {
            (words, limit) = (String::new(), bound);
        }
        match chosen.cmp(&size) {
            Ordering::Less => memory.regret.shrunk(now),
            Ordering::Equal => {}
            Ordering::Greater => memory.regret.grew(now, spec.idle_timeout.into()),
        }
        if chosen < target {
            times.extend(low_ends);
            times.extend(up.eases_at(now, &memory.changes));
        } else if chosen > target {
            times.extend(high_ends.filter(|_| high > wanted));
            times.extend(down.eases_at(now, &memory.changes));
        }
        if self.rate && chosen > floor_of(spec).value {
            times.push(after(now, RATE_CHECK));
        }
        let cause =
            if forced || limit.is_some_and(|limit| limit.value > stable) && chosen > memory.size {
                Cause::Bounds
            } else if chosen < memory.size {
                Cause::Idle
            } else {
                Cause::Demand
            };
        Decision {
            again_at: times.into_iter().filter(|at| *at > now).min(),
            awaits_reading,
            ..decision(
                chosen,
                cause,
                sentence(&format!("{}{words}", largest.sentence), limit),
            )
        }
    }
}

/// Notes what is wanted; the least that was within the window of growth, and when that will be another.
fn least_wanted(
    now: Timestamp,
    wanted: u32,
    up: &Rules,
    memory: &mut Memory,
) -> (u32, Option<Timestamp>) {
    memory.lowest.note(now, Reverse(wanted));
    memory.lowest.forget(now, up.window);
    let least = memory.lowest.extreme(now, up.window);
    least.map_or((wanted, None), |(least, ends)| (least.0, ends))
}

/// As in the HPA: a ratio of wanted to present workers close to one is no reason to change.
fn within_tolerance(workers: f64, size: u32, up: &Rules, down: &Rules) -> bool {
    let ratio = workers / f64::from(size);
    size > 0 && ratio >= 1.0 - down.tolerance && ratio <= 1.0 + up.tolerance
}

/// The bound that took effect.
#[derive(Clone, Copy)]
struct Limit {
    field: &'static str,
    value: u32,
}

fn floor_of(spec: &WorkerPoolSpec) -> Limit {
    let warm = spec.warm_replicas.unwrap_or(0);
    if warm > spec.min_replicas {
        Limit {
            field: "warmReplicas",
            value: warm,
        }
    } else {
        Limit {
            field: "minReplicas",
            value: spec.min_replicas,
        }
    }
}

fn bounded(size: u32, spec: &WorkerPoolSpec) -> (u32, Option<Limit>) {
    let floor = floor_of(spec);
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

#[cfg(test)]
mod tests;
