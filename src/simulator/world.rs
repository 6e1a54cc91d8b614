//! A queue and its worker pods on virtual time. Times are ms.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::outcome::{Outcome, Point};
use super::trace::{Job, Trace};

/// What a pool is like.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Tasks a worker runs at once.
    pub slots: u32,
    /// Fewest workers.
    pub min: u32,
    /// Most workers.
    pub max: u32,
    /// From the creation of a pod until it is ready, ms; each differs by a fifth at most.
    pub lead: u64,
    /// How long a task may wait, ms.
    pub target_wait: u64,
    /// How long a worker may be idle, ms.
    pub idle_timeout: u64,
}

/// Who decides how many pods there are.
pub trait Policy {
    /// Looks, acts, and says when it looks next.
    fn visit(&mut self, world: &mut World) -> u64;

    /// How soon it looks after a task came for which no slot is free; none = it does not hear.
    fn hears(&self) -> Option<u64> {
        None
    }
}

/// A worker pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// When it was created.
    pub created: u64,
    /// When it is ready.
    pub ready_at: u64,
    /// Takes tasks once ready; a pod that drains or terminates takes none.
    pub takes: bool,
    /// It was deleted and ends when its tasks have, or at this time.
    pub terminates: Option<u64>,
    /// Tasks that it runs.
    pub running: Vec<usize>,
}

impl Pod {
    /// It can take tasks as far as its start goes.
    pub const fn ready(&self, now: u64) -> bool {
        self.ready_at <= now
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ready(u64),
    Finish { pod: u64, job: usize },
    Kill(u64),
}

/// The queue, the pods and the clock.
pub struct World {
    /// The clock.
    pub now: u64,
    /// What the pool is like.
    pub pool: Pool,
    /// Pods by number.
    pub pods: BTreeMap<u64, Pod>,
    /// Waiting tasks.
    pub queue: VecDeque<usize>,
    /// Tasks that came.
    pub arrived: u64,
    /// Tasks that were completed.
    pub completed: u64,
    /// Sum of their times.
    pub service_sum: u64,
    jobs: Vec<Job>,
    /// One entry a free slot, the longest idle first.
    idle: VecDeque<u64>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    rng: StdRng,
    outcome: Outcome,
    ends: u64,
}

/// Runs a trace against a policy.
pub fn run(trace: &Trace, pool: Pool, policy: &mut dyn Policy, seed: u64) -> Outcome {
    let mut world = World::new(trace, pool, seed);
    let mut visit = 0;
    let mut sample = 0;
    let mut coming = 0;
    // Tasks that still run or wait after the end are let finish, within reason.
    let last = trace.ends + 3_600_000;
    while world.now < last {
        let arrival = trace.jobs.get(coming).map(|job| job.at);
        let event = world.events.peek().map(|Reverse((at, ..))| *at);
        let next = [arrival, event, Some(visit)].into_iter().flatten().min();
        let Some(next) = next else { break };
        while sample <= next && sample <= trace.ends {
            world.sample(sample);
            sample += 1000;
        }
        world.now = next.max(world.now);
        if world.now > trace.ends && world.queue.is_empty() && world.is_quiet() {
            break;
        }
        if event == Some(next) {
            world.happen();
        } else if arrival == Some(next) {
            let served = world.arrive(coming);
            coming += 1;
            if let (false, Some(soon)) = (served, policy.hears()) {
                visit = visit.min(world.now + soon);
            }
        } else {
            visit = policy.visit(&mut world).max(world.now + 1);
        }
    }
    world.finish()
}

impl World {
    fn new(trace: &Trace, pool: Pool, seed: u64) -> Self {
        let mut world = Self {
            now: 0,
            pool,
            pods: BTreeMap::new(),
            queue: VecDeque::new(),
            arrived: 0,
            completed: 0,
            service_sum: 0,
            jobs: trace.jobs.clone(),
            idle: VecDeque::new(),
            events: BinaryHeap::new(),
            count: 0,
            rng: StdRng::seed_from_u64(seed),
            outcome: Outcome::new(trace),
            ends: trace.ends,
        };
        for _ in 0..pool.min {
            world.create_ready_at(0);
        }
        world.outcome.sized(0, pool.min);
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    /// The policy wants so many pods.
    pub fn sized(&mut self, size: u32) {
        if self.now <= self.ends {
            self.outcome.sized(self.now, size);
        }
    }

    /// Creates a pod.
    pub fn create(&mut self) -> u64 {
        let lead = self.pool.lead as f64 * self.rng.random_range(0.8..1.2);
        self.create_ready_at(self.now + lead as u64)
    }

    fn create_ready_at(&mut self, ready_at: u64) -> u64 {
        self.count += 1;
        let number = self.count;
        self.pods.insert(
            number,
            Pod {
                created: self.now,
                ready_at,
                takes: true,
                terminates: None,
                running: Vec::new(),
            },
        );
        self.at(ready_at, Event::Ready(number));
        number
    }

    /// The pod takes no more tasks, or takes again.
    pub fn drain(&mut self, number: u64, on: bool) {
        let slots = self.pool.slots as usize;
        let Some(pod) = self.pods.get_mut(&number) else {
            return;
        };
        if pod.takes != on {
            return;
        }
        pod.takes = !on;
        self.idle.retain(|idle| *idle != number);
        if !on && pod.ready(self.now) {
            let free = slots.saturating_sub(pod.running.len());
            self.idle.extend(std::iter::repeat_n(number, free));
            self.hand_out();
        }
    }

    /// Deletes a pod at once; what it runs is begun anew by another.
    pub fn remove(&mut self, number: u64) {
        self.idle.retain(|idle| *idle != number);
        if let Some(pod) = self.pods.remove(&number) {
            self.bill(&pod);
            for job in pod.running {
                self.outcome.killed += 1;
                self.queue.push_front(job);
            }
            self.hand_out();
        }
    }

    /// Deletes a pod that finishes what it runs, within so much time.
    pub fn terminate(&mut self, number: u64, grace: u64) {
        self.drain(number, true);
        let until = self.now + grace;
        let Some(pod) = self.pods.get_mut(&number) else {
            return;
        };
        if pod.running.is_empty() {
            self.remove(number);
        } else if pod.terminates.is_none() {
            pod.terminates = Some(until);
            self.outcome.busy_victims += 1;
            self.at(until, Event::Kill(number));
        }
    }

    /// Tasks that run.
    pub fn running(&self) -> u64 {
        self.pods.values().map(|pod| pod.running.len() as u64).sum()
    }

    /// How long the oldest waiting task waits.
    pub fn oldest_wait(&self) -> u64 {
        self.queue
            .front()
            .map_or(0, |job| self.now - self.jobs[*job].at)
    }

    /// One of several, at random.
    pub fn pick(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count.max(1))
    }

