//! Our own policy: the very planner of the controller, on virtual time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::world::{Policy, Pool, World};
use crate::api::{Span, WorkerPool, WorkerPoolSpec};
use crate::controller::pool::observe::{Observed, PodView};
use crate::controller::pool::plan::{Memory, plan};
use crate::controller::pool::template::{Setup, template};
use crate::queue::stats::{PoolStats, WorkerStats};

/// Time between two looks at a pool where something goes on, and where nothing does (as in the
/// controller's observer).
const TICKS: (u64, u64) = (250, 5000);
/// From a task that finds no free slot to the controller's look.
const DOORBELL: u64 = 20;
/// The longest timeout of the personas.
const DRAIN_TIMEOUT: Span = Span::secs(600);

/// The controller of one pool.
pub struct Ours {
    observed: Observed,
    memory: Memory,
    names: HashMap<u64, String>,
    /// The sentences of all decisions that changed the size.
    pub said: Vec<String>,
}

impl Ours {
    /// A controller that starts with the trace.
    pub fn new(pool: Pool) -> Self {
        let spec = WorkerPoolSpec {
            min_replicas: pool.min,
            max_replicas: pool.max,
            slots_per_worker: pool.slots,
            idle_timeout: Span::millis(pool.idle_timeout),
            scaling: crate::api::Scaling {
                target_wait: Span::millis(pool.target_wait),
                ..crate::api::Scaling::default()
            },
            ..WorkerPoolSpec::default()
        };
        let mut object = WorkerPool::new("pool", spec);
        object.metadata.namespace = Some("simulation".to_owned());
        let setup = Setup {
            image: "worker",
            pull_policy: "IfNotPresent",
            queue_url: "redis://redis",
            queue_prefix: "persona",
            credentials: &BTreeSet::new(),
            drain_timeout: DRAIN_TIMEOUT,
            serving: None,
        };
        Self {
            observed: Observed {
                now: Timestamp::UNIX_EPOCH,
                template: template(&object, &setup),
                drain_timeout: DRAIN_TIMEOUT,
                pods: Vec::new(),
                concurrency: None,
                external: Vec::new(),
                asked: None,
                is_old: false,
                holds_still: false,
                under_way: BTreeSet::new(),
                others: BTreeSet::new(),
                largest_gpu: None,
                stats: Err("not read yet".to_owned()),
                pool: Arc::new(object),
            },
            memory: Memory::default(),
            names: HashMap::new(),
            said: Vec::new(),
        }
    }

    fn look(&mut self, world: &World) {
        let hash = &self.observed.template.hash;
        let view = |(number, pod): (&u64, &super::world::Pod)| {
            let ready = pod.ready(world.now);
            PodView {
                name: self
                    .names
                    .get(number)
                    .cloned()
                    .unwrap_or_else(|| format!("first-{number}")),
                uid: number.to_string(),
                hash: hash.clone(),
                scheduled: true,
                created: Some(timestamp(pod.created)),
                ready,
                ready_after: (ready && pod.ready_at > 0)
                    .then(|| Duration::from_millis(pod.ready_at - pod.created)),
                ..PodView::default()
            }
        };
        let pods: Vec<_> = world.pods.iter().map(view).collect();
        let worker = |(number, pod): (&u64, &super::world::Pod)| {
            let running = u32::try_from(pod.running.len()).unwrap_or(u32::MAX);
            WorkerStats {
                uid: number.to_string(),
                slots: world.pool.slots,
                running,
                reported_running: running,
                draining: !pod.takes,
                drained: !pod.takes && running == 0,
                ..WorkerStats::default()
            }
        };
        let ready = world.pods.iter().filter(|(_, pod)| pod.ready(world.now));
        let queued = world.queue.len() as u64;
        let stats = PoolStats {
            open: true,
            epoch: Some("0".to_owned()),
            at_ms: world.now + 1,
            demand: queued + world.running(),
            queued,
            runnable: queued,
            running: world.running(),
            oldest_wait_ms: world.oldest_wait(),
            arrived: world.arrived,
            completed: world.completed,
            service_sum_ms: world.service_sum,
            workers: ready.map(worker).collect(),
            ..PoolStats::default()
        };
        self.observed.now = timestamp(world.now);
        self.observed.pods = pods;
        self.observed.stats = Ok(Arc::new(stats));
    }
}

impl Policy for Ours {
    fn visit(&mut self, world: &mut World) -> u64 {
        self.look(world);
        let before = self.memory.size.as_ref().map(crate::scaling::Memory::size);
        let plan = plan(&self.observed, &mut self.memory);
        let size = plan.decision.size;
        if let Some(before) = before.filter(|before| *before != size) {
            let second = world.now as f64 / 1000.0;
            self.said.push(format!(
                "{second:.1} s: {before} -> {size}: {}",
                plan.decision.reason
            ));
        }
        world.sized(size);
        let number = |uid: &str| uid.parse().unwrap_or(0);
        for uid in &plan.undrain {
            self.memory.draining.remove(uid);
            world.drain(number(uid), false);
        }
        for uid in &plan.drain {
            self.memory.draining.insert(uid.clone(), self.observed.now);
            world.drain(number(uid), true);
        }
        for name in &plan.create {
            let created = world.create();
            self.names.insert(created, name.clone());
        }
        for removal in &plan.delete {
            world.remove(number(&removal.uid));
        }
        let changed = !plan.drain.is_empty() || !plan.create.is_empty() || !plan.undrain.is_empty();
        let active = !world.queue.is_empty() || world.running() > 0 || changed;
        let tick = world.now + if active { TICKS.0 } else { TICKS.1 };
        let again = plan
            .again_at
            .and_then(|at| u64::try_from(at.as_millisecond()).ok());
        again.map_or(tick, |again| tick.min(again.max(world.now + DOORBELL)))
    }

    fn hears(&self) -> Option<u64> {
        Some(DOORBELL)
    }
}

fn timestamp(ms: u64) -> Timestamp {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}
