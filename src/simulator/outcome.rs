//! What came of a run.

use super::trace::Trace;

/// A moment of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// When, ms.
    pub at: u64,
    /// Waiting tasks.
    pub queued: u64,
    /// Running tasks.
    pub running: u64,
    /// Pods that take tasks.
    pub ready: u64,
    /// Pods, also those that start or end.
    pub pods: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Time of all pods, from creation to the end, ms.
    pub pod_ms: u64,
    /// How long each task waited for its first start, ms; none = it never began.
    pub waits: Vec<Option<u64>>,
    /// Tasks that were cut short.
    pub killed: u64,
    /// Pods that were taken away while they ran tasks.
    pub busy_victims: u64,
    /// When the wanted size changed, ms.
    pub changed_at: Vec<u64>,
    /// How often it began to shrink after it had grown.
    pub turns: u64,
    /// Each second.
    pub points: Vec<Point>,
    size: u32,
    growing: bool,
}

impl Outcome {
    /// Of a run that begins.
    pub fn new(trace: &Trace) -> Self {
        Self {
            waits: vec![None; trace.jobs.len()],
            ..Self::default()
        }
    }

    /// So many pods are wanted from now on.
    pub fn sized(&mut self, now: u64, size: u32) {
        if size == self.size {
            return;
        }
        if now > 0 {
            self.changed_at.push(now);
            if self.growing && size < self.size {
                self.turns += 1;
            }
            self.growing = size > self.size;
        }
        self.size = size;
    }

    /// A task began after this wait.
    pub fn began(&mut self, job: usize, wait: u64) {
        self.waits[job].get_or_insert(wait);
    }

    /// Tasks that waited longer than they may.
    pub fn late(&self, target: u64) -> u64 {
        let late = self
            .waits
            .iter()
            .filter(|wait| wait.is_none_or(|wait| wait > target));
        late.count() as u64
    }

    /// Changes of the wanted size later than this, ms.
    pub fn changes_after(&self, start: u64) -> u64 {
        self.changed_at.iter().filter(|at| **at > start).count() as u64
    }

    /// The wait, in ms, that this share of the tasks stays within.
    pub fn quantile(&self, share: f64) -> u64 {
        let mut waits: Vec<u64> = self
            .waits
            .iter()
            .map(|wait| wait.unwrap_or(u64::MAX))
            .collect();
        waits.sort_unstable();
        let index = (share * waits.len() as f64).ceil() as usize;
        waits.get(index.saturating_sub(1)).copied().unwrap_or(0)
    }

    /// Adds the run of another pool.
    pub fn add(&mut self, other: &Self) {
        self.pod_ms += other.pod_ms;
        self.waits.extend(&other.waits);
        self.killed += other.killed;
        self.busy_victims += other.busy_victims;
        self.changed_at.extend(&other.changed_at);
        self.turns += other.turns;
        for (point, more) in self.points.iter_mut().zip(&other.points) {
            point.queued += more.queued;
            point.running += more.running;
            point.ready += more.ready;
            point.pods += more.pods;
        }
    }
}
