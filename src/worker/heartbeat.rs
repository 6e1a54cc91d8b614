//! Signs of life: renews registration and leases every 5 s, and whenever there is a reason to.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::adapters::Report;
use super::roster::Stop;
use super::{BACKOFF, Context, recycle};
use crate::queue::QueueError;
use crate::queue::heartbeat::{Heartbeat, RENEW_EVERY};
use crate::queue::listen::pause;
use crate::queue::work::LEASE;
use crate::telemetry::Pulse;

/// More than a tick of Redis' clock.
const TICK: Duration = Duration::from_millis(2);

/// Registers this instance: what an earlier one of the same pod held runs again. Tries until Redis
/// answers.
pub async fn register(context: &Context) {
    let mut failures = 0;
    loop {
        let lanes = context.lanes.now();
        let report = context.adapters.report();
        let heartbeat = describe(context, &lanes, &[], &report);
        let result = context.link.queue().register(&heartbeat).await;
        context.link.note(&result);
        match result {
            Ok(freed) => {
                tracing::info!(
                    instance = context.instance,
                    pool = context.pool,
                    freed,
                    "registered"
                );
                // What the controller has said is known before the first task; if not now, soon.
                if let Err(error) = renew(context).await {
                    tracing::debug!(%error, "the first heartbeat");
                }
                return;
            }
            Err(_) => {
                failures += 1;
                sleep(pause(BACKOFF, failures)).await;
            }
        }
    }
}

/// Renews for ever.
///
/// # Errors
/// [`QueueError::Superseded`]; everything else passes.
pub async fn run(context: Arc<Context>, pulse: Pulse) -> Result<(), QueueError> {
    let mut tasks = context.roster.watch();
    let mut failures = 0;
    loop {
        pulse.beat();
        tasks.mark_unchanged();
        let wait = match renew(&context).await {
            // The controller waits for a heartbeat that is newer than the drain.
            Ok(Renewal::BeganDraining) => {
                sleep(TICK).await;
                continue;
            }
            Ok(Renewal::Same) => {
                failures = 0;
                RENEW_EVERY
            }
            Err(QueueError::Superseded) => return Err(QueueError::Superseded),
            Err(_) => {
                failures += 1;
                pause(BACKOFF, failures)
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = context.beat.notified(), if failures == 0 => {}
            // The controller waits for the last one to end.
            _ = tasks.changed(), if failures == 0 && context.draining.borrow().is_some() => {}
        }
    }
}

enum Renewal {
    Same,
    BeganDraining,
}

async fn renew(context: &Context) -> Result<Renewal, QueueError> {
    let leases = context.roster.leases();
    let lanes = context.lanes.now();
    let report = context.adapters.report();
    let result = context
        .link
        .queue()
        .renew(&describe(context, &lanes, &leases, &report))
        .await;
    context.link.note(&result);
    let renewed = result?;
    for fence in &renewed.lost {
        context.roster.stop(fence, Stop::Lost);
    }
    if let Some(duties) = renewed.duties {
        context.duties.send_if_modified(|known| {
            let changed = *known != duties;
            if changed {
                tracing::info!(?duties, "told by the controller");
                *known = duties;
            }
            changed
        });
    }
    let since = *context.draining.borrow();
    let was_draining = since.is_some();
    let draining = renewed.draining.then(|| since.unwrap_or_else(Instant::now));
    context.draining.send_replace(draining);
    if was_draining != renewed.draining {
        tracing::info!(
            draining = renewed.draining,
            running = context.roster.count().running,
            "told by the controller"
        );
    }
    Ok(if renewed.draining && !was_draining {
        Renewal::BeganDraining
    } else {
        Renewal::Same
    })
}

fn describe<'a>(
    context: &'a Context,
    lanes: &'a [String],
    leases: &'a [(String, String)],
    report: &'a Report,
) -> Heartbeat<'a> {
    let running = context.roster.count().running;
    // One that takes nothing new any more has no free slot to count on.
    let slots = if context.closing.is_cancelled() {
        running
    } else {
        context.slots
    };
    let memory_bytes = recycle::resident_bytes();
    context.metrics.memory(memory_bytes);
    Heartbeat {
        worker: &context.worker,
        instance: &context.instance,
        pool: &context.pool,
        slots,
        leases,
        running,
        memory_bytes,
        lanes,
        address: &context.address,
        lease: LEASE,
        loaded: &report.loaded,
        load_failures: &report.failures,
        recycle: context.recycle.get().copied(),
    }
}

/// Hears of cancelled tasks and of draining. Each message is a reason to renew at once, whose answer
/// says which attempts are lost: a message about an earlier attempt of a task stops nothing.
pub async fn listen(context: Arc<Context>) {
    let mut queues = context.link.watch();
    let mut failures = 0;
    loop {
        let queue = queues.borrow_and_update().clone();
        let mut control = match queue.control(&context.worker).await {
            Ok(control) => control,
            Err(error) => {
                tracing::debug!(%error, "cannot listen for control messages yet");
                failures += 1;
                sleep(pause(BACKOFF, failures)).await;
                continue;
            }
        };
        failures = 0;
        // What was said before is not heard.
        context.beat.notify_one();
        loop {
            tokio::select! {
                message = control.next() => {
                    tracing::debug!(?message, "control");
                    context.beat.notify_one();
                }
                // Reached in another way from now on. The sender lives as long as the context.
                _ = queues.changed() => break,
            }
        }
    }
}
