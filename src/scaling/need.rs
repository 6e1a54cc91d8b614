//! Load of the queue -> slots. Every number is one that a person can see and check.

use std::fmt;

use super::erlang;
use crate::api::Span;

/// Share of tasks that may wait longer than targetWait while the load is steady.
const LATE_SHARE: f64 = 0.01;
/// Tasks that will have come, and will be late, when new workers could help are worked off in so many
/// rounds: one would take half as many workers again for a second less.
const ROUNDS: f64 = 2.0;
/// Most slots that are ever counted: 10,000 workers of 1,000.
const MOST_SLOTS: u32 = 10_000_000;
/// Most servers Erlang's formula is asked for; above, the margin over the load is below 1 %.
const MOST_SERVERS: u32 = 20_000;

/// What sizing by the queue computes with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inputs {
    /// Sum over the personas of min(queued + running, maxConcurrency).
    pub demand: u64,
    /// Tasks that wait and may be taken, now or when one of their persona ends.
    pub backlog: u64,
    /// Tasks that its workers run.
    pub running: u64,
    /// Slot-seconds that the workers that are there or start have until one made now could be ready.
    pub ahead: f64,
    /// Arrivals, tasks a second.
    pub rate: f64,
    /// Arrivals of the last seconds at the least, where more came than that rate would bring.
    pub recent: f64,
    /// Mean service time, seconds.
    pub service: f64,
    /// Variance over mean of the tasks in the pool, as far as it is known to be below 1
    /// ([`super::peakedness`]).
    pub peakedness: f64,
    /// From the creation of a worker until it is ready, seconds.
    pub lead: f64,
    /// How long a task may wait, seconds.
    pub target_wait: f64,
    /// Most tasks that may run at once, by maxConcurrency.
    pub concurrency: Option<u64>,
    /// Most tasks that may run at once, where a provider has said that more is too much.
    pub provider_limit: Option<u64>,
}

/// What asks for the most slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// The arrival rate, by Erlang's formula.
    Steady,
    /// Tasks that run.
    Running,
    /// Tasks that wait.
    Backlog,
    /// maxConcurrency of the personas.
    Concurrency,
    /// The providers.
    Provider,
}

/// Slots that are needed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Slots.
    pub slots: u64,
    /// What asks for them, or keeps it from being more.
    pub term: Term,
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            demand: 0,
            backlog: 0,
            running: 0,
            ahead: 0.0,
            rate: 0.0,
            recent: 0.0,
            service: 1.0,
            peakedness: 1.0,
            lead: 0.0,
            target_wait: 0.0,
            concurrency: None,
            provider_limit: None,
        }
    }
}

impl Inputs {
    /// Slots that are needed (autoscaling.md, "Size"):
    ///
    /// ```text
    /// steady = z c, c the smallest with P(wait > targetWait) <= 1 % in M/M/c at rate / z and service
    /// now    = the rate, or what came in the last seconds at the least, if that is more
    /// late   = backlog - ahead / service                    tasks that wait and that nobody there can begin in time
    /// more   = now x lead, as far as ahead does not cover it tasks that come until new workers could help
    /// drain  = now x service + (late + more / 2) x service / max(targetWait, service), 0 if there is neither
    /// slots  = max(steady, running, min(drain, demand + now x lead))
    /// ```
    ///
    /// where z is the peakedness (Hayward's approximation) and `ahead` is what the workers that are there and those that start can do until then. Never
    /// above maxConcurrency or what the providers answer at once, and 1 while there is demand.
    pub fn need(&self) -> Need {
        let steady = self.steady();
        let drain = self.drain();
        let wanted = [
            (steady, Term::Steady),
            (self.running, Term::Running),
            (drain, Term::Backlog),
        ];
        let (mut slots, mut term) = wanted
            .into_iter()
            .max_by_key(|(slots, _)| *slots)
            .unwrap_or((0, Term::Steady));
        let limits = [
            (self.concurrency, Term::Concurrency),
            (self.provider_limit, Term::Provider),
        ];
        for (limit, name) in limits {
            // A limit is no reason to leave running tasks.
            if let Some(limit) = limit.map(|limit| limit.max(self.running))
                && slots > limit
            {
                (slots, term) = (limit, name);
            }
        }
        let busy = self.demand > 0 || self.running > 0;
        Need {
            slots: slots.max(u64::from(busy)),
            term,
        }
    }

