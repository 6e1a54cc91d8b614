//! All that a leader does, as one piece: a part that ends takes the rest with it.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Error, bells, contact, drive, observer, persona, pool, sources, topology, watch,
};

/// Works until `stop`, and lets reconcilers finish what they are at. `busy` is false once all objects are
/// known.
///
/// # Errors
/// A part of it ended before: what it kept up to date stands still, and nothing may be decided on that.
/// None of it runs any more.
pub async fn work(
    cx: Arc<Context>,
    visits: bells::Visits,
    looks: mpsc::Receiver<observer::PoolKey>,
    writers: watch::Writers,
    busy: Arc<AtomicBool>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut watches = JoinSet::new();
    watch::start(&cx, writers, &mut watches);
    let mut loops = JoinSet::new();
    let observing = observer::run(cx.clone(), looks, stop.clone());
    loops.spawn(observing.map(|()| "reading the queue's numbers"));
    let asking = sources::run(cx.clone(), stop.clone());
    loops.spawn(asking.map(|()| "asking for metrics from elsewhere"));
    let keeping = contact::run(cx.clone(), stop.clone());
    loops.spawn(keeping.map(|()| "keeping the queue in order"));
    let sweeping = contact::sweep::run(cx.clone(), stop.clone());
    loops.spawn(sweeping.map(|()| "sweeping the queue"));
    let reconciling = reconcile(cx, visits, busy, stop.clone());
    let mut reconciling = pin!(AssertUnwindSafe(reconciling).catch_unwind());
    let why = tokio::select! {
        // Whatever ends after the signal does as it is told.
        biased;
        () = stop.cancelled() => None,
        why = first_end(&mut watches, &mut loops) => Some(why),
        ended = &mut reconciling => Some(match ended {
            Ok(()) => "the reconcilers ended".to_owned(),
            Err(_) => "a reconciler broke".to_owned(),
        }),
    };
    let why = match why {
        Some(why) => why,
        None if reconciling.await.is_ok() => return Ok(()),
        None => "a reconciler broke".to_owned(),
    };
    watches.shutdown().await;
    loops.shutdown().await;
    Err(Error::Broken(why))
}

/// Waits for the first part that ends, and says which; of watches only one that breaks, since some of that
/// set have done their work at some time.
async fn first_end(watches: &mut JoinSet<()>, loops: &mut JoinSet<&'static str>) -> String {
    loop {
        tokio::select! {
            Some(ended) = watches.join_next() => {
                if let Err(error) = ended {
                    return format!("a watch broke ({error})");
                }
            }
            Some(ended) = loops.join_next() => {
                return match ended {
                    Ok(name) => format!("{name} ended"),
                    Err(error) => format!("a loop broke ({error})"),
                };
            }
            else => std::future::pending().await,
        }
    }
}

async fn reconcile(
    cx: Arc<Context>,
    visits: bells::Visits,
    busy: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = cx.stores.wait_until_synced() => {}
        () = stop.cancelled() => {}
    }
    busy.store(false, Ordering::Relaxed);
    let stores = &cx.stores;
    futures::join!(
        drive::drive(
            "PersonaTopology",
            stores.topologies.clone(),
            visits.topologies,
            topology::reconcile,
            cx.clone(),
            stop.clone()
        ),
        drive::drive(
            "WorkerPool",
            stores.pools.clone(),
            visits.pools,
            pool::reconcile,
            cx.clone(),
            stop.clone()
        ),
        drive::drive(
            "Persona",
            stores.personas.clone(),
            visits.personas,
            persona::reconcile,
            cx.clone(),
            stop.clone()
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_ends_and_a_watch_that_breaks_end_all_and_a_watch_that_is_done_does_not() {
        let (mut watches, mut loops) = (JoinSet::new(), JoinSet::new());
        watches.spawn(std::future::pending());
        watches.spawn(std::future::ready(()));
        loops.spawn(std::future::pending());
        assert_eq!(first_end(&mut watches, &mut loops).now_or_never(), None);
        tokio::task::yield_now().await;
        assert_eq!(first_end(&mut watches, &mut loops).now_or_never(), None);
        assert_eq!(watches.len(), 1, "the one that is done was heard of");
        loops.spawn(std::future::ready("sweeping"));
        assert_eq!(first_end(&mut watches, &mut loops).await, "sweeping ended");
        watches.spawn(async { panic!("out of order") });
        let why = first_end(&mut watches, &mut loops).await;
        assert!(why.contains("out of order"), "{why}");
    }
}
