//! One task from enqueue to outcome, for one client.
//!
//! The promise kept here (data-plane.md): what was accepted survives a restart or a loss of Redis'
//! data as long as the client waits. Nothing forwarded yet: the task is enqueued again. Something
//! forwarded: one clean error, never two attempts spliced.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::Context;
use super::address::Address;
use super::body::Held;
use super::entry;
use super::error::ApiError;
use super::hub::{Letter, Subscription};
use super::refusal;
use crate::queue::submit::{Enqueue, EnqueueAnswer, TaskOutput};
use crate::queue::task::{Chunk, Outcome};
use crate::queue::{NamespaceQueue, QueueError};

/// After this long without a word the output is read: a loss of data that broke no connection.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// The same, for a task whose results another gateway is told.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// Entries of the output that are read at once: of a client that reads slowly no more than that is held.
const PAGE: usize = 32;
/// How long the controller may take to publish a persona again after a loss of data.
const REPUBLISHED: Duration = Duration::from_secs(120);
/// How long an outcome stays readable; with an Idempotency-Key the client may come back for it.
const RETENTION: Duration = Duration::from_secs(60);
const KEYED_RETENTION: Duration = Duration::from_secs(600);
/// On top of the queue's deadline and one attempt, before the gateway stops waiting by itself.
const MARGIN: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Debug)]
pub struct Task {
    /// Who shall answer.
    pub address: Address,
    /// Id of the task.
    pub id: String,
    /// JSON of a [`crate::queue::task::TaskPayload`], held against the gateway's memory.
    pub payload: Held<String>,
    /// The answer is streamed.
    pub stream: bool,
    /// The client gave an Idempotency-Key: it may leave and come back, or ask twice at once.
    pub keyed: bool,
}

/// What the client is to see next.
#[derive(Debug)]
pub enum Event {
    /// More of a streamed answer.
    Chunks(Vec<Chunk>),
    /// The task ended. The last event.
    Ended(Outcome),
    /// There will be no outcome. The last event.
    Failed(ApiError),
}

/// A task in the queue, and where its client stands. Dropped before its end, it is cancelled.
pub struct Exchange {
    context: Arc<Context>,
    queue: NamespaceQueue,
    task: Task,
    inbox: Subscription,
    /// How long the task may wait for a worker.
    patience: Duration,
    /// When the client has waited long enough.
    overdue: Instant,
    /// Last entry of the output that was seen.
    read_to: Option<String>,
    /// Part of the answer has left: it cannot begin again.
    forwarded: bool,
    /// The output is to be read.
    behind: bool,
    /// The queue has no such task: it is to be enqueued again.
    lost: bool,
    /// When the persona was first found missing too.
    persona_lost: Option<Instant>,
    /// Another request enqueued it, perhaps on another gateway.
    shared: bool,
    failures: u32,
    events: VecDeque<Event>,
    /// Nothing is left to cancel.
    settled: bool,
}

impl Exchange {
    /// Puts the task in the queue, holding the request for a while when the queue is away.
    ///
    /// # Errors
    /// The queue's refusal, or 503.
    pub async fn begin(context: Arc<Context>, task: Task) -> Result<Self, ApiError> {
        let address = &task.address;
        let queue = context
            .queue
            .namespace(&address.namespace)
            .map_err(|_| ApiError::no_persona(&address.namespace, &address.persona))?;
        let hold_until = Instant::now() + context.settings.hold;
        let inbox = context.hub.subscribe(&address.namespace, &task.id);
        let mut exchange = Self {
            context,
            queue,
            task,
            inbox,
            patience: Duration::ZERO,
            overdue: hold_until,
            read_to: None,
            forwarded: false,
            behind: false,
            lost: false,
            persona_lost: None,
            shared: false,
            failures: 0,
            events: VecDeque::new(),
            settled: false,
        };
        exchange.enter(hold_until).await?;
        Ok(exchange)
    }

