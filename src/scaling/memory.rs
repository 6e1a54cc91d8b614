//! What sizing remembers from one decision to the next.

use std::cmp::Reverse;
use std::time::Duration;

use jiff::Timestamp;

use super::arrivals::Arrivals;
use super::behavior::{Changes, Highest, Lowest, Window};
use super::limits::Limits;
use super::need::Inputs;
use super::peakedness::Peakedness;
use super::reading::QueueReading;
use super::regret::Regret;
use super::service::Service;
use crate::api::{ScaleRecord, WorkerPoolSpec};

/// From creation to readiness until that was measured.
const LEAD: Duration = Duration::from_secs(3);

/// Slower starts count as this: nobody waits for them with a backlog.
const LONGEST_LEAD: Duration = Duration::from_secs(600);

/// What is remembered of a pool. It starts anew with the process: speed limits then go on from the
/// status' history, and nothing shrinks for one full window, because nobody knows what was needed.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    pub(super) size: u32,
    pub(super) changes: Changes,
    pub(super) lowest: Lowest,
    pub(super) highest: Highest,
    /// When there was work, or no way to know that there was none.
    pub(super) busy_at: Timestamp,
    pub(super) regret: Regret,
    seen: Option<Seen>,
    arrivals: Arrivals,
    service: Service,
    peakedness: Peakedness,
    lead: Option<Duration>,
    limits: Limits,
}

/// The reading that the next one is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    epoch: String,
    at_ms: u64,
    arrived: u64,
    completed: u64,
    /// It went back behind the one before: it begins a new count and says nothing itself.
    is_new_start: bool,
}

impl Memory {
    /// Begins at the size that was found, with the last changes of it.
    pub fn resume(now: Timestamp, size: u32, history: &[ScaleRecord]) -> Self {
        let mut changes = Changes::default();
        for record in history.iter().rev().filter(|record| record.at.0 <= now) {
            let size = |size: i32| u32::try_from(size).unwrap_or(0);
            changes.note(record.at.0, size(record.from), size(record.to));
        }
        Self {
            size,
            changes,
            lowest: Window::new(now, Reverse(size)),
            highest: Window::new(now, size),
            busy_at: now,
            regret: Regret::default(),
            seen: None,
            arrivals: Arrivals::default(),
            service: Service::default(),
            peakedness: Peakedness::default(),
            lead: None,
            limits: Limits::default(),
        }
    }

    /// The last decision.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Takes a reading in.
    ///
    /// # Errors
    /// Why it is stale: its counters went back, or count something else than before.
    pub(super) fn hear(
        &mut self,
        now: Timestamp,
        queue: &QueueReading,
        spec: &WorkerPoolSpec,
    ) -> Result<Inputs, &'static str> {
        self.lead = queue.lead.map(|lead| lead.min(LONGEST_LEAD)).or(self.lead);
        let stale = self.seen.as_ref().and_then(|seen| seen.contradicts(queue));
        let first = self.seen.is_none();
        self.seen = Some(Seen {
            epoch: queue.epoch.clone(),
            at_ms: queue.at_ms,
            arrived: queue.arrived,
            completed: queue.completed,
            is_new_start: stale.is_some(),
        });
        if let Some(why) = stale {
            self.arrivals.restart(queue.at_ms, queue.arrived);
            self.service.restart(queue.completed, queue.service_sum_ms);
            self.peakedness = Peakedness::default();
            return Err(why);
        }
        if first {
            self.arrivals.restart(queue.at_ms, queue.arrived);
        }
        let rate = self.arrivals.rate(spec.idle_timeout.as_millis());
        let came = self.arrivals.count(queue.at_ms, queue.arrived);
        self.service.count(queue.completed, queue.service_sum_ms);
        let is_late =
            queue.runnable > 0 && queue.oldest_wait_ms > spec.scaling.target_wait.as_millis();
        if is_late || rate != self.arrivals.rate(spec.idle_timeout.as_millis()) {
            // Another load, or one that is not as even as it seemed.
            self.peakedness = Peakedness::default();
        }
        let tasks = queue.demand.max(queue.running);
        self.peakedness
            .count(queue.at_ms, tasks, self.service.seconds());
        self.limits.hear(queue.at_ms, &queue.providers);
        if came || queue.demand > 0 || queue.running > 0 {
            self.busy_at = now;
        }
        Ok(self.inputs(queue, spec))
    }

    fn inputs(&self, queue: &QueueReading, spec: &WorkerPoolSpec) -> Inputs {
        let target = spec.scaling.target_wait;
        // Only a part of what waits may begin at once. That the rest waits longer than it should
        // shows that the workers that are there do not keep up.
        let backlog = match queue.runnable {
            0 => 0,
            _ if queue.oldest_wait_ms > target.as_millis() => queue.queued,
            runnable => runnable,
        };
        // Tasks that their provider would refuse need no worker.
        let excess = self.limits.excess(&queue.providers);
        let lead = self.lead.unwrap_or(LEAD);
        let age = |age: &Duration| (*age).min(lead).as_secs_f64();
        let starting: f64 = queue.starting.iter().map(age).sum();
        let ahead = queue.ready_slots as f64 * lead.as_secs_f64()
            + starting * f64::from(spec.slots_per_worker);
        Inputs {
            demand: queue.demand.saturating_sub(excess),
            backlog: backlog.saturating_sub(excess),
            running: queue.running,
            rate: self.arrivals.rate(spec.idle_timeout.as_millis()),
            recent: self.arrivals.recent(),
            service: self.service.seconds(),
            peakedness: self.peakedness.value(),
            lead: lead.as_secs_f64(),
            ahead,
            target_wait: target.as_duration().as_secs_f64(),
            concurrency: queue.concurrency,
            provider_limit: self.limits.cap(&queue.providers, queue.concurrency),
        }
    }
}

impl Seen {
    fn contradicts(&self, queue: &QueueReading) -> Option<&'static str> {
        if self.epoch != queue.epoch {
            Some("the queue has lost its data and counts anew")
        } else if queue.arrived < self.arrived || queue.completed < self.completed {
            Some("the queue's counters went back")
        } else if self.is_new_start && queue.at_ms <= self.at_ms {
            Some("the queue counts anew, and one reading is no rate")
        } else {
            None
        }
    }
}
