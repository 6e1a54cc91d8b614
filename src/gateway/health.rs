//! `GET /health`: the state of queue and workers, for people and for monitors.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::Context;
use super::error::ApiError;
use crate::queue::stats::PoolStats;
use crate::queue::work::LEASE;
use crate::queue::{Queue, QueueError};

/// How old an answer may be: many who ask cost one read.
const FRESH: Duration = Duration::from_secs(1);
/// How long the queue may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// `?verbose` lists the pools.
#[derive(Debug, Deserialize)]
pub struct Detail {
    verbose: Option<String>,
}

/// The last look at the queue.
#[derive(Debug, Default)]
pub struct Lookout(Mutex<Option<(Instant, Arc<View>)>>);

type View = Result<Vec<PoolStats>, String>;

impl Lookout {
    async fn view(&self, queue: &Queue) -> Arc<View> {
        let mut last = self.0.lock().await;
        if let Some((at, view)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return view.clone();
        }
        let view = match timeout(PATIENCE, pools(queue)).await {
            Ok(Ok(pools)) => Ok(pools),
            Ok(Err(error)) => Err(format!("the queue is not usable ({})", error.reason())),
            Err(_) => Err("the queue does not answer".to_owned()),
        };
        let view = Arc::new(view);
        *last = Some((Instant::now(), view.clone()));
        view
    }
}

async fn pools(queue: &Queue) -> Result<Vec<PoolStats>, QueueError> {
    let mut pools = Vec::new();
    for namespace in queue.namespaces().await? {
        let namespace = queue.namespace(&namespace)?;
        for pool in namespace.pools().await? {
            pools.push((namespace.clone(), pool));
        }
    }
    let read = queue.stats(&pools).await?.into_iter();
    // Of a pool whose data cannot be read there is nothing to tell; the controller says what is wrong.
    Ok(read.filter_map(Result::ok).collect())
}

/// Answers 200 in any case: who wants a status to act on asks `/readyz`.
pub async fn health(
    State(context): State<Arc<Context>>,
    Query(detail): Query<Detail>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    // Names of pools are their namespace's business.
    let reader = match detail.verbose {
        Some(_) => Some(context.authenticate(&headers)?),
        None => None,
    };
    let view = context.lookout.view(&context.queue).await;
    let mut body = summary(&view, context.keys.borrow().is_empty(), Timestamp::now());
    if let (Some(reader), Ok(pools)) = (reader, view.as_ref()) {
        let pools = pools.iter().filter(|pool| reader.may_see(&pool.namespace));
        body["pools"] = pools.map(pool).collect();
    }
    Ok(Json(body))
}

fn summary(view: &View, nobody_may_ask: bool, now: Timestamp) -> Value {
    let mut reasons = Vec::new();
    let pools = match view {
        Ok(pools) => pools.as_slice(),
        Err(reason) => {
            reasons.push(reason.clone());
            &[]
        }
    };
    if nobody_may_ask {
        reasons.push("there is no API key".to_owned());
    }
    let stuck = pools
        .iter()
        .filter(|p| p.runnable > 0 && slots(p) == 0)
        .count();
    if stuck > 0 {
        reasons.push(format!(
            "pools with waiting requests and no ready worker: {stuck}"
        ));
    }
    let mut body = json!({
        "status": if reasons.is_empty() { "ok" } else { "degraded" },
        "timestamp": now.to_string(),
        "workerPool": {
            "threadCount": pools.iter().map(slots).sum::<u64>(),
            "isInitialized": pools.iter().any(|pool| pool.open),
        },
    });
    if !reasons.is_empty() {
        body["reasons"] = json!(reasons);
    }
    body
}

/// Slots of the workers that are alive and take tasks.
fn slots(pool: &PoolStats) -> u64 {
    let lease = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
    let alive = |heartbeat: u64| pool.at_ms.saturating_sub(heartbeat) <= lease;
    let ready = pool
        .workers
        .iter()
        .filter(|w| !w.draining && alive(w.heartbeat_at_ms));
    ready.map(|w| u64::from(w.slots)).sum()
}

fn pool(pool: &PoolStats) -> Value {
    json!({
        "namespace": pool.namespace,
        "pool": pool.pool,
        "threadCount": slots(pool),
        "isInitialized": pool.open,
        "workers": pool.workers.len(),
        "queued": pool.queued,
        "running": pool.running,
        "oldestWaitMs": pool.oldest_wait_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::stats::WorkerStats;

    fn pools() -> Vec<PoolStats> {
        let worker = |slots, draining, heartbeat_at_ms| WorkerStats {
            slots,
            draining,
            heartbeat_at_ms,
            ..WorkerStats::default()
        };
        vec![PoolStats {
            namespace: "a".into(),
            pool: "p".into(),
            open: true,
            at_ms: 100_000,
            workers: vec![
                worker(4, false, 99_000),
                worker(2, true, 99_000),
                worker(8, false, 84_999),
            ],
            ..PoolStats::default()
        }]
    }

    #[test]
    fn threads_are_the_slots_of_ready_workers() {
        let body = summary(&Ok(pools()), false, Timestamp::UNIX_EPOCH);
        assert_eq!(
            body,
            json!({
                "status": "ok",
                "timestamp": "1970-01-01T00:00:00Z",
                "workerPool": {"threadCount": 4, "isInitialized": true},
            })
        );
    }

    #[test]
    fn what_is_wrong_is_a_reason() {
        let mut pools = pools();
        pools[0].workers.clear();
        pools[0].runnable = 1;
        for (view, keyless, reason) in [
            (
                Ok(pools),
                false,
                "pools with waiting requests and no ready worker: 1",
            ),
            (Ok(Vec::new()), true, "there is no API key"),
            (
                Err("the queue does not answer".into()),
                false,
                "the queue does not answer",
            ),
        ] {
            let body = summary(&view, keyless, Timestamp::UNIX_EPOCH);
            assert_eq!(body["status"], "degraded");
            assert_eq!(body["reasons"], json!([reason]));
        }
    }
}
