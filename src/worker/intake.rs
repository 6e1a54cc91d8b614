//! The loop that fills free slots: wait for the bell, take, run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::time::sleep;

use super::stealing::Stealing;
use super::{BACKOFF, Context, attempt};
use crate::queue::QueueError;
use crate::queue::listen::{Bell, pause};
use crate::queue::work::{LEASE, Take, TakeAnswer};
use crate::telemetry::Pulse;

/// Longest wait between two takes: a bell's token can get lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes tasks until the worker closes.
///
/// # Errors
/// [`QueueError::Superseded`]; everything else passes.
pub async fn run(context: Arc<Context>, pulse: &Pulse) -> Result<(), QueueError> {
    let mut intake = Intake {
        stealing: Stealing::default(),
        doorway: Doorway::default(),
        failures: 0,
        context,
    };
    loop {
        pulse.beat();
        if intake.context.closing.is_cancelled() {
            return Ok(());
        }
        intake.turn().await?;
    }
}

struct Intake {
    context: Arc<Context>,
    stealing: Stealing,
    doorway: Doorway,
    failures: u32,
}

impl Intake {
    /// Takes once if it may, then waits for a reason to do so again.
    async fn turn(&mut self) -> Result<(), QueueError> {
        let context = self.context.clone();
        // What changes from here on ends the wait below.
        let mut tasks = context.roster.watch();
        let ended = tasks.borrow().ended;
        let mut draining = context.draining.subscribe();
        let is_draining = draining.borrow_and_update().is_some();
        let mut answering = context.adapters.watch();
        let is_answering = *answering.borrow_and_update();
        let free = context.roster.free();
        let wait = if free > 0 && !is_draining && is_answering {
            self.take(free).await?
        } else {
            Wait::Changes
        };
        let (at_bell, pausing, time) = match wait {
            Wait::Bell(time) => (true, false, time),
            Wait::Pause(time) => (false, true, time),
            Wait::Changes => (false, false, PATIENCE),
        };
        if !at_bell {
            self.doorway.leave();
        }
        let rung = tokio::select! {
            rung = self.doorway.ring(&context), if at_bell => rung,
            () = context.closing.cancelled() => Ok(()),
            // The senders live as long as the context.
            _ = tasks.wait_for(|now| now.ended != ended), if !pausing => Ok(()),
            _ = draining.changed() => Ok(()),
            _ = answering.changed() => Ok(()),
            () = sleep(time) => Ok(()),
        };
        if rung.is_err() {
            self.failures += 1;
            context.link.note(&rung);
            sleep(pause(BACKOFF, self.failures)).await;
        }
        Ok(())
    }

    async fn take(&mut self, free: u32) -> Result<Wait, QueueError> {
        let context = &self.context;
        let others = if self.stealing.allowed(free, Instant::now()) {
            context.duties.borrow().steal_from.clone()
        } else {
            Vec::new()
        };
        let lanes = context.lanes.now();
        let result = context
            .link
            .queue()
            .take(&Take {
                pool: &context.pool,
                lanes: &lanes,
                worker: &context.worker,
                instance: &context.instance,
                slots_free: free,
                steal_from: &others,
                lease: LEASE,
                loaded: &context.adapters.preferred(),
            })
            .await;
        context.link.note(&result);
        let answer = match result {
            Ok(answer) => answer,
            Err(QueueError::Superseded) => return Err(QueueError::Superseded),
            Err(_) => {
                self.failures += 1;
                return Ok(Wait::Pause(pause(BACKOFF, self.failures)));
            }
        };
        if std::mem::take(&mut self.failures) > 0 {
            // It may have been forgotten in the meantime.
            context.beat.notify_one();
        }
        Ok(self.accept(answer))
    }

    fn accept(&mut self, answer: TakeAnswer) -> Wait {
        let context = &self.context;
        if answer.draining {
            // The answer to a heartbeat says it again, and is followed by another one.
            context.beat.notify_one();
            return Wait::Changes;
        }
        if answer.out_of_memory {
            return Wait::Pause(PATIENCE.mul_f64(rand::random_range(0.5..1.0)));
        }
        let own = answer.tasks.iter().any(|taken| taken.pool == context.pool);
        for taken in answer.tasks {
            let ticket = context.roster.admit(&taken);
            tokio::spawn(attempt::run(context.clone(), taken, ticket));
        }
        let (free, now) = (context.roster.free(), Instant::now());
        self.stealing.note(own, now);
        if free == 0 {
            return Wait::Changes;
        }
        let mut patience = PATIENCE.min(answer.look_again_in.unwrap_or(PATIENCE));
        if !context.duties.borrow().steal_from.is_empty() {
            patience = patience.min(self.stealing.next_look(free, now).unwrap_or(PATIENCE));
        }
        Wait::Bell(patience)
    }
}

/// What to wait for before the next take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The bell, or that time.
    Bell(Duration),
    /// That time only: Redis is away or short of memory.
    Pause(Duration),
    /// A free slot, the end of draining, or the model server. A token of the bell would be another worker's.
    Changes,
}

type Ringing = BoxFuture<'static, (Bell, Result<bool, QueueError>)>;

/// The wait at the bell. It goes on while takes for other reasons come between; given up, its
/// connection goes with it, so that Redis does not hand a token to nobody.
#[derive(Default)]
struct Doorway {
    lanes: Arc<[String]>,
    bell: Option<Bell>,
    ringing: Option<Ringing>,
}

impl Doorway {
    /// Waits until the bell rings.
    async fn ring(&mut self, context: &Context) -> Result<(), QueueError> {
        while !self.wait(context).await? {}
        Ok(())
    }

    async fn wait(&mut self, context: &Context) -> Result<bool, QueueError> {
        let lanes = context.lanes.now();
        if *lanes != *self.lanes {
            self.leave();
            self.bell = None;
            self.lanes = lanes;
            // Personas wait for a worker that says it holds their credential.
            context.beat.notify_one();
        }
        let ringing = match &mut self.ringing {
            Some(ringing) => ringing,
            None => {
                let mut bell = match self.bell.take() {
                    Some(bell) => bell,
                    None => context.link.queue().bell(&context.pool, &self.lanes),
                };
                self.ringing.insert(Box::pin(async move {
                    let rung = bell.wait(PATIENCE).await;
                    (bell, rung)
                }))
            }
        };
        let (bell, rung) = ringing.await;
        self.ringing = None;
        // After a failure another bell, because the password may be another one.
        self.bell = rung.is_ok().then_some(bell);
        rung
    }

    /// Gives the wait up.
    fn leave(&mut self) {
        self.ringing = None;
    }
}
