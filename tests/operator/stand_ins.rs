//! Stand-ins for workers, on the pods that fake nodes declare Ready: they register, wait for the bell,
//! take, run, renew, finish and drain in the queue as a worker does, and only sleep where it would ask a
//! model. A pod's end is the end of its stand-in, as SIGKILL is a worker's: what it ran then was killed.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use persona_operator::api::runtime::PLAIN_LANE;
use persona_operator::queue::heartbeat::{Heartbeat, RENEW_EVERY};
use persona_operator::queue::listen::Bell;
use persona_operator::queue::task::Outcome;
use persona_operator::queue::work::{Fenced, LEASE, Take, Taken};
use persona_operator::queue::{NamespaceQueue, QueueError};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait at the bell: a token can get lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than a tick of Redis' clock: the controller waits for a heartbeat newer than the drain.
const TICK: Duration = Duration::from_millis(2);

/// What all stand-ins saw.
#[derive(Default)]
pub struct Seen {
    /// How often each task was begun.
    begun: Mutex<HashMap<String, u32>>,
    /// How often each task's end was accepted.
    finished: Mutex<HashMap<String, u32>>,
    /// Tasks that ran on a worker when its pod was deleted.
    killed: Mutex<BTreeSet<String>>,
    /// The pod that runs a task now.
    running: Mutex<HashMap<String, String>>,
    /// Workers whose pods were deleted.
    pub removed: AtomicUsize,
    /// Workers that ran something when they were told to drain.
    pub drained_busy: AtomicUsize,
    /// Workers that were called back from draining.
    pub called_back: AtomicUsize,
    /// Calls to the queue that failed.
    pub failures: AtomicUsize,
    /// A worker was removed or told to drain, or a task began or ended.
    pub news: Notify,
}

impl Seen {
    /// How often each task was begun, and how often its end was accepted.
    pub fn of(&self, task: &str) -> (u32, u32) {
        let times =
            |book: &Mutex<HashMap<String, u32>>| lock(book).get(task).copied().unwrap_or_default();
        (times(&self.begun), times(&self.finished))
    }

    /// Tasks whose end was accepted.
    pub fn finished(&self) -> usize {
        lock(&self.finished).len()
    }

    /// Tasks that were killed with their worker.
    pub fn killed(&self) -> Vec<String> {
        lock(&self.killed).iter().cloned().collect()
    }

    /// The pod whose worker runs this task now.
    pub fn pod_of(&self, task: &str) -> Option<String> {
        lock(&self.running).get(task).cloned()
    }

    /// The pod runs this task no more; another one may by now.
    fn ends(&self, task: &str, pod: &str) {
        let mut running = lock(&self.running);
        if running.get(task).is_some_and(|by| by == pod) {
            running.remove(task);
        }
    }

    /// What `find` finds, as soon as it does.
    pub async fn until<T>(&self, find: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if let Some(found) = find(self) {
                return found;
            }
            news.await;
        }
    }
}

/// Stand-ins for all workers of a pool, until dropped.
pub struct StandIns {
    pub seen: Arc<Seen>,
    _stop: DropGuard,
}

impl StandIns {
    /// Plays the workers of `pool` from now on.
    pub async fn play(
        queue: NamespaceQueue,
        pods: Api<Pod>,
        pool: &str,
        slots: u32,
    ) -> Result<Self> {
        let seen = Arc::new(Seen::default());
        let stop = CancellationToken::new();
        let config = watcher::Config::default().labels(&format!("persona.dev/pool={pool}"));
        let mut events = watcher(pods, config).boxed();
        let first = events.next().await.context("the watch ended")??;
        debug_assert!(matches!(first, Event::Init));
        let stage = Stage {
            queue,
            pool: pool.to_owned(),
            slots,
            seen: seen.clone(),
        };
        let stopped = stop.clone();
        tokio::spawn(async move {
            let mut playing: HashMap<String, CancellationToken> = HashMap::new();
            loop {
                let event = tokio::select! {
                    () = stopped.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => {
                        stage.see(&pod, &mut playing, &stopped);
                    }
                    Some(Ok(Event::Delete(pod))) => end(&pod, &mut playing),
                    Some(_) => {}
                    None => return,
                }
            }
        });
        Ok(Self {
            seen,
            _stop: stop.drop_guard(),
        })
    }
}

