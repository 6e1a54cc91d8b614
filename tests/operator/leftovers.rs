//! What is in the queue and in Kubernetes no more, and queues that know better than the controller.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use persona_operator::api::names::ANNOTATION_OPENED;
use persona_operator::api::runtime::PersonaConfig;
use persona_operator::api::{Persona, PersonaTopology, WorkerPool};
use persona_operator::queue::NamespaceQueue;
use persona_operator::queue::routing::{CloseAnswer, Route, RouteAnswer, Target};
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::OutcomeKind;
use serde_json::json;

use crate::harness::{Operator, PATIENCE, reason, topology};
use crate::upstream::{Upstream, says};

async fn route(
    queue: &NamespaceQueue,
    like: &Persona,
    (name, uid): (&str, &str),
    target: Target<'_>,
    epoch: u64,
) -> Result<()> {
    let answer = queue
        .route(&Route {
            needs: "",
            persona: name,
            uid,
            target,
            lane: "-",
            epoch,
            config: &PersonaConfig::of(like),
            limits: &like.spec.queue,
            suspended: false,
        })
        .await?;
    anyhow::ensure!(matches!(answer, RouteAnswer::Routed { .. }), "{answer:?}");
    Ok(())
}

/// Waits until the queue is as wanted.
async fn until(what: &str, is: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let waits = async {
        while !is().await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, waits)
        .await
        .with_context(|| format!("not seen: {what}"))?
}

async fn pool(operator: &Operator, name: &str) -> Result<WorkerPool> {
    operator
        .pool(name, json!({"minReplicas": 1, "maxReplicas": 1}))
        .await
}

#[tokio::test]
async fn what_was_deleted_while_nobody_watched_leaves_the_queue_and_its_requests_end() -> Result<()>
{
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("leftovers").await?;
    pool(&operator, "mine").await?;
    operator
        .persona("stays", &model.base_url(), json!({}))
        .await?;
    operator
        .persona("goes", &model.base_url(), json!({}))
        .await?;
    let stays = operator.ready::<Persona>("stays").await?.context("gone")?;
    operator.ready::<Persona>("goes").await?;
    operator.ready::<WorkerPool>("mine").await?;
    let queue = operator.queue()?;
    assert_eq!(queue.pools().await?.len(), 3);

    operator.controller.kill().await?;
    let params = DeleteParams::default();
    operator.all::<Persona>().delete("goes", &params).await?;
    operator.all::<WorkerPool>().delete("mine", &params).await?;
    // Somebody whom the controllers of today never knew, with a request that nobody will run.
    queue.open("ghosts").await?;
    let ghost = ("ghost", "an-uid-of-old");
    route(&queue, &stays, ghost, Target::Pool("ghosts"), 1).await?;
    let answer = queue.enqueue(&Enqueue::new("ghost", "waits", "{}")).await?;
    assert!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
    operator.controller.restart().await?;

    let home = stays.status.context("no status")?.pool.context("no pool")?;
    until("the queue has what Kubernetes has", async || {
        let (personas, pools) = (queue.personas().await?, queue.pools().await?);
        Ok(personas == ["stays"] && pools == [home.clone()])
    })
    .await?;
    let output = queue.output("waits", None).await?.context("it is lost")?;
    let outcome = output.outcome.context("it has not ended")?;
    assert_eq!(outcome.outcome, OutcomeKind::Failed, "{outcome:?}");
    assert_eq!(operator.answer("stays").await?, "Hi");
    operator.stop().await
}

#[tokio::test]
async fn a_pool_that_is_deleted_by_hand_is_closed_in_the_queue() -> Result<()> {
    let operator = Operator::start("by-hand").await?;
    pool(&operator, "mine").await?;
    operator.ready::<WorkerPool>("mine").await?;
    let queue = operator.queue()?;
    assert_eq!(queue.pools().await?, ["mine"]);
    let pools = operator.all::<WorkerPool>();
    pools.delete("mine", &DeleteParams::default()).await?;
    until("no pool is open", async || {
        Ok(queue.pools().await?.is_empty())
    })
    .await?;
    operator.stop().await
}

#[tokio::test]
async fn a_queue_that_has_seen_a_newer_epoch_is_overtaken_and_not_obeyed() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("stale").await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    let helper = operator.ready::<Persona>("helper").await?.context("gone")?;
    let epoch = topology(&operator).await?.status.context("none")?.epoch;
    // As from a topology that was there before a backup was restored.
    let newer = u64::try_from(epoch)? + 1000;
    let queue = operator.queue()?;
    let uid = helper.uid().context("no uid")?;
    route(&queue, &helper, ("helper", &uid), Target::Unchanged, newer).await?;

    let said = json!({"instructions": "Be brief."});
    let changed = operator.patch::<Persona>("helper", said).await?;
    let beyond = move |t: Option<&PersonaTopology>| {
        t.and_then(|t| t.status.as_ref())
            .is_some_and(|s| u64::try_from(s.epoch).is_ok_and(|epoch| epoch > newer))
    };
    operator.until("default", "ahead of it", beyond).await?;
    let generation = changed.metadata.generation;
    until("the change is published", async || {
        let known = queue.registration("helper").await?;
        Ok(known.is_some_and(|k| Some(k.generation) == generation && k.epoch > newer))
    })
    .await?;
    assert_eq!(operator.answer("helper").await?, "Hi");
    let asked = model.received().pop().context("nothing was asked")?.body;
    assert_eq!(asked["messages"][0]["content"], "Be brief.");
    operator.stop().await
}

