//! A pool's pods, sorted by what they are good for.

use std::collections::{BTreeSet, HashMap};

use super::{Backoff, Memory, QUIET};
use crate::controller::pool::observe::{Observed, PodView};
use crate::controller::pool::template::follows_queue;
use crate::queue::stats::{PoolStats, WorkerStats};
use crate::scaling::{Candidate, after_span, victims};

/// The pool's pods, sorted by what they are good for.
pub struct Fleet<'a> {
    /// The queue's numbers, if it can be read.
    pub stats: Option<&'a PoolStats>,
    /// The queue knows all that it should: nothing was lost that workers or personas have not told again.
    pub is_whole: bool,
    /// Workers that are registered in the queue, by pod uid.
    pub workers: HashMap<&'a str, &'a WorkerStats>,
    /// As they are to be, taking requests or about to.
    pub current: Vec<&'a PodView>,
    /// Of an older template, on a node that goes, or with a worker that asks for it; taking requests. They
    /// are replaced.
    pub outdated: Vec<&'a PodView>,
    /// Outdated too, and serve nobody, nor will they: they have no node or one out of reach, or cannot
    /// start. Nothing is lost with them, and what they hold may be what others wait for.
    pub hollow: Vec<&'a PodView>,
    /// Told to drain, not deleted yet.
    pub draining: Vec<&'a PodView>,
    /// Being deleted.
    pub leaving: Vec<&'a PodView>,
    /// Told to drain, or to take again, since the numbers were asked for, by pod uid.
    ahead: BTreeSet<String>,
}

impl<'a> Fleet<'a> {
    /// Sorts the pods, and forgets what is remembered of those that are gone.
    pub fn new(o: &'a Observed, memory: &mut Memory) -> Self {
        let stats = o.stats.as_deref().ok();
        let workers: HashMap<_, _> = stats
            .iter()
            .flat_map(|stats| &stats.workers)
            .map(|worker| (worker.uid.as_str(), worker))
            .collect();
        let told = memory.told.iter();
        let ahead: BTreeSet<String> = told
            .filter(|(_, told)| o.asked.is_none_or(|asked| asked <= **told))
            .map(|(uid, _)| uid.clone())
            .collect();
        // Drained by an earlier process: its time starts anew.
        for (uid, worker) in &workers {
            if worker.draining && !ahead.contains(*uid) && !memory.draining.contains_key(*uid) {
                memory.draining.insert((*uid).to_owned(), o.now);
            }
        }
        let known: BTreeSet<&str> = o.pods.iter().map(|pod| pod.uid.as_str()).collect();
        memory
            .draining
            .retain(|uid, _| known.contains(uid.as_str()));
        memory.told.retain(|uid, _| known.contains(uid.as_str()));
        memory.failed.retain(|uid| known.contains(uid.as_str()));
        memory.began.retain(|uid| known.contains(uid.as_str()));
        let registered = workers.keys().filter(|uid| known.contains(*uid));
        memory.began.extend(registered.map(|uid| (*uid).to_owned()));
        let quiet = memory
            .lost
            .until
            .is_some_and(|until| after_span(until, QUIET) <= o.now);
        if quiet && o.pods.iter().any(|pod| pod.ready) {
            memory.lost = Backoff::default();
        }
        let mut fleet = Self {
            stats,
            is_whole: stats.is_some_and(|stats| {
                stats.open && (stats.epoch.is_some() || !follows_queue(&o.pool))
            }),
            workers,
            current: Vec::new(),
            outdated: Vec::new(),
            hollow: Vec::new(),
            draining: Vec::new(),
            leaving: Vec::new(),
            ahead,
        };
        for pod in o.pods.iter().filter(|pod| pod.failed.is_none()) {
            if pod.deleting {
                fleet.leaving.push(pod);
            } else if memory.draining.contains_key(&pod.uid) {
                fleet.draining.push(pod);
            } else if fleet.stays(o, pod) {
                fleet.current.push(pod);
            } else if fleet.is_hollow(pod) {
                fleet.hollow.push(pod);
            } else {
                fleet.outdated.push(pod);
            }
        }
        fleet
    }

    /// By the numbers its worker takes requests.
    pub fn takes(&self, pod: &PodView) -> bool {
        let worker = self.workers.get(pod.uid.as_str());
        worker.is_some_and(|worker| !worker.draining)
    }

    /// The numbers do not know yet what it was told last.
    pub fn is_ahead(&self, pod: &PodView) -> bool {
        self.ahead.contains(&pod.uid)
    }

    /// Nothing asks for another pod in this one's place.
    pub fn stays(&self, o: &Observed, pod: &PodView) -> bool {
        let worker = self.workers.get(pod.uid.as_str());
        let asks = worker.is_some_and(|worker| worker.recycle.is_some()) && !o.holds_still;
        is_current(o, pod) && !pod.node_going && !asks
    }

    /// Draining workers that may as well take requests again, so many, by pod uid: those first who would
    /// be missed most.
    pub fn to_call_back(&self, o: &Observed, count: usize) -> Vec<String> {
        let able = |pod: &&&PodView| self.stays(o, pod) && !pod.is_kept_from_starting();
        let able: Vec<&PodView> = self.draining.iter().filter(able).copied().collect();
        let mut by_loss = victims(self.candidates(&able, false), able.len());
        by_loss.reverse();
        by_loss.truncate(count);
        by_loss
    }

    fn is_hollow(&self, pod: &PodView) -> bool {
        let serves = pod.ready || self.workers.contains_key(pod.uid.as_str());
        let starts = pod.scheduled && !pod.node_going && !pod.is_kept_from_starting();
        !serves && !starts
    }

    /// For the choice of victims.
    pub fn candidates(&self, pods: &[&PodView], outdated: bool) -> Vec<Candidate> {
        let candidate = |pod: &&PodView| {
            let worker = self.workers.get(pod.uid.as_str());
            Candidate {
                uid: pod.uid.clone(),
                scheduled: pod.scheduled,
                ready: pod.ready,
                outdated,
                running: worker.map_or(0, |w| w.busy()),
                active_at_ms: worker.map_or(0, |w| w.active_at_ms),
            }
        };
        pods.iter().map(candidate).collect()
    }
}

/// Made from the present template; or what that leaves out may still be needed.
fn is_current(o: &Observed, pod: &PodView) -> bool {
    pod.hash == o.template.hash || (o.holds_still && pod.ready)
}