fn end(pod: &Pod, playing: &mut HashMap<String, CancellationToken>) {
    if let Some(gone) = playing.remove(&pod.uid().unwrap_or_default()) {
        gone.cancel();
    }
}

/// What a stand-in needs to know.
struct Stage {
    queue: NamespaceQueue,
    pool: String,
    slots: u32,
    seen: Arc<Seen>,
}

impl Stage {
    fn see(
        &self,
        pod: &Pod,
        playing: &mut HashMap<String, CancellationToken>,
        stopped: &CancellationToken,
    ) {
        let uid = pod.uid().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            return end(pod, playing);
        }
        if !is_ready(pod) || playing.contains_key(&uid) {
            return;
        }
        let gone = CancellationToken::new();
        playing.insert(uid.clone(), gone.clone());
        let worker = Arc::new(StandIn {
            queue: self.queue.clone(),
            seen: self.seen.clone(),
            pool: self.pool.clone(),
            slots: self.slots,
            pod: pod.name_any(),
            uid,
            instance: format!("{:032x}", rand::random::<u128>()),
            lanes: vec![PLAIN_LANE.to_owned()],
            leases: Mutex::default(),
            draining: watch::Sender::new(false),
            beat: Notify::new(),
        });
        let stopped = stopped.clone();
        tokio::spawn(async move {
            let work = async { tokio::join!(worker.heartbeats(), worker.hear(), worker.work()) };
            tokio::select! {
                _ = work => {}
                () = stopped.cancelled() => {}
                () = gone.cancelled() => worker.was_deleted(),
            }
        });
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

struct StandIn {
    queue: NamespaceQueue,
    seen: Arc<Seen>,
    pool: String,
    slots: u32,
    pod: String,
    uid: String,
    instance: String,
    lanes: Vec<String>,
    /// Task and fence of what it runs.
    leases: Mutex<Vec<(String, String)>>,
    draining: watch::Sender<bool>,
    beat: Notify,
}

impl StandIn {
    /// Registers, then renews every 5 s, and whenever there is a reason to.
    async fn heartbeats(&self) {
        while self.register().await.is_err() {
            self.pause().await;
        }
        loop {
            match self.renew().await {
                Ok(true) => tokio::time::sleep(TICK).await,
                Ok(false) => tokio::select! {
                    () = self.beat.notified() => {}
                    () = tokio::time::sleep(RENEW_EVERY) => {}
                },
                Err(_) => self.pause().await,
            }
        }
    }

    async fn register(&self) -> Result<(), QueueError> {
        self.queue.register(&self.describe(&[])).await.map(drop)
    }

    /// Whether draining has begun with this.
    async fn renew(&self) -> Result<bool, QueueError> {
        let leases = lock(&self.leases).clone();
        let renewed = self.queue.renew(&self.describe(&leases)).await?;
        let was = self.draining.send_replace(renewed.draining);
        if renewed.draining && !was && !leases.is_empty() {
            self.seen.drained_busy.fetch_add(1, Ordering::Relaxed);
            self.seen.news.notify_waiters();
        }
        if was && !renewed.draining {
            self.seen.called_back.fetch_add(1, Ordering::Relaxed);
        }
        Ok(renewed.draining && !was)
    }

    fn describe<'a>(&'a self, leases: &'a [(String, String)]) -> Heartbeat<'a> {
        Heartbeat {
            loaded: &[],
            load_failures: &[],
            recycle: None,
            worker: &self.uid,
            instance: &self.instance,
            pool: &self.pool,
            slots: self.slots,
            leases,
            running: u32::try_from(leases.len()).unwrap_or(u32::MAX),
            memory_bytes: 0,
            lanes: &self.lanes,
            address: "127.0.0.1:9",
            lease: LEASE,
        }
    }

