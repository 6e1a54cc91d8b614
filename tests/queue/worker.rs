//! A worker of a test.

use std::time::Duration;

use persona_operator::queue::heartbeat::{Heartbeat, RecycleReason, Renewed};
use persona_operator::queue::work::{Fenced, ReleaseReason, Take, TakeAnswer, Taken};
use persona_operator::queue::{NamespaceQueue, QueueError};

use crate::support::{completed, ids};

/// A worker as the queue sees it.
#[derive(Clone)]
pub struct Worker {
    pub ns: NamespaceQueue,
    pub uid: String,
    pub instance: String,
    pub pool: String,
    pub slots: u32,
    pub lanes: Vec<String>,
    pub steal_from: Vec<String>,
    pub lease: Duration,
    pub loaded: Vec<String>,
    pub load_failures: Vec<(String, String)>,
    pub recycle: Option<RecycleReason>,
}

impl Worker {
    pub fn lanes(mut self, lanes: &[&str]) -> Self {
        self.lanes = lanes.iter().map(|lane| (*lane).to_owned()).collect();
        self
    }

    pub fn stealing(mut self, pools: &[&str]) -> Self {
        self.steal_from = pools.iter().map(|pool| (*pool).to_owned()).collect();
        self
    }

    /// What its model server holds.
    pub fn loaded(mut self, items: &[&str]) -> Self {
        self.loaded = items.iter().map(|item| (*item).to_owned()).collect();
        self
    }

    /// Its leases are over as soon as they are given.
    pub fn dying(mut self) -> Self {
        self.lease = Duration::ZERO;
        self
    }

    pub fn instance(mut self, instance: &str) -> Self {
        self.instance = instance.into();
        self
    }

    pub fn heartbeat<'a>(&'a self, running: u32, leases: &'a [(String, String)]) -> Heartbeat<'a> {
        Heartbeat {
            worker: &self.uid,
            instance: &self.instance,
            pool: &self.pool,
            slots: self.slots,
            leases,
            running,
            memory_bytes: 64 << 20,
            lanes: &self.lanes,
            address: "10.0.0.1:8080",
            lease: self.lease,
            loaded: &self.loaded,
            load_failures: &self.load_failures,
            recycle: self.recycle,
        }
    }

    /// Answers how many tasks of an earlier instance that freed.
    pub async fn register(&self) -> u64 {
        self.ns
            .register(&self.heartbeat(0, &[]))
            .await
            .expect("registered")
    }

    pub async fn try_take(&self, slots_free: u32) -> Result<TakeAnswer, QueueError> {
        self.ns
            .take(&Take {
                pool: &self.pool,
                lanes: &self.lanes,
                worker: &self.uid,
                instance: &self.instance,
                slots_free,
                steal_from: &self.steal_from,
                lease: self.lease,
                loaded: &self.loaded,
            })
            .await
    }

    pub async fn take(&self, slots_free: u32) -> Vec<Taken> {
        self.try_take(slots_free).await.expect("an answer").tasks
    }

    /// Takes one and insists that there was one.
    pub async fn take_one(&self) -> Taken {
        let mut tasks = self.take(1).await;
        assert_eq!(tasks.len(), 1, "nothing to take for {}", self.uid);
        tasks.remove(0)
    }

    /// Insists on the ids that it takes.
    pub async fn takes(&self, slots_free: u32, expected: &[&str]) -> Vec<Taken> {
        let tasks = self.take(slots_free).await;
        assert_eq!(ids(&tasks), expected, "taken by {}", self.uid);
        tasks
    }

    pub async fn renew(&self, tasks: &[&Taken]) -> Result<Renewed, QueueError> {
        let leases: Vec<_> = tasks
            .iter()
            .map(|task| (task.task.clone(), task.fence.clone()))
            .collect();
        let running = u32::try_from(leases.len()).expect("few");
        self.ns.renew(&self.heartbeat(running, &leases)).await
    }

    pub async fn try_finish(&self, task: &Taken) -> Fenced {
        self.ns
            .finish(&task.task, &task.fence, &completed())
            .await
            .expect("an answer")
    }

    pub async fn finish(&self, task: &Taken) {
        assert_eq!(self.try_finish(task).await, Fenced::Accepted);
    }

    pub async fn release(&self, task: &Taken, reason: ReleaseReason, not_before: Duration) {
        let answer = self
            .ns
            .release(&task.task, &task.fence, reason, not_before)
            .await
            .expect("an answer");
        assert_eq!(answer, Fenced::Accepted);
    }
}