    fn is_quiet(&self) -> bool {
        self.pods.values().all(|pod| pod.running.is_empty())
    }

    /// True if the task found a free slot.
    fn arrive(&mut self, job: usize) -> bool {
        self.arrived += 1;
        self.queue.push_back(job);
        self.hand_out();
        self.queue.is_empty()
    }

    fn hand_out(&mut self) {
        while let (Some(job), Some(number)) =
            (self.queue.front().copied(), self.idle.front().copied())
        {
            self.queue.pop_front();
            self.idle.pop_front();
            if let Some(pod) = self.pods.get_mut(&number) {
                pod.running.push(job);
                self.outcome.began(job, self.now - self.jobs[job].at);
                self.at(
                    self.now + self.jobs[job].service,
                    Event::Finish { pod: number, job },
                );
            }
        }
    }

    fn happen(&mut self) {
        let Some(Reverse((_, _, event))) = self.events.pop() else {
            return;
        };
        match event {
            Event::Ready(number) => {
                let slots = self.pool.slots as usize;
                if self.pods.get(&number).is_some_and(|pod| pod.takes) {
                    self.idle.extend(std::iter::repeat_n(number, slots));
                }
            }
            Event::Finish { pod: number, job } => {
                let Some(pod) = self.pods.get_mut(&number) else {
                    return;
                };
                let Some(place) = pod.running.iter().position(|running| *running == job) else {
                    return;
                };
                pod.running.swap_remove(place);
                let (takes, ends) = (
                    pod.takes,
                    pod.terminates.is_some() && pod.running.is_empty(),
                );
                self.completed += 1;
                self.service_sum += self.jobs[job].service;
                if takes {
                    self.idle.push_back(number);
                }
                if ends {
                    self.remove(number);
                }
            }
            Event::Kill(number) => {
                if self.pods.contains_key(&number) {
                    self.remove(number);
                }
            }
        }
        self.hand_out();
    }

    fn bill(&mut self, pod: &Pod) {
        let until = self.now.min(self.ends);
        self.outcome.pod_ms += until.saturating_sub(pod.created);
    }

    fn sample(&mut self, at: u64) {
        let ready = self.pods.values().filter(|pod| pod.ready(at) && pod.takes);
        let point = Point {
            at,
            queued: self.queue.len() as u64,
            running: self.running(),
            ready: ready.count() as u64,
            pods: self.pods.len() as u64,
        };
        self.outcome.points.push(point);
    }

    fn finish(mut self) -> Outcome {
        let pods: Vec<Pod> = self.pods.values().cloned().collect();
        for pod in &pods {
            self.bill(pod);
        }
        self.outcome
    }
}