    async fn enter(&mut self, hold_until: Instant) -> Result<(), ApiError> {
        let mut refusal = ApiError::new(503, "queue_unavailable", "the queue cannot be reached")
            .retry_after(self.context.settings.hold);
        loop {
            let Ok(answer) = timeout_at(hold_until, self.try_enter()).await else {
                return Err(refusal);
            };
            refusal = match answer {
                Ok(None) => return Ok(()),
                Ok(Some(refused)) => {
                    self.settled = true;
                    return Err(refused);
                }
                Err(held) => held,
            };
            if timeout_at(hold_until, self.pause()).await.is_err() {
                return Err(refusal);
            }
        }
    }

    /// One try. `Ok(None)`: it is in; `Ok(Some)`: refused for good; `Err`: worth another try.
    async fn try_enter(&mut self) -> Result<Option<ApiError>, ApiError> {
        let address = &self.task.address;
        let allowance = self.context.directory.allowance(&self.queue, address).await;
        let allowance = match allowance {
            Ok(allowance) => allowance,
            Err(error) => return held(&error),
        };
        self.patience = self.context.settings.queue_wait + allowance.total();
        self.overdue = Instant::now() + self.patience + allowance.attempt + MARGIN;
        let missing = || ApiError::no_persona(&address.namespace, &address.persona);
        match self.enqueue(false).await {
            Ok(EnqueueAnswer::Queued { .. }) => Ok(None),
            Ok(EnqueueAnswer::Duplicate { .. }) => {
                self.shared = true;
                self.behind = true;
                Ok(None)
            }
            Ok(EnqueueAnswer::Unknown) if self.context.directory.knows(address) => Err(missing()),
            Ok(EnqueueAnswer::Unknown) => Ok(Some(missing())),
            Ok(refused) => Ok(Some(self.refused(&refused))),
            Err(error) => held(&error),
        }
    }

