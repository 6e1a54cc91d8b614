//! What happens in the middle of a move: a pool that cannot come up, somebody new, somebody who goes,
//! thresholds that change, turning back, and a queue that loses its data.

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{Operator, PATIENCE, condition, reason};
use crate::upstream::{Upstream, says};

/// Above so many personas Hybrid begins; below, all share one pool.
async fn hybrid_above(operator: &Operator, threshold: u32) -> Result<()> {
    let thresholds = json!({"thresholds": {"hybrid": threshold}});
    operator
        .patch::<PersonaTopology>("default", thresholds)
        .await?;
    Ok(())
}

/// Waits until a persona is served in the pool of a phase; which.
pub async fn home(operator: &Operator, name: &str, phase: Phase) -> Result<String> {
    let there = move |p: Option<&Persona>| {
        p.is_some_and(|p| {
            let routed = condition(p, "Routed").as_deref() == Some("True");
            routed && p.status.as_ref().and_then(|s| s.phase) == Some(phase)
        })
    };
    let found = operator.until(name, phase.as_str(), there).await?;
    let status = found.context("gone")?.status.context("no status")?;
    status.pool.context("no pool")
}

/// Waits until the topology says so of its move.
async fn progress(operator: &Operator, words: &'static str) -> Result<()> {
    let says = move |t: Option<&PersonaTopology>| {
        let status = t.and_then(|t| t.status.as_ref());
        let move_ = status.and_then(|s| s.transition.as_ref());
        move_.map_or("", |m| &m.progress) == words
    };
    operator.until("default", words, says).await?;
    Ok(())
}

/// Asks until `stop`; how many were answered.
async fn client(operator: &Operator, name: &str, stop: &CancellationToken) -> Result<usize> {
    let mut answered = 0;
    while !stop.is_cancelled() {
        ensure!(operator.answer(name).await? == "Hi");
        answered += 1;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(answered)
}

async fn course(operator: &Operator, model: &Upstream) -> Result<()> {
    let add = async |name: &str, type_: &str| {
        let more = json!({"type": type_});
        operator.persona(name, &model.base_url(), more).await
    };
    let personas = operator.all::<Persona>();
    let pools = operator.all::<WorkerPool>();
    // There and back once, to learn the name of the pool that is going to be in the way.
    hybrid_above(operator, 1).await?;
    let taken = home(operator, "b0", Phase::Hybrid).await?;
    hybrid_above(operator, 50).await?;
    let shared = home(operator, "b0", Phase::Generic).await?;
    progress(operator, "").await?;
    let gone = |pool: Option<&WorkerPool>| pool.is_none();
    operator.until(&taken, "gone", gone).await?;
    let theirs = json!({
        "apiVersion": "persona.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": taken},
        "spec": {"minReplicas": 0},
    });
    operator.create::<WorkerPool>(theirs).await?;

    hybrid_above(operator, 1).await?;
    for name in ["a0", "a1"] {
        ensure!(home(operator, name, Phase::Hybrid).await? != shared);
    }
    for name in ["b0", "b1"] {
        let held = |p: Option<&Persona>| {
            p.and_then(|p| reason(p, "Routed")).as_deref() == Some("PoolNameTaken")
        };
        let held = operator.until(name, "held back", held).await?;
        let status = held.and_then(|p| p.status).context("gone")?;
        ensure!(status.pool.as_ref() == Some(&shared), "{status:?}");
    }
    ensure!(operator.answer("b0").await? == "Hi", "served where it is");
    progress(operator, "Generic -> Hybrid 2/4").await?;

    add("a2", "A").await?;
    operator.ready::<Persona>("a2").await?;
    progress(operator, "Generic -> Hybrid 3/5").await?;
    personas.delete("b1", &DeleteParams::default()).await?;
    progress(operator, "Generic -> Hybrid 3/4").await?;

    hybrid_above(operator, 50).await?;
    for name in ["a0", "a1", "a2", "b0"] {
        ensure!(home(operator, name, Phase::Generic).await? == shared);
    }
    progress(operator, "").await?;

    hybrid_above(operator, 1).await?;
    progress(operator, "Generic -> Hybrid 3/4").await?;
    pools.delete(&taken, &DeleteParams::default()).await?;
    ensure!(home(operator, "b0", Phase::Hybrid).await? == taken);
    let still = |t: Option<&PersonaTopology>| {
        t.is_some_and(|t| condition(t, "Stable").as_deref() == Some("True"))
    };
    operator.until("default", "Stable", still).await?;
    let left = pools.list(&ListParams::default()).await?;
    ensure!(left.items.len() == 2, "{left:?}");
    Ok(())
}

