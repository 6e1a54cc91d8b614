//! The sentences.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::{Persona, PersonaTopology, Phase, Sizing, Span, WorkerPool, WorkerPoolSpec};
use crate::controller::pool::template::follows_queue;
use crate::scaling::behavior::Rules;

/// A pool: how many workers, why, and what would change that.
pub fn pool(pool: &WorkerPool, now: Timestamp) -> String {
    let mut text = heading("WorkerPool", pool);
    let Some(status) = &pool.status else {
        return text + UNSEEN;
    };
    let spec = &pool.spec;
    let sizing = match status.sizing {
        Some(Sizing::Pinned) => "pinned by spec.replicas".to_owned(),
        _ => format!(
            "autoscaled between {} and {}",
            floor(spec),
            spec.max_replicas
        ),
    };
    line(
        &mut text,
        &format!(
            "{} wanted, {sizing}; {} Ready: {} busy, {} idle; {} draining",
            count(i64::from(status.desired_replicas), "worker"),
            status.ready_replicas,
            status.busy,
            status.idle,
            status.draining
        ),
    );
    let oldest = status
        .oldest_wait
        .map(|wait| format!(", the oldest for {wait}"));
    line(
        &mut text,
        &format!(
            "{} running, {} waiting{}",
            count(status.running, "request"),
            status.queued,
            oldest.unwrap_or_default()
        ),
    );
    for (index, record) in status.history.iter().enumerate() {
        let what = if index == 0 {
            "last change"
        } else {
            "before that"
        };
        line(
            &mut text,
            &format!(
                "{what}, {} ago: {} -> {}: {}",
                age(record.at.0, now),
                record.from,
                record.to,
                record.reason
            ),
        );
    }
    if status.sizing == Some(Sizing::Pinned) {
        line(
            &mut text,
            "follows the load again when spec.replicas is removed",
        );
    } else {
        line(&mut text, &rules(pool));
    }
    conditions(&mut text, &status.conditions, pool, now);
    text
}

/// When an autoscaled pool changes its size.
fn rules(pool: &WorkerPool) -> String {
    let spec = &pool.spec;
    let (up, down) = (Rules::up(spec), Rules::down(spec));
    let grows = if up.is_disabled() {
        "does not grow (behavior.scaleUp)".to_owned()
    } else if !follows_queue(pool) {
        "grows with its metrics".to_owned()
    } else {
        let wait = spec.scaling.target_wait;
        format!("grows as soon as a request would wait longer than {wait}")
    };
    let throughout = match up.window {
        Duration::ZERO => String::new(),
        window => format!(", to what was needed throughout {}", Span::from(window)),
    };
    let shrinks = if down.is_disabled() {
        "does not shrink (behavior.scaleDown)".to_owned()
    } else {
        format!(
            "shrinks to what was needed within {}",
            Span::from(down.window)
        )
    };
    format!("{grows}{throughout}; {shrinks}")
}

/// A persona: where it is served, and what it waits for.
pub fn persona(persona: &Persona, now: Timestamp) -> String {
    let mut text = heading("Persona", persona);
    let Some(status) = &persona.status else {
        return text + UNSEEN;
    };
    let place = match (&status.pool, status.phase) {
        (Some(pool), Some(phase)) => format!("served by pool {pool}, in phase {}", phase.as_str()),
        (Some(pool), None) => format!("served by pool {pool}, its owner's choice"),
        (None, _) => "not served by any pool yet".to_owned(),
    };
    line(&mut text, &place);
    line(
        &mut text,
        &format!(
            "{} running of {} at once, {} waiting of {}",
            count(status.running, "request"),
            persona.spec.queue.max_concurrency,
            status.queued,
            persona.spec.queue.max_length
        ),
    );
    conditions(&mut text, &status.conditions, persona, now);
    text
}

/// A topology: how personas share pools, and what is under way.
pub fn topology(topology: &PersonaTopology, now: Timestamp) -> String {
    let mut text = heading("PersonaTopology", topology);
    let Some(status) = &topology.status else {
        return text + UNSEEN;
    };
    let phase = status.phase.map_or("no phase yet", |phase| phase.as_str());
    line(
        &mut text,
        &format!(
            "{phase}: {} in {}",
            count(status.personas.into(), "persona"),
            count(status.pool_count.into(), "pool")
        ),
    );
    for pool in &status.pools {
        line(
            &mut text,
            &format!(
                "pool {} of class {} for {}",
                pool.name,
                pool.class,
                count(pool.personas.into(), "persona")
            ),
        );
    }
    if let Some(transition) = &status.transition {
        line(&mut text, &format!("under way: {}", transition.progress));
    }
    if let Some(since) = &status.below_since {
        line(
            &mut text,
            &format!(
                "has had few enough personas for {} for {}; goes back after {}",
                status.below_phase.map_or("a smaller phase", Phase::as_str),
                age(since.0, now),
                topology.spec.stabilization
            ),
        );
    }
    for record in &status.history {
        line(
            &mut text,
            &format!(
                "{} ago: {} -> {}: {}",
                age(record.at.0, now),
                record.from.as_str(),
                record.to.as_str(),
                record.reason
            ),
        );
    }
    conditions(&mut text, &status.conditions, topology, now);
    text
}

const UNSEEN: &str = "  has no status: the controller has not seen it yet; is it running, and does it watch this namespace?\n";

fn heading(kind: &str, object: &impl ResourceExt) -> String {
    let namespace = object.namespace().map(|n| n + "/").unwrap_or_default();
    format!("{kind} {namespace}{}\n", object.name_any())
}

fn line(text: &mut String, words: &str) {
    // Writing to a String cannot fail.
    _ = writeln!(text, "  {words}");
}

/// Also says when the status is about an older spec.
fn conditions(
    text: &mut String,
    conditions: &[Condition],
    object: &impl ResourceExt,
    now: Timestamp,
) {
    for condition in conditions {
        let Condition {
            type_,
            status,
            reason,
            message,
            ..
        } = condition;
        let age = age(condition.last_transition_time.0, now);
        line(
            text,
            &format!("{type_} is {status} ({reason}) for {age}: {message}"),
        );
    }
    let generation = object.meta().generation;
    if conditions
        .iter()
        .any(|condition| condition.observed_generation != generation)
    {
        line(
            text,
            "the spec has changed since; the controller has not answered to that yet",
        );
    }
}

fn floor(spec: &WorkerPoolSpec) -> u32 {
    spec.min_replicas.max(spec.warm_replicas.unwrap_or(0))
}

fn count(number: i64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// With the two largest units, as people say it.
fn age(then: Timestamp, now: Timestamp) -> Span {
    let seconds = now.duration_since(then).as_secs().unsigned_abs();
    let coarse = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds / 60 * 60,
        _ => seconds / 3_600 * 3_600,
    };
    Span::secs(coarse)
}