    /// Hears of draining.
    async fn hear(&self) {
        loop {
            let Ok(mut control) = self.queue.control(&self.uid).await else {
                self.pause().await;
                continue;
            };
            self.beat.notify_one();
            loop {
                control.next().await;
                self.beat.notify_one();
            }
        }
    }

    /// Takes and runs.
    async fn work(&self) {
        let mut running = FuturesUnordered::new();
        let mut draining = self.draining.subscribe();
        let mut ringing: Option<BoxFuture<'static, bool>> = None;
        loop {
            let is_draining = *draining.borrow_and_update();
            let free = usize::try_from(self.slots).unwrap_or(0) - running.len();
            let mut listens = false;
            if free > 0 && !is_draining {
                match self.take(free).await {
                    Ok(taken) => running.extend(taken.into_iter().map(|task| self.run(task))),
                    Err(_) => self.pause().await,
                }
                listens = running.len() < usize::try_from(self.slots).unwrap_or(0);
            }
            if listens {
                ringing.get_or_insert_with(|| {
                    let mut bell: Bell = self.queue.bell(&self.pool, &self.lanes);
                    Box::pin(async move { bell.wait(PATIENCE).await.is_ok() })
                });
            } else {
                // Given up, so that Redis hands no token to somebody who has no slot.
                ringing = None;
            }
            tokio::select! {
                Some(()) = running.next(), if !running.is_empty() => {}
                Ok(()) = draining.changed() => {}
                well = async { ringing.as_mut().expect("checked").await }, if ringing.is_some() => {
                    ringing = None;
                    if !well {
                        self.pause().await;
                    }
                }
            }
            if *self.draining.borrow() {
                // The controller waits for the last one to end.
                self.beat.notify_one();
            }
        }
    }

    async fn take(&self, free: usize) -> Result<Vec<Taken>, QueueError> {
        let answer = self
            .queue
            .take(&Take {
                loaded: &[],
                pool: &self.pool,
                lanes: &self.lanes,
                worker: &self.uid,
                instance: &self.instance,
                slots_free: u32::try_from(free).unwrap_or(0),
                steal_from: &[],
                lease: LEASE,
            })
            .await?;
        if answer.draining {
            self.beat.notify_one();
        }
        let mut leases = lock(&self.leases);
        for taken in &answer.tasks {
            leases.push((taken.task.clone(), taken.fence.clone()));
            lock(&self.seen.running).insert(taken.task.clone(), self.pod.clone());
            if taken.attempt > 1 {
                // Killed on its way to another worker, which therefore could not say so.
                lock(&self.seen.killed).insert(taken.task.clone());
            }
            *lock(&self.seen.begun)
                .entry(taken.task.clone())
                .or_default() += 1;
        }
        self.seen.news.notify_waiters();
        Ok(answer.tasks)
    }

    /// "Asks the model" for as long as the request says, then ends the task.
    async fn run(&self, taken: Taken) {
        let request: Value = serde_json::from_str(&taken.payload).unwrap_or_default();
        let time = request["request"]["milliseconds"].as_u64().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(time)).await;
        let outcome = Outcome::completed(Some("done".into()), "stop", None);
        loop {
            match self.queue.finish(&taken.task, &taken.fence, &outcome).await {
                Ok(Fenced::Accepted) => {
                    *lock(&self.seen.finished)
                        .entry(taken.task.clone())
                        .or_default() += 1;
                    break;
                }
                Ok(Fenced::Lost) => break,
                Err(_) => self.pause().await,
            }
        }
        let mut leases = lock(&self.leases);
        leases.retain(|(task, _)| *task != taken.task);
        self.seen.ends(&taken.task, &self.pod);
        self.seen.news.notify_waiters();
    }

    fn was_deleted(&self) {
        for (task, _) in std::mem::take(&mut *lock(&self.leases)) {
            self.seen.ends(&task, &self.pod);
            lock(&self.seen.killed).insert(task);
        }
        self.seen.removed.fetch_add(1, Ordering::Relaxed);
        self.seen.news.notify_waiters();
    }

    async fn pause(&self) {
        self.seen.failures.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..200))).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