    fn steady(&self) -> u64 {
        let load = self.rate * self.service;
        let random = load / self.peakedness;
        if random < f64::from(MOST_SERVERS) * 0.9 {
            let patience = self.target_wait / self.service;
            let servers = erlang::servers(random, patience, LATE_SHARE, MOST_SERVERS);
            slots(f64::from(servers) * self.peakedness)
        } else {
            slots(load * 1.01)
        }
    }

    const fn rate_now(&self) -> f64 {
        self.rate.max(self.recent)
    }

    fn drain(&self) -> u64 {
        let served = self.ahead / self.service;
        let coming = self.rate_now() * self.lead;
        let late = self.backlog as f64 + coming - served;
        if self.backlog == 0 || late <= 0.0 {
            return 0;
        }
        let late_now = (self.backlog as f64 - served).max(0.0);
        let rounds = late_now + (late - late_now) / ROUNDS;
        let wave = rounds * self.service / self.target_wait.max(self.service);
        let drain = self.rate_now() * self.service + wave;
        slots(drain.min(self.demand as f64 + coming))
    }

    /// Slots without which the tasks that wait now would wait longer than targetWait from now on.
    pub fn cannot_spare(&self) -> u64 {
        slots(self.backlog.min(self.demand) as f64 * self.service / self.target_wait)
            .min(self.demand)
    }
}

fn slots(count: f64) -> u64 {
    count.ceil().clamp(0.0, f64::from(MOST_SLOTS)) as u64
}

/// `queued 160, running 32, 12.0 tasks/s, S 0.9 s, lead 2.1 s, 4 slots, target wait 500ms`
pub struct Sentence<'a> {
    /// What it was computed from.
    pub inputs: &'a Inputs,
    /// All waiting tasks, also those that may not be taken.
    pub queued: u64,
    /// Slots a worker.
    pub slots_per_worker: u32,
    /// spec.scaling.targetWait.
    pub target_wait: Span,
    /// The result.
    pub need: Need,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inputs {
            running,
            rate,
            recent,
            service,
            peakedness,
            lead,
            ..
        } = self.inputs;
        write!(
            f,
            "queued {}, running {running}, {} tasks/s",
            self.queued,
            Figure(*rate)
        )?;
        let limit = self.inputs.provider_limit;
        let limit = limit.map_or_else(String::new, |limit| {
            format!(", its providers bear {limit} at once")
        });
        if recent > rate {
            write!(f, " (now {})", Figure(*recent))?;
        }
        if *peakedness < 1.0 {
            write!(f, " (even: z {})", Figure(*peakedness))?;
        }
        write!(
            f,
            ", S {} s, lead {} s, {} slots, target wait {}{limit}: {} {} {}",
            Figure(*service),
            Figure(*lead),
            self.slots_per_worker,
            self.target_wait,
            self.need.slots,
            if self.need.slots == 1 {
                "slot"
            } else {
                "slots"
            },
            match self.need.term {
                Term::Steady => "for the arrival rate",
                Term::Running => "for what runs",
                Term::Backlog => "for the backlog",
                Term::Concurrency => "by maxConcurrency",
                Term::Provider => "by the provider's limit",
            }
        )
    }
}

/// A number with two figures that count, as people write it.
pub struct Figure(pub f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            0.0 => 0,
            size if size < 0.01 => 4,
            size if size < 0.1 => 3,
            size if size < 1.0 => 2,
            size if size < 100.0 => 1,
            _ => 0,
        };
        let text = format!("{:.digits$}", self.0);
        match text.split_once('.') {
            Some((whole, part)) if part.bytes().all(|digit| digit == b'0') => f.write_str(whole),
            Some(_) => f.write_str(text.trim_end_matches('0')),
            None => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests;
