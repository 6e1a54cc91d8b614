//! Who can reach the queue, and what is said of the server it is on.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use persona_operator::api::{Persona, PersonaTopology, WorkerPool};
use persona_operator::queue::access::{gateway_user, namespace_user};
use persona_operator::queue::{Queue, QueueOptions};
use redis::aio::MultiplexedConnection;
use serde_json::json;

use crate::harness::{Operator, PATIENCE, reason};
use crate::upstream::{Upstream, says};

const SECRET: &str = "persona-queue-access";

async fn admin(operator: &Operator) -> Result<MultiplexedConnection> {
    Ok(operator.redis.connection().await?)
}

async fn users(operator: &Operator) -> Result<BTreeSet<String>> {
    let queue = Queue::connect(QueueOptions::new(operator.redis.url()))?;
    Ok(queue.users().await?)
}

/// Waits until it is so.
async fn until(operator: &Operator, what: &str, is: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let waits = async {
        while !is().await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    let seen = tokio::time::timeout(PATIENCE * 2, waits).await;
    seen.with_context(|| format!("not seen: {what}\n{}", operator.controller.last_words()))?
}

async fn has_secret(operator: &Operator) -> Result<bool> {
    Ok(operator.all::<Secret>().get_opt(SECRET).await?.is_some())
}

#[tokio::test]
async fn users_that_redis_has_lost_are_set_again() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("lost-users").await?;
    operator
        .persona("helper", &model.base_url(), json!({}))
        .await?;
    operator.ready::<Persona>("helper").await?;
    let ours = [
        namespace_user("persona", &operator.namespace),
        gateway_user("persona"),
    ];
    let mut redis = admin(&operator).await?;
    let mut delete = redis::cmd("ACL");
    delete.arg("DELUSER").arg(&ours);
    delete.exec_async(&mut redis).await?;
    until(&operator, "both users", async || {
        let users = users(&operator).await?;
        Ok(ours.iter().all(|user| users.contains(user)))
    })
    .await?;
    assert_eq!(operator.answer("helper").await?, "Hi");
    operator.stop().await
}

#[tokio::test]
async fn a_namespace_that_runs_nothing_any_more_has_no_access_until_it_does_again() -> Result<()> {
    let model = Upstream::always(says(&["Hi"])).await;
    let operator = Operator::start("no-access").await?;
    let user = namespace_user("persona", &operator.namespace);
    let personas = operator.all::<Persona>();
    let gone = async || {
        until(&operator, "neither user nor Secret", async || {
            let user = users(&operator).await?.contains(&user);
            Ok(!user && !has_secret(&operator).await?)
        })
        .await
    };
    let served = async || {
        operator
            .persona("helper", &model.base_url(), json!({}))
            .await?;
        operator.ready::<Persona>("helper").await?;
        assert_eq!(operator.answer("helper").await?, "Hi");
        assert!(users(&operator).await?.contains(&user));
        assert!(has_secret(&operator).await?);
        anyhow::Ok(())
    };
    served().await?;
    personas.delete("helper", &DeleteParams::default()).await?;
    gone().await?;

    served().await?;
    // Everything goes while nobody watches; others' users are nobody's business here.
    operator.controller.kill().await?;
    personas.delete("helper", &DeleteParams::default()).await?;
    let pools = operator.all::<WorkerPool>();
    pools
        .delete_collection(&DeleteParams::default(), &Default::default())
        .await?;
    let others = ["persona.another-namespace", "other.team", "somebody"];
    let mut redis = admin(&operator).await?;
    for other in others {
        let mut set = redis::cmd("ACL");
        set.arg(&["SETUSER", other, "on", "-@all"]);
        set.exec_async(&mut redis).await?;
    }
    operator.controller.restart().await?;
    gone().await?;
    let left = users(&operator).await?;
    assert!(others.iter().all(|user| left.contains(*user)), "{left:?}");

    served().await?;
    operator.stop().await
}

#[tokio::test]
async fn a_secret_that_was_changed_by_hand_is_written_again() -> Result<()> {
    let operator = Operator::start("secret").await?;
    operator.pool("mine", json!({})).await?;
    operator.ready::<WorkerPool>("mine").await?;
    let secrets = operator.all::<Secret>();
    let password = async || -> Result<ByteString> {
        let secret = secrets.get(SECRET).await?;
        Ok(secret.data.context("no data")?["password"].clone())
    };
    let before = password().await?;
    let patch = json!({"stringData": {"password": "guessed"}});
    let params = PatchParams::default();
    secrets.patch(SECRET, &params, &Patch::Merge(patch)).await?;
    assert_ne!(password().await?, before);
    // Each controller does so when it begins, and every ten minutes from there on.
    operator.controller.kill().await?;
    operator.controller.restart().await?;
    until(&operator, "the password of before", async || {
        Ok(password().await? == before)
    })
    .await?;
    operator.stop().await
}

#[tokio::test]
async fn a_redis_that_may_lose_what_it_is_given_is_said_by_the_topology_and_a_metric() -> Result<()>
{
    let operator = Operator::start("unsafe").await?;
    operator.share(json!({})).await?;
    let says = |wanted: &'static str| {
        move |t: Option<&PersonaTopology>| {
            t.is_some_and(|t| reason(t, "QueueSafe").as_deref() == Some(wanted))
        }
    };
    operator.until("default", "safe", says("Safe")).await?;
    let risk = "persona_queue_risk{reason=\"NoAppendOnlyFile\"}";
    assert_eq!(operator.metric(risk).await?, Some(0.0));
    let mut redis = admin(&operator).await?;
    let mut set = async |value: &str| {
        let mut config = redis::cmd("CONFIG");
        config.arg(&["SET", "appendonly", value]);
        config.exec_async(&mut redis).await
    };
    set("no").await?;
    let at_risk = says("NoAppendOnlyFile");
    operator.until("default", "at risk", at_risk).await?;
    assert_eq!(operator.metric(risk).await?, Some(1.0));
    set("yes").await?;
    operator.until("default", "safe", says("Safe")).await?;
    operator.stop().await
}
