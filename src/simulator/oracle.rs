//! Who knows what will come: the measure for pod-seconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::outcome::{Outcome, Point};
use super::trace::Trace;
use super::world::Pool;

struct Pod {
    /// From when it is paid for: one lead before it was needed.
    from: u64,
    ready: u64,
    running: u32,
    /// Since when it is idle.
    idle: u64,
    gone: bool,
}

/// Plays the trace with pods that are ready at the very moment at which a task would begin to wait
/// longer than it may, created one lead before, and that go when they were idle for idleTimeout, as
/// late in the order as possible, so that tasks crowd on few. Same slots, lead, target wait and idle
/// window as everybody.
pub fn oracle(trace: &Trace, pool: Pool) -> Outcome {
    let mut run = Run {
        pool,
        pods: (0..pool.min).map(|_| fresh(0, 0)).collect(),
        outcome: Outcome::new(trace),
        waiting: VecDeque::new(),
        ends: BinaryHeap::new(),
    };
    run.outcome.sized(0, pool.min);
    let (mut coming, mut clock) = (0, 0);
    loop {
        let arrival = trace.jobs.get(coming).map(|job| job.at);
        let end = run.ends.peek().map(|Reverse((at, _))| *at);
        let head = run.waiting.front().filter(|_| run.may_create());
        let deadline = head.map(|job| trace.jobs[*job].at + pool.target_wait);
        let Some(next) = [arrival, end, deadline].into_iter().flatten().min() else {
            break;
        };
        let now = next.max(clock);
        clock = now;
        run.retire(now);
        if end == Some(next) {
            run.finish(now);
        } else if arrival == Some(next) {
            run.waiting.push_back(coming);
            coming += 1;
        } else {
            run.create(now);
        }
        run.begin(now, trace);
    }
    run.close(trace)
}

const fn fresh(from: u64, ready: u64) -> Pod {
    Pod {
        from,
        ready,
        running: 0,
        idle: ready,
        gone: false,
    }
}

struct Run {
    pool: Pool,
    pods: Vec<Pod>,
    outcome: Outcome,
    waiting: VecDeque<usize>,
    ends: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Run {
    /// Pods above the minimum that were idle for too long are gone since then.
    fn retire(&mut self, now: u64) {
        let min = self.pool.min as usize;
        for pod in self.pods.iter_mut().skip(min) {
            if !pod.gone && pod.running == 0 && pod.idle + self.pool.idle_timeout <= now {
                pod.gone = true;
            }
        }
    }

    fn there(&self) -> usize {
        self.pods.iter().filter(|pod| !pod.gone).count()
    }

    fn may_create(&self) -> bool {
        self.there() < self.pool.max as usize
    }

    fn create(&mut self, now: u64) {
        self.pods
            .push(fresh(now.saturating_sub(self.pool.lead), now));
        let there = u32::try_from(self.there()).unwrap_or(u32::MAX);
        self.outcome.sized(now, there);
    }

    fn begin(&mut self, now: u64, trace: &Trace) {
        while let Some(job) = self.waiting.front().copied() {
            let slots = self.pool.slots;
            let free = self
                .pods
                .iter()
                .position(|pod| !pod.gone && pod.running < slots);
            let Some(place) = free else { return };
            self.waiting.pop_front();
            self.pods[place].running += 1;
            self.outcome.began(job, now - trace.jobs[job].at);
            self.ends
                .push(Reverse((now + trace.jobs[job].service, place)));
        }
    }

    fn finish(&mut self, now: u64) {
        if let Some(Reverse((_, place))) = self.ends.pop() {
            let pod = &mut self.pods[place];
            pod.running -= 1;
            pod.idle = now;
        }
    }

    /// Adds up; a pod is there from its creation until it was idle for idleTimeout.
    fn close(mut self, trace: &Trace) -> Outcome {
        let min = self.pool.min as usize;
        let lives: Vec<(u64, u64, u64)> = self
            .pods
            .iter()
            .enumerate()
            .map(|(place, pod)| {
                let until = if place < min {
                    trace.ends
                } else {
                    pod.idle + self.pool.idle_timeout
                };
                (pod.from, pod.ready, until.min(trace.ends))
            })
            .collect();
        self.outcome.pod_ms = lives
            .iter()
            .map(|(from, _, until)| until.saturating_sub(*from))
            .sum();
        for at in (0..=trace.ends).step_by(1000) {
            let count = |from: fn(&(u64, u64, u64)) -> u64| {
                lives
                    .iter()
                    .filter(|life| from(life) <= at && at < life.2)
                    .count() as u64
            };
            self.outcome.points.push(Point {
                at,
                ready: count(|life| life.1),
                pods: count(|life| life.0),
                ..Point::default()
            });
        }
        self.outcome
    }
}