    /// What comes next. May be dropped at any time: nothing is lost, the next call goes on.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                match event {
                    Event::Chunks(_) => self.forwarded = true,
                    Event::Ended(_) => self.settled = true,
                    Event::Failed(_) => {}
                }
                return event;
            }
            let overdue = self.overdue;
            if timeout_at(overdue, self.step()).await.is_err() {
                return Event::Failed(refusal::overdue());
            }
        }
    }

    async fn step(&mut self) {
        if self.lost {
            self.enqueue_again().await;
        } else if self.behind {
            self.catch_up().await;
        } else {
            let quiet = if self.shared { POLL_EVERY } else { CHECK_EVERY };
            tokio::select! {
                letter = self.inbox.next() => self.receive(letter),
                () = sleep(quiet) => self.behind = true,
            }
        }
    }

    fn receive(&mut self, letter: Letter) {
        match letter {
            Letter::Chunks { id, chunks } => self.chunks(id, chunks),
            Letter::Ended(outcome) => self.events.push_back(Event::Ended(outcome)),
            Letter::CatchUp => self.behind = true,
        }
    }

    fn chunks(&mut self, id: String, chunks: Vec<Chunk>) {
        if !entry::is_after(&id, self.read_to.as_deref()) {
            return;
        }
        self.read_to = Some(id);
        // A whole answer comes with its outcome.
        if self.task.stream {
            self.events.push_back(Event::Chunks(chunks));
        }
    }

    async fn catch_up(&mut self) {
        // What was forwarded is read again: where Redis does not have it any more its data went back
        // in time (a failover, a lost second of the append-only file), and another attempt may run.
        let sent = self.read_to.as_deref().filter(|_| self.forwarded);
        let from = sent.map(entry::before).or_else(|| self.read_to.clone());
        let id = &self.task.id;
        let output = self.queue.output_page(id, from.as_deref(), PAGE);
        match output.await {
            Ok(Some(output))
                if sent.is_some() && output.entries.first().map(|e| e.0.as_str()) != sent =>
            {
                self.fail(refusal::interrupted());
            }
            Ok(Some(output)) => {
                self.behind = output.entries.len() >= PAGE;
                self.failures = 0;
                self.absorb(output);
            }
            Ok(None) if self.forwarded => {
                self.settled = true;
                self.fail(refusal::interrupted());
            }
            Ok(None) => {
                self.behind = false;
                self.lost = true;
                self.read_to = None;
            }
            Err(error) => self.wait_out(&error).await,
        }
    }

    fn absorb(&mut self, output: TaskOutput) {
        for (id, chunks) in output.entries {
            self.chunks(id, chunks);
        }
        if let Some(outcome) = output.outcome {
            self.events.push_back(Event::Ended(outcome));
        }
    }

    async fn enqueue_again(&mut self) {
        match self.enqueue(true).await {
            Ok(EnqueueAnswer::Queued { .. }) => {
                self.lost = false;
                self.failures = 0;
                self.persona_lost = None;
                let namespace = &self.task.address.namespace;
                tracing::info!(
                    namespace,
                    task = self.task.id,
                    "enqueued again after a loss of data"
                );
            }
            Ok(EnqueueAnswer::Duplicate { .. }) => {
                self.lost = false;
                self.behind = true;
            }
            Ok(EnqueueAnswer::Unknown) => {
                let since = *self.persona_lost.get_or_insert_with(Instant::now);
                if since.elapsed() > REPUBLISHED {
                    self.settled = true;
                    return self.fail(refusal::gone(&self.task.address));
                }
                self.pause().await;
            }
            Ok(EnqueueAnswer::Full { .. } | EnqueueAnswer::OutOfMemory) => self.pause().await,
            Ok(refused) => {
                self.settled = true;
                self.fail(self.refused(&refused));
            }
            Err(error) => self.wait_out(&error).await,
        }
    }

    async fn enqueue(&self, resubmit: bool) -> Result<EnqueueAnswer, QueueError> {
        let retention = if self.task.keyed {
            KEYED_RETENTION
        } else {
            RETENTION
        };
        let task = Enqueue {
            deadline: self.patience,
            stream: self.task.stream,
            gateway: Some(&self.context.gateway),
            resubmit,
            // The client was told to try again: what it was told is no answer to that. This request's own
            // failure is.
            anew: self.task.keyed && !resubmit,
            retention,
            ..Enqueue::new(
                &self.task.address.persona,
                &self.task.id,
                &self.task.payload,
            )
        };
        self.queue.enqueue(&task).await
    }

    fn refused(&self, answer: &EnqueueAnswer) -> ApiError {
        let address = &self.task.address;
        match answer {
            EnqueueAnswer::Full { retry_after } => refusal::full(address, *retry_after),
            EnqueueAnswer::Suspended => refusal::suspended(address),
            EnqueueAnswer::Gone => refusal::gone(address),
            EnqueueAnswer::Conflict => refusal::conflict(),
            EnqueueAnswer::OutOfMemory => refusal::out_of_memory(),
            EnqueueAnswer::Unknown
            | EnqueueAnswer::Queued { .. }
            | EnqueueAnswer::Duplicate { .. } => {
                ApiError::no_persona(&address.namespace, &address.persona)
            }
        }
    }

    /// A held request waits for the queue until it is overdue; an error that stays ends it.
    async fn wait_out(&mut self, error: &QueueError) {
        if refusal::is_passing(error) {
            self.pause().await;
        } else {
            tracing::error!(task = self.task.id, %error, "a held request ends");
            self.fail(refusal::no_queue(error));
        }
    }

    fn fail(&mut self, error: ApiError) {
        self.events.push_back(Event::Failed(error));
    }

    /// 50 ms, doubled with each failure up to 1 s; between half and all of it.
    async fn pause(&mut self) {
        let longest = (50 << self.failures.min(5)).min(1000);
        self.failures = self.failures.saturating_add(1);
        sleep(Duration::from_millis(rand::random_range(
            longest / 2..=longest,
        )))
        .await;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.settled && !self.task.keyed {
            self.context.canceller.cancel(&self.queue, &self.task.id);
        }
    }
}

/// A request that is not in the queue yet waits for a passing error, and ends with any other.
fn held(error: &QueueError) -> Result<Option<ApiError>, ApiError> {
    let answer = refusal::no_queue(error);
    match error {
        QueueError::OutOfMemory(_) => Ok(Some(answer)),
        error if refusal::is_passing(error) => Err(answer),
        error => {
            tracing::error!(%error, "a request cannot be enqueued");
            Ok(Some(answer))
        }
    }
}
