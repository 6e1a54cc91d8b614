//! A pool, its pods and what the queue says of them.

use std::sync::Arc;

use super::*;
use crate::controller::pool::observe::PodView;
use crate::controller::pool::status::tests::observed;
use crate::queue::stats::{PoolStats, WorkerStats};

/// A pool of min 1, max 8, 2 slots, that shrinks after 30 s, and what is seen of it.
pub struct Scene {
    pub o: Observed,
    pub memory: Memory,
}

impl Scene {
    pub fn new(spec: serde_json::Value) -> Self {
        let mut merged = serde_json::json!({"slotsPerWorker": 2});
        for (key, value) in spec.as_object().expect("an object") {
            merged[key] = value.clone();
        }
        Self {
            o: observed(merged),
            memory: Memory::default(),
        }
    }

    pub fn hash(&self) -> String {
        self.o.template.hash.clone()
    }

    /// A Ready worker of the current template with that many requests.
    pub fn worker(mut self, uid: &str, running: u32) -> Self {
        let hash = self.hash();
        self.add(uid, &hash, running);
        self
    }

    pub fn add(&mut self, uid: &str, hash: &str, running: u32) {
        self.o.pods.push(PodView {
            name: format!("p-{hash}-{uid}"),
            uid: uid.into(),
            hash: hash.into(),
            scheduled: true,
            ready: true,
            ..PodView::default()
        });
        self.stats().workers.push(WorkerStats {
            uid: uid.into(),
            slots: 2,
            running,
            ..WorkerStats::default()
        });
    }

    pub fn stats(&mut self) -> &mut PoolStats {
        Arc::make_mut(self.o.stats.as_mut().expect("fresh"))
    }

    pub fn demand(mut self, demand: u64) -> Self {
        let stats = self.stats();
        (stats.demand, stats.queued, stats.runnable) = (demand, demand, demand);
        self
    }

    pub fn worker_stats(&mut self, uid: &str) -> &mut WorkerStats {
        let workers = &mut self.stats().workers;
        workers.iter_mut().find(|w| w.uid == uid).expect("a worker")
    }

    pub fn pod(&mut self, uid: &str) -> &mut PodView {
        let pods = &mut self.o.pods;
        pods.iter_mut().find(|p| p.uid == uid).expect("a pod")
    }

    /// Plans, and does what the plan says as far as the queue and the API server would at once.
    pub fn visit(&mut self, second: i64) -> Plan {
        self.o.now = at(second);
        let plan = plan(&self.o, &mut self.memory);
        for uid in plan.drain.iter().chain(&plan.undrain) {
            self.memory.told.insert(uid.clone(), Instant::now());
        }
        for uid in &plan.drain {
            self.memory.draining.insert(uid.clone(), self.o.now);
            if let Some(worker) = self.stats().workers.iter_mut().find(|w| w.uid == *uid) {
                worker.draining = true;
                worker.drained = worker.running == 0;
            }
        }
        for uid in &plan.undrain {
            self.memory.draining.remove(uid);
            self.worker_stats(uid).draining = false;
        }
        self.o.asked = Some(Instant::now());
        plan
    }
}
