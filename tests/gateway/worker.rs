//! A worker whose every step a test decides.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use persona_operator::api::runtime::PLAIN_LANE;
use persona_operator::queue::NamespaceQueue;
use persona_operator::queue::heartbeat::Heartbeat;
use persona_operator::queue::listen::{Control, ControlMessage};
use persona_operator::queue::task::{Chunk, Outcome, Usage};
use persona_operator::queue::work::{Fenced, ReleaseReason, Take, Taken};
use serde_json::Value;

use crate::publish::POOL;
use crate::stage::soon;

/// Slots of a worker.
pub const SLOTS: u32 = 8;

pub struct Worker {
    queue: NamespaceQueue,
    uid: String,
    control: Control,
    /// Taken, and not yet asked for by the test.
    waiting: Mutex<VecDeque<Job>>,
    /// One reference a job.
    slots: Arc<()>,
}

impl Worker {
    /// Registers a worker of its own uid.
    pub async fn start(queue: &NamespaceQueue) -> Self {
        let uid = format!("worker-{:016x}", rand::random::<u64>());
        let worker = Self {
            control: queue.control(&uid).await.expect("listens"),
            queue: queue.clone(),
            uid,
            waiting: Mutex::default(),
            slots: Arc::default(),
        };
        let lanes = [PLAIN_LANE.to_owned()];
        let heartbeat = Heartbeat {
            worker: &worker.uid,
            instance: &worker.uid,
            pool: POOL,
            slots: SLOTS,
            leases: &[],
            running: 0,
            memory_bytes: 1,
            lanes: &lanes,
            address: "",
            lease: Duration::from_secs(60),
            loaded: &[],
            load_failures: &[],
            recycle: None,
        };
        queue.register(&heartbeat).await.expect("registers");
        worker
    }

    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The next task there is.
    pub async fn take(&self) -> Job {
        let mut bell = self.queue.bell(POOL, &[PLAIN_LANE.to_owned()]);
        let taken = async {
            loop {
                if let Some(job) = self.next() {
                    return job;
                }
                self.take_all().await;
                if self.waiting().is_empty() {
                    bell.wait(Duration::from_secs(1)).await.expect("waits");
                }
            }
        };
        soon("a task", taken).await
    }

    async fn take_all(&self) {
        let lanes = [PLAIN_LANE.to_owned()];
        let take = Take {
            pool: POOL,
            lanes: &lanes,
            worker: &self.uid,
            instance: &self.uid,
            slots_free: self.slots_free(),
            steal_from: &[],
            lease: Duration::from_secs(60),
            loaded: &[],
        };
        let answer = self.queue.take(&take).await.expect("takes");
        let jobs = answer.tasks.into_iter().map(|taken| Job {
            taken,
            queue: self.queue.clone(),
            _slot: self.slots.clone(),
        });
        self.waiting().extend(jobs);
    }

    fn slots_free(&self) -> u32 {
        let held = u32::try_from(Arc::strong_count(&self.slots)).expect("few") - 1;
        SLOTS - held
    }

    fn next(&self) -> Option<Job> {
        self.waiting().pop_front()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is told to stop a task.
    pub async fn cancelled(&mut self) -> String {
        let control = &mut self.control;
        let told = async {
            loop {
                if let ControlMessage::Cancel { task } = control.next().await {
                    return task;
                }
            }
        };
        soon("a word to cancel", told).await
    }
}

/// A task that a worker holds.
pub struct Job {
    pub taken: Taken,
    queue: NamespaceQueue,
    _slot: Arc<()>,
}

pub fn usage() -> Usage {
    Usage {
        input_tokens: 11,
        output_tokens: 7,
    }
}

impl Job {
    /// The body as the client sent it.
    pub fn request(&self) -> Value {
        self.taken.parse().expect("a payload").request
    }

    pub async fn emit(&self, chunks: &[Chunk]) -> Fenced {
        let Taken { task, fence, .. } = &self.taken;
        self.queue.emit(task, fence, chunks).await.expect("emits")
    }

    pub async fn say(&self, text: &str) {
        assert_eq!(self.emit(&[Chunk::text(text)]).await, Fenced::Accepted);
    }

    pub async fn finish(&self, outcome: &Outcome) -> Fenced {
        let Taken { task, fence, .. } = &self.taken;
        let finished = self.queue.finish(task, fence, outcome).await;
        finished.expect("finishes")
    }

    /// Ends a task that does not stream with this answer.
    pub async fn answer(&self, text: &str) {
        let outcome = Outcome::completed(Some(text.to_owned()), "stop", Some(usage()));
        assert_eq!(self.finish(&outcome).await, Fenced::Accepted);
    }

    /// Ends a streamed task.
    pub async fn end(&self) {
        let outcome = Outcome::completed(None, "stop", Some(usage()));
        assert_eq!(self.finish(&outcome).await, Fenced::Accepted);
    }

    /// Hands it back as a worker does that stops.
    pub async fn hand_back(&self) {
        let Taken { task, fence, .. } = &self.taken;
        let reason = ReleaseReason::Shutdown;
        let released = self.queue.release(task, fence, reason, Duration::ZERO);
        assert_eq!(released.await.expect("releases"), Fenced::Accepted);
    }
}
