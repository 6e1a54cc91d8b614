//! A worker's life: register, work, and stop in order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::adapters::Adapters;
use super::configs::Configs;
use super::emitter::Emitter;
use super::lanes::Lanes;
use super::link::Link;
use super::metrics::{AdapterMetrics, Metrics};
use super::recycle;
use super::roster::{Roster, Stop};
use super::{Context, Ended, Error, Options, heartbeat, intake};
use crate::provider::{Credentials, Limits, Providers};
use crate::queue::QueueError;
use crate::queue::task::Duties;
use crate::telemetry::{self, Health, Pulse, Server};

/// A loop that has not turned for so long hangs. A call to Redis may take a few times its timeout.
const HANGS: Duration = Duration::from_secs(60);
/// Time to hand tasks back after the drain timeout.
const GIVE_BACK: Duration = Duration::from_secs(5);
/// Time for the last word to Redis.
const FAREWELL: Duration = Duration::from_secs(2);

/// A worker that is set up and does nothing yet.
pub struct Prepared {
    context: Arc<Context>,
    server: Server,
    intake_pulse: Pulse,
    heartbeat_pulse: Pulse,
    health: Health,
}

/// Checks the settings and takes the port.
pub async fn prepare(options: &Options) -> Result<Prepared, Error> {
    let registry = telemetry::registry()?;
    let duties = watch::Sender::new(Duties::default());
    let metrics = Metrics::register(&registry, options, duties.subscribe())
        .map_err(telemetry::Error::from)?;
    let adapter_metrics = AdapterMetrics::register(&registry).map_err(telemetry::Error::from)?;
    let health = Health::default();
    let link = Link::open(options).map_err(Error::Queue)?;
    let providers = Providers::new(Limits::default())?;
    let server = telemetry::serve(options.listen, registry, health.clone()).await?;
    let credentials = Credentials::new(options.credentials_dir.as_path());
    let roster = Arc::new(Roster::new(options.slots));
    let context = Context {
        pool: options.pool.clone(),
        worker: options.pod_uid.clone(),
        instance: format!("{:032x}", rand::random::<u128>()),
        slots: options.slots,
        address: SocketAddr::new(options.pod_ip, server.address().port()).to_string(),
        duties,
        link,
        lanes: Lanes::new(credentials.clone(), &options.models),
        credentials,
        configs: Configs::new(options.model_endpoint.clone()),
        providers,
        adapters: Arc::new(Adapters::new(
            options.model_server,
            options.model_endpoint.as_deref(),
            options.max_adapters,
            adapter_metrics,
        )),
        emitter: Arc::new(Emitter::new(roster.clone())),
        roster,
        metrics,
        draining: watch::Sender::new(None),
        recycle: OnceLock::new(),
        beat: Notify::new(),
        closing: CancellationToken::new(),
    };
    Ok(Prepared {
        context: Arc::new(context),
        server,
        intake_pulse: health.pulse("intake", HANGS),
        heartbeat_pulse: health.pulse("heartbeat", HANGS),
        health,
    })
}

impl Prepared {
    /// Where metrics and health are served.
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Id of this process in the queue.
    pub fn instance(&self) -> &str {
        &self.context.instance
    }

    /// Works until `stop`, or until it is time to start afresh.
    ///
    /// # Errors
    /// [`Error::Superseded`], or a loop that ended.
    pub async fn run(self, options: Options, stop: CancellationToken) -> Result<Ended, Error> {
        let context = &self.context;
        // However this ends, no task runs on after it.
        let _nothing_runs_on = StopAll(context.roster.clone());
        let registered = Arc::new(AtomicBool::new(false));
        watch_readiness(&self.health, context, &registered, &stop);
        tokio::select! {
            () = heartbeat::register(context) => registered.store(true, Ordering::Relaxed),
            () = stop.cancelled() => context.close(),
        }
        let mut loops = Loops::start(&self);
        let why = tokio::select! {
            () = stop.cancelled() => Ended::Stopped,
            reason = recycles(context, &options) => Ended::Recycle(reason),
            error = loops.failed() => return Err(error),
        };
        if let Ended::Recycle(reason) = why {
            let running = context.roster.count().running;
            tracing::info!(
                reason = reason.as_str(),
                running,
                "starting afresh once what runs has ended"
            );
            context.close();
            tokio::select! {
                () = quiet(context, loops.intake_ended.clone()) => {
                    loops.stop().await;
                    return Ok(why);
                }
                () = stop.cancelled() => {}
                error = loops.failed() => return Err(error),
            }
        }
        self.stop(loops, options.drain_timeout.into()).await
    }

