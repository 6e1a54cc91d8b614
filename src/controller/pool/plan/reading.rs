//! What sizing is told of a pool.

use std::time::Duration;

use super::Fleet;
use crate::controller::pool::observe::{Observed, PodView};
use crate::queue::stats::ProviderStats;
use crate::scaling::{ProviderReading, QueueReading, Reading};

/// The queue's numbers, as sizing takes them.
pub fn reading(o: &Observed, fleet: &Fleet<'_>) -> Reading {
    let stats = match &o.stats {
        Err(why) => return Reading::no_queue(why),
        Ok(stats) if !stats.open => {
            return Reading::no_queue("the pool is not open in the queue yet");
        }
        Ok(stats) => stats,
    };
    let Some(epoch) = stats.epoch.clone() else {
        return Reading::no_queue("personas are being published to the queue");
    };
    let active = fleet.current.iter().chain(&fleet.outdated);
    let (ready, starting): (Vec<&PodView>, Vec<&PodView>) = active.partition(|pod| pod.ready);
    let ready = u64::try_from(ready.len()).unwrap_or(u64::MAX);
    let age = |pod: &&PodView| Duration::try_from(o.now.duration_since(pod.created?)).ok();
    let coming = o.under_way.iter().map(|_| Duration::ZERO);
    Reading::Queue(QueueReading {
        at_ms: stats.at_ms,
        is_old: o.is_old,
        epoch,
        demand: stats.demand,
        queued: stats.queued,
        runnable: stats.runnable,
        oldest_wait_ms: stats.oldest_wait_ms,
        running: stats
            .workers
            .iter()
            .filter(|w| !w.draining)
            .map(|w| u64::from(w.busy()))
            .sum(),
        arrived: stats.arrived,
        completed: stats.completed,
        service_sum_ms: stats.service_sum_ms,
        concurrency: o.concurrency.map(|most| most.max(stats.concurrency)),
        providers: stats.providers.iter().map(provider).collect(),
        ready_slots: ready.saturating_mul(o.pool.spec.slots_per_worker.into()),
        starting: starting.iter().filter_map(age).chain(coming).collect(),
        lead: lead(&o.pods),
    })
}

fn provider(stats: &ProviderStats) -> ProviderReading {
    ProviderReading {
        key: stats.key.clone(),
        demand: stats.demand,
        running: stats.running,
        concurrency: stats.concurrency,
        limited: stats.limited,
    }
}

/// The usual time from the creation of a pod until it is ready: the median, because a pod that was
/// not ready for a while counts as one that took long.
fn lead(pods: &[PodView]) -> Option<Duration> {
    let mut times: Vec<_> = pods.iter().filter_map(|pod| pod.ready_after).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}
