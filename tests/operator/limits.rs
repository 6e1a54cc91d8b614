//! A provider that bears few requests at once.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::future::try_join_all;
use kube::runtime::watcher::{self, Event, watcher};
use persona_operator::api::{Persona, WorkerPool};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::harness::{Operator, reason};
use crate::upstream::{Received, Step, Upstream, answer, done, stream_head, token};

/// Clients at first, for whom nothing is refused yet, and at last.
const CLIENTS: (usize, usize) = (4, 20);
/// Requests at once that the provider bears while it is limited.
const BEARS: usize = 2;
/// Refusals that are watched while the pool must not grow.
const REFUSALS: usize = 12;

/// A provider that refuses what is too much, as providers do.
struct Provider {
    bears: AtomicUsize,
    refused: AtomicUsize,
}

impl Provider {
    fn serve(&self, request: &Received) -> Vec<Step> {
        if request.open > self.bears.load(Relaxed) {
            self.refused.fetch_add(1, Relaxed);
            let words =
                r#"{"error": {"message": "too many requests", "code": "rate_limit_exceeded"}}"#;
            return answer(429, "retry-after: 1\r\n", words);
        }
        vec![
            stream_head("text/event-stream"),
            token("there"),
            Step::Pause(Duration::from_millis(200)),
            done(),
        ]
    }

    async fn until_refused(&self, more: usize) {
        let goal = self.refused.load(Relaxed) + more;
        while self.refused.load(Relaxed) < goal {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_pool_does_not_grow_into_a_providers_limit_and_grows_when_it_is_lifted() -> Result<()> {
    let provider = Arc::new(Provider {
        bears: AtomicUsize::new(usize::MAX),
        refused: AtomicUsize::new(0),
    });
    let serving = provider.clone();
    let model = Upstream::start(move |request| serving.serve(request)).await;
    let operator = Operator::start("limits").await?;
    let spec =
        json!({"minReplicas": 1, "maxReplicas": 10, "slotsPerWorker": 2, "idleTimeout": "2s"});
    operator.pool("mine", spec).await?;
    let home = json!({
        "poolRef": {"name": "mine"}, "queue": {"maxConcurrency": 20}, "timeout": "60s",
    });
    operator.persona("helper", &model.base_url(), home).await?;
    operator.ready::<Persona>("helper").await?;

    let (clients, stop) = (Cell::new(CLIENTS.0), CancellationToken::new());
    let client = async |number| {
        while !stop.is_cancelled() {
            if number < clients.get() {
                ensure!(operator.answer("helper").await? == "there");
            } else {
                sleep(Duration::from_millis(20)).await;
            }
        }
        anyhow::Ok(())
    };
    let all = try_join_all((0..CLIENTS.1).map(client));
    let watching = async {
        let watched = watched(&operator, &provider, &clients).await;
        stop.cancel();
        watched
    };
    tokio::try_join!(all, watching)?;
    operator.stop().await
}

async fn watched(operator: &Operator, provider: &Provider, clients: &Cell<usize>) -> Result<()> {
    let series = format!(
        r#"persona_pool_provider_limit{{namespace="{}",pool="mine"}}"#,
        operator.namespace
    );
    ensure!(
        operator.metric(&series).await?.is_none(),
        "nothing is known"
    );
    // As large as its clients need it.
    let large = |pool: Option<&WorkerPool>| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status.is_some_and(|s| s.desired_replicas >= 2 && s.ready_replicas == s.desired_replicas)
    };
    let found = operator.until("mine", "large", large).await?;
    let large = size(&found.context("gone")?);
    provider.bears.store(BEARS, Relaxed);
    let limited = |pool: Option<&WorkerPool>| {
        pool.is_some_and(|p| reason(p, "ScalingActive").as_deref() == Some("ProviderLimited"))
    };
    let found = operator.until("mine", "limited", limited).await?;
    // Under a busy controller the first word of the limit may come with a smaller size already.
    let before = size(&found.context("gone")?).max(large);
    let limit = operator.metric(&series).await?;
    ensure!(limit.is_some(), "nobody says how much it bears");

    clients.set(CLIENTS.1);
    let largest = Cell::new(before);
    tokio::select! {
        ended = note_largest(operator, &largest) => ended?,
        () = provider.until_refused(REFUSALS) => {}
    }
    let largest = largest.get();
    ensure!(
        largest <= before,
        "it grew into the limit: {before} -> {largest}"
    );

    provider.bears.store(usize::MAX, Relaxed);
    let grown = |pool: Option<&WorkerPool>| pool.is_some_and(|pool| size(pool) >= 2 * before);
    operator.until("mine", "larger", grown).await?;
    Ok(())
}

fn size(pool: &WorkerPool) -> i32 {
    pool.status
        .as_ref()
        .map_or(0, |status| status.desired_replicas)
}

/// Notes the largest size that the pool wants, for ever.
async fn note_largest(operator: &Operator, largest: &Cell<i32>) -> Result<()> {
    let mut pools = watcher(operator.all::<WorkerPool>(), watcher::Config::default()).boxed();
    loop {
        if let Event::Apply(pool) | Event::InitApply(pool) =
            pools.next().await.context("ended")??
        {
            largest.set(largest.get().max(size(&pool)));
        }
    }
}
