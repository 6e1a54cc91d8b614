//! Streams: the first piece of an answer goes out at once, then one call every 20 ms carries what all
//! tasks have. Emissions are numbered, so that they are sent again until Redis has answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::BACKOFF;
use super::answer::{append, size};
use super::link::Link;
use super::roster::{Roster, Stop};
use crate::lock::lock;
use crate::provider::Delta;
use crate::queue::QueueError;
use crate::queue::listen::pause;
use crate::queue::task::Chunk;
use crate::queue::work::{Emission, Fenced, Taken};

/// Time between two emissions.
const EVERY: Duration = Duration::from_millis(20);
/// Bytes of a task that wait for Redis; its provider is read on when there are fewer.
const WAITING_BYTES: usize = 1 << 20;

/// What of one task is on its way.
#[derive(Default)]
struct Buffer {
    task: String,
    waiting: Vec<Chunk>,
    waiting_bytes: usize,
    /// Sent, and not answered yet.
    sending: Option<Arc<Vec<Chunk>>>,
    /// Emissions of this attempt, the one in `sending` included.
    number: u64,
    /// Not to wait for the next beat: the first piece, or the last.
    urgent: bool,
}

impl Buffer {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sending.is_none()
    }

    /// What to send now, if anything: again what was not answered, else what has come since.
    fn next(&mut self) -> Option<(u64, Arc<Vec<Chunk>>)> {
        if self.sending.is_none() && !self.waiting.is_empty() {
            self.sending = Some(Arc::new(std::mem::take(&mut self.waiting)));
            self.waiting_bytes = 0;
            self.number += 1;
            self.urgent = false;
        }
        self.sending.clone().map(|chunks| (self.number, chunks))
    }
}

/// All streams of the worker.
pub struct Emitter {
    roster: Arc<Roster>,
    /// By fence.
    buffers: Mutex<HashMap<String, Buffer>>,
    wake: Notify,
    /// Tells after each answer of Redis.
    rounds: watch::Sender<()>,
}

/// When to send.
enum Due {
    Never,
    AtTheNextBeat,
    Now,
}

impl Emitter {
    /// The streams of the tasks in `roster`.
    pub fn new(roster: Arc<Roster>) -> Self {
        Self {
            roster,
            buffers: Mutex::default(),
            wake: Notify::new(),
            rounds: watch::Sender::default(),
        }
    }

    /// Opens the stream of a task, until it is dropped.
    pub fn open(self: &Arc<Self>, taken: &Taken) -> Stream {
        let buffer = Buffer {
            task: taken.task.clone(),
            ..Buffer::default()
        };
        self.lock().insert(taken.fence.clone(), buffer);
        Stream {
            emitter: self.clone(),
            fence: taken.fence.clone(),
            begun: false,
        }
    }

    /// Sends what the streams hold, for ever.
    pub async fn run(&self, link: &Link) {
        let mut beat = Instant::now();
        let mut failures = 0;
        loop {
            match self.due() {
                Due::Now => {}
                Due::Never => {
                    self.wake.notified().await;
                    continue;
                }
                Due::AtTheNextBeat => tokio::select! {
                    () = sleep_until(beat) => {}
                    () = self.wake.notified() => continue,
                },
            }
            beat = Instant::now() + EVERY;
            let result = self.send(link).await;
            link.note(&result);
            if result.is_ok() {
                failures = 0;
            } else {
                failures += 1;
                sleep(pause(BACKOFF, failures)).await;
            }
        }
    }

    fn due(&self) -> Due {
        let buffers = self.lock();
        if buffers
            .values()
            .any(|buffer| buffer.urgent || buffer.sending.is_some())
        {
            Due::Now
        } else if buffers.values().any(|buffer| !buffer.waiting.is_empty()) {
            Due::AtTheNextBeat
        } else {
            Due::Never
        }
    }

    async fn send(&self, link: &Link) -> Result<(), QueueError> {
        let batch: Vec<_> = self
            .lock()
            .iter_mut()
            .filter_map(|(fence, buffer)| {
                let (number, chunks) = buffer.next()?;
                Some((fence.clone(), buffer.task.clone(), number, chunks))
            })
            .collect();
        let emissions: Vec<_> = batch
            .iter()
            .map(|(fence, task, number, chunks)| {
                let emission = Emission {
                    task,
                    fence,
                    chunks,
                };
                (emission, *number)
            })
            .collect();
        let answers = link.queue().emit_numbered(&emissions).await?;
        for ((fence, ..), answer) in batch.iter().zip(answers) {
            if answer == Fenced::Lost {
                self.roster.stop(fence, Stop::Lost);
            }
            if let Some(buffer) = self.lock().get_mut(fence) {
                buffer.sending = None;
            }
        }
        self.rounds.send_replace(());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Buffer>> {
        lock(&self.buffers)
    }

    /// Waits until the stream's buffer is as asked; a stream that was closed is.
    async fn until(&self, fence: &str, good: impl Fn(&Buffer) -> bool) {
        let mut rounds = self.rounds.subscribe();
        loop {
            rounds.mark_unchanged();
            if self.lock().get(fence).is_none_or(&good) {
                return;
            }
            if rounds.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The stream of one task.
pub struct Stream {
    emitter: Arc<Emitter>,
    fence: String,
    begun: bool,
}

impl Stream {
    /// Appends a piece. Waits while too much is on its way already.
    pub async fn push(&mut self, delta: Delta) {
        self.emitter
            .until(&self.fence, |buffer| buffer.waiting_bytes < WAITING_BYTES)
            .await;
        let mut buffers = self.emitter.lock();
        let Some(buffer) = buffers.get_mut(&self.fence) else {
            return;
        };
        buffer.waiting_bytes += size(&delta);
        let was_empty = buffer.waiting.is_empty();
        append(&mut buffer.waiting, delta);
        buffer.urgent |= !self.begun;
        self.begun = true;
        drop(buffers);
        if was_empty {
            self.emitter.wake.notify_one();
        }
    }

    /// Whether a piece was pushed.
    pub const fn begun(&self) -> bool {
        self.begun
    }

    /// Waits until all of it is out.
    pub async fn flush(&self) {
        if let Some(buffer) = self.emitter.lock().get_mut(&self.fence) {
            buffer.urgent = !buffer.waiting.is_empty();
        }
        self.emitter.wake.notify_one();
        self.emitter.until(&self.fence, Buffer::is_idle).await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.emitter.lock().remove(&self.fence);
    }
}