    /// Stops in order.
    async fn stop(self, mut loops: Loops, drain_timeout: Duration) -> Result<Ended, Error> {
        let context = self.context;
        context.close();
        tracing::info!("shutdown 1 of 5: taking no new requests");

        // One that was drained before has had a part of its time, or all of it: then its pod was deleted
        // for that.
        let drained = context.draining.borrow().map(|since| since.elapsed());
        let patience = drain_timeout.saturating_sub(drained.unwrap_or_default());
        let running = context.roster.count().running;
        tracing::info!(
            running,
            ?patience,
            "shutdown 2 of 5: waiting for active tasks"
        );
        tokio::select! {
            ended = timeout(patience, quiet(&context, loops.intake_ended.clone())) => {
                if ended.is_err() {
                    tracing::warn!("active tasks have not ended in time");
                }
            }
            error = loops.failed() => return Err(error),
        }

        let handed_back = context.roster.count().running;
        tracing::info!(handed_back, "shutdown 3 of 5: closing the pool");
        context.roster.stop_all(Stop::Shutdown);
        if timeout(GIVE_BACK, idle(&context)).await.is_err() {
            tracing::warn!(
                "not all tasks could be handed back; they run again when their leases end"
            );
        }
        loops.stop().await;
        deregister(&context).await;

        tracing::info!("shutdown 4 of 5: closing the connections to Redis");
        drop(context);
        tracing::info!("shutdown 5 of 5: exiting");
        Ok(Ended::Stopped)
    }
}

/// Waits until it is time to start afresh in its place, and this worker's turn. One that can be replaced asks
/// for that and goes on.
async fn recycles(context: &Context, options: &Options) -> recycle::Reason {
    let reason = recycle::due(context, options.recycle_limits()).await;
    if options.model_server.is_none() {
        tracing::info!(reason = reason.as_str(), "asking to be replaced");
        context.ask_to_be_replaced(reason);
        return std::future::pending().await;
    }
    // What runs may take that long to end.
    let patience = Duration::from(options.drain_timeout) + GIVE_BACK;
    recycle::turn(context, patience).await;
    reason
}

/// Waits until nothing is taken any more and nothing runs.
async fn quiet(context: &Context, intake_ended: CancellationToken) {
    intake_ended.cancelled().await;
    idle(context).await;
}

/// A loop that has nothing to do any more does not hang.
async fn rest(pulse: &Pulse) {
    loop {
        pulse.beat();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until nothing runs.
async fn idle(context: &Context) {
    let mut tasks = context.roster.watch();
    if tasks.wait_for(|now| now.running == 0).await.is_err() {
        tracing::debug!("the roster has gone");
    }
}

async fn deregister(context: &Context) {
    let queue = context.link.queue();
    match timeout(FAREWELL, queue.deregister(&context.pool, &context.worker)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "not deregistered; the missing heartbeat tells the same")
        }
        Err(_) => tracing::warn!("not deregistered in time; the missing heartbeat tells the same"),
    }
}

/// Ready = registered, in contact with Redis, its model server answers, not stopping.
fn watch_readiness(
    health: &Health,
    context: &Arc<Context>,
    registered: &Arc<AtomicBool>,
    stop: &CancellationToken,
) {
    let (registered, stop) = (registered.clone(), stop.clone());
    health.ready("worker", move || {
        if stop.is_cancelled() {
            Err("stopping".to_owned())
        } else if registered.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("not registered yet".to_owned())
        }
    });
    // Weak: the checks live as long as the server, which must not keep the connections open.
    let closed = || Err("closed".to_owned());
    let of = Arc::downgrade(context);
    health.ready("queue", move || {
        of.upgrade()
            .map_or_else(closed, |context| context.link.in_contact())
    });
    let of = Arc::downgrade(context);
    health.ready("model server", move || {
        of.upgrade()
            .map_or_else(closed, |context| context.adapters.in_service())
    });
}

struct StopAll(Arc<Roster>);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.stop_all(Stop::Lost);
    }
}

/// What ends, by name.
type LoopEnd = (&'static str, Result<(), QueueError>);

/// The loops of a worker; they end when this is dropped.
struct Loops {
    all: JoinSet<LoopEnd>,
    /// Nothing is taken any more.
    intake_ended: CancellationToken,
}

impl Loops {
    fn start(prepared: &Prepared) -> Self {
        let intake_ended = CancellationToken::new();
        let ended = intake_ended.clone().drop_guard();
        let mut all = JoinSet::new();
        let (context, pulse) = (prepared.context.clone(), prepared.intake_pulse.clone());
        all.spawn(async move {
            let result = intake::run(context, &pulse).await;
            drop(ended);
            if result.is_ok() {
                rest(&pulse).await;
            }
            ("intake", result)
        });
        let (context, pulse) = (prepared.context.clone(), prepared.heartbeat_pulse.clone());
        all.spawn(async move { ("heartbeat", heartbeat::run(context, pulse).await) });
        let context = prepared.context.clone();
        all.spawn(async move {
            heartbeat::listen(context).await;
            ("control", Ok(()))
        });
        let context = prepared.context.clone();
        all.spawn(async move {
            let adapters = &context.adapters;
            let begun = || context.lanes.hold(&adapters.files());
            adapters.run(begun, || context.beat.notify_one()).await;
            ("adapters", Ok(()))
        });
        let context = prepared.context.clone();
        all.spawn(async move {
            context.emitter.run(&context.link).await;
            ("emitter", Ok(()))
        });
        Self { all, intake_ended }
    }

    /// Waits until one has ended that must not.
    async fn failed(&mut self) -> Error {
        match self.all.join_next().await {
            Some(Ok((_, Err(error)))) => Error::Superseded(error),
            Some(Ok((name, Ok(())))) => Error::Crashed(name),
            Some(Err(error)) => {
                tracing::error!(%error, "a loop has failed");
                Error::Crashed("loop")
            }
            None => std::future::pending().await,
        }
    }

    async fn stop(&mut self) {
        self.all.shutdown().await;
    }
}