#[tokio::test]
async fn who_comes_goes_waits_or_turns_back_in_the_middle_of_a_move_is_served_all_the_time()
-> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("midway").await?;
    operator
        .share(json!({
            "thresholds": {"generic": 0, "hybrid": 50, "specialized": 100},
            "hysteresis": 0,
            "stabilization": "0s",
        }))
        .await?;
    for (name, type_) in [("a0", "A"), ("a1", "A"), ("b0", "B"), ("b1", "B")] {
        let more = json!({"type": type_});
        operator.persona(name, &model.base_url(), more).await?;
    }
    for name in ["a0", "a1", "b0", "b1"] {
        home(&operator, name, Phase::Generic).await?;
    }
    let stop = CancellationToken::new();
    let moving = async {
        let moved = course(&operator, &model).await;
        stop.cancel();
        moved
    };
    let (moved, a0, b0) = tokio::join!(
        moving,
        client(&operator, "a0", &stop),
        client(&operator, "b0", &stop)
    );
    moved?;
    // One more was asked on the way.
    let answered = a0? + b0? + 1;
    assert!(answered > 20, "{answered}");
    assert_eq!(model.counts().requests, answered, "each was answered once");
    operator.stop().await
}

/// A persona in a pool of its own, which waits for the one that it is to move to: somebody's is in the
/// way. Answers its present pool.
async fn held_back(operator: &Operator, model: &Upstream) -> Result<WorkerPool> {
    operator.share(json!({"mode": "PerPersona"})).await?;
    let theirs = json!({"minReplicas": 0});
    operator.pool("generic-api-80e4c060", theirs).await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    let own = home(operator, "helper", Phase::PerPersona).await?;
    let mode = json!({"mode": "Generic"});
    operator.patch::<PersonaTopology>("default", mode).await?;
    let held = |p: Option<&Persona>| {
        p.and_then(|p| reason(p, "Routed")).as_deref() == Some("PoolNameTaken")
    };
    operator.until("helper", "held back", held).await?;
    Ok(operator.all::<WorkerPool>().get(&own).await?)
}

/// Waits until all is published again, which has left the persona where it was, and answered there.
async fn keeps_its_place(operator: &Operator, pool: &WorkerPool) -> Result<()> {
    let queue = operator.queue()?;
    let registered = async {
        loop {
            // Until the functions are loaded again there is no answer.
            if let Ok(Some(known)) = queue.registration("helper").await {
                return known;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let known = tokio::time::timeout(PATIENCE, registered).await?;
    assert_eq!(known.pool, pool.metadata.name);
    let complete = async {
        while queue.epoch().await?.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, complete).await??;
    ensure!(operator.answer("helper").await? == "Hi");
    let found = operator.all::<WorkerPool>().get(&pool.name_any()).await?;
    assert_eq!(found.metadata.uid, pool.metadata.uid, "it was retired");
    Ok(())
}

#[tokio::test]
async fn who_waits_for_a_pool_when_the_queue_loses_its_data_stays_served_where_it_was() -> Result<()>
{
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("midflush").await?;
    let pool = held_back(&operator, &model).await?;
    for _ in 0..3 {
        operator.flush().await?;
        keeps_its_place(&operator, &pool).await?;
    }
    operator.stop().await
}

#[tokio::test]
async fn who_waits_for_a_pool_keeps_its_place_though_a_queue_that_loses_all_leaves_no_worker_ready()
-> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("midloss").await?;
    let pool = held_back(&operator, &model).await?;
    let unready = |pool: Option<&WorkerPool>| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status.is_some_and(|status| status.ready_replicas == 0)
    };
    // Again and again, so that nobody gets its functions for long.
    let losing = async {
        loop {
            operator.flush().await?;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let name = pool.name_any();
    tokio::select! {
        lost = losing => lost,
        seen = operator.until(&name, "without a worker", unready) => seen.map(drop),
    }?;
    operator.flush().await?;
    keeps_its_place(&operator, &pool).await?;
    operator.stop().await
}