#[tokio::test]
async fn a_queue_that_has_seen_a_newer_generation_is_overtaken_too() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("restored").await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    let mut newer = operator.ready::<Persona>("helper").await?.context("gone")?;
    let epoch = topology(&operator).await?.status.context("none")?.epoch;
    // As from a persona that was edited often before a backup was restored.
    newer.metadata.generation = Some(1000);
    let queue = operator.queue()?;
    let uid = newer.uid().context("no uid")?;
    let epoch = u64::try_from(epoch)?;
    route(&queue, &newer, ("helper", &uid), Target::Unchanged, epoch).await?;

    let said = json!({"instructions": "Be brief."});
    let changed = operator.patch::<Persona>("helper", said).await?;
    let observed = move |p: Option<&Persona>| {
        let status = p.and_then(|p| p.status.as_ref());
        status.is_some_and(|s| s.observed_generation == changed.metadata.generation)
    };
    operator.until("helper", "published", observed).await?;
    assert_eq!(operator.answer("helper").await?, "Hi");
    let asked = model.received().pop().context("nothing was asked")?.body;
    assert_eq!(asked["messages"][0]["content"], "Be brief.");
    // A controller that begins has to publish it once more, and the namespace with it.
    operator.controller.kill().await?;
    operator.controller.restart().await?;
    operator.controller.ready().await?;
    let said = json!({"instructions": "Be kind."});
    operator.patch::<Persona>("helper", said).await?;
    until("the change is published", async || {
        operator.answer("helper").await?;
        let asked = model.received().pop().context("nothing was asked")?.body;
        Ok(asked["messages"][0]["content"] == "Be kind.")
    })
    .await?;
    operator.stop().await
}

#[tokio::test]
async fn who_was_taken_out_of_the_queue_says_so_and_is_back_when_it_is_made_again() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("taken-out").await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    let helper = operator.ready::<Persona>("helper").await?.context("gone")?;
    let uid = helper.uid().context("no uid")?;
    let queue = operator.queue()?;
    queue.remove("helper", &uid, "a mistake").await?;
    // The next call finds it out.
    let said = json!({"instructions": "Be brief."});
    operator.patch::<Persona>("helper", said).await?;
    let told = |p: Option<&Persona>| {
        let says = |type_| p.and_then(|p| reason(p, type_));
        ["Ready", "Routed"]
            .iter()
            .all(|type_| says(type_).as_deref() == Some("Removed"))
    };
    operator.until("helper", "told", told).await?;
    let personas = operator.all::<Persona>();
    personas.delete("helper", &DeleteParams::default()).await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    operator.ready::<Persona>("helper").await?;
    assert_eq!(operator.answer("helper").await?, "Hi");
    operator.stop().await
}

#[tokio::test]
async fn a_pool_that_was_closed_behind_its_back_opens_again_for_who_belongs_there() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("closed").await?;
    pool(&operator, "mine").await?;
    operator.ready::<WorkerPool>("mine").await?;
    let queue = operator.queue()?;
    assert_eq!(queue.close("mine", 0).await?, CloseAnswer::Closed);
    let more = json!({"poolRef": {"name": "mine"}});
    operator.persona("helper", &model.base_url(), more).await?;
    operator.ready::<Persona>("helper").await?;
    assert_eq!(operator.answer("helper").await?, "Hi");
    operator.stop().await
}

#[tokio::test]
async fn a_managed_pool_that_was_closed_is_written_to_before_it_opens_again() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("reopened").await?;
    // It waits for its key, so that its pool is there, ready and empty.
    let keyed = json!({"model": {"apiKeySecretRef": {"name": "missing", "key": "key"}}});
    operator.persona("waits", &model.base_url(), keyed).await?;
    let listed = |t: Option<&PersonaTopology>| {
        t.and_then(|t| t.status.as_ref())
            .is_some_and(|s| !s.pools.is_empty())
    };
    let topology = operator.until("default", "decided", listed).await?;
    let status = topology.and_then(|t| t.status).context("no status")?;
    let pool = status.pools[0].name.clone();
    let seen = operator.ready::<WorkerPool>(&pool).await?.context("gone")?;
    let mark = |pool: &WorkerPool| pool.annotations().get(ANNOTATION_OPENED).cloned();
    let before = mark(&seen);
    let queue = operator.queue()?;
    assert_eq!(queue.close(&pool, 0).await?, CloseAnswer::Closed);
    // Who closed it deletes it as it was before that.
    let marked = move |pool: Option<&WorkerPool>| {
        pool.and_then(mark).is_some_and(|mark| Some(mark) != before)
    };
    operator.until(&pool, "marked", marked).await?;
    eventually_open(&queue, &pool).await?;
    let as_it_was = DeleteParams {
        preconditions: Some(Preconditions {
            uid: seen.uid(),
            resource_version: seen.resource_version(),
        }),
        ..DeleteParams::default()
    };
    let refused = operator.all::<WorkerPool>().delete(&pool, &as_it_was).await;
    let refused = refused.err().context("it was deleted")?;
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 409));
    operator.stop().await
}

async fn eventually_open(queue: &NamespaceQueue, pool: &str) -> Result<()> {
    let open = async {
        while !queue.pools().await?.contains(&pool.to_owned()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, open).await?
}
