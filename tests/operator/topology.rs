//! Personas of a namespace and the pools that they share: from nothing, through the phases, and what
//! happens to those who cannot follow.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::json;

use crate::harness::{Operator, condition, reason, topology};

/// Nobody calls it: these tests ask nothing.
const ENDPOINT: &str = "http://127.0.0.1:9/v1";

async fn pools(operator: &Operator) -> Result<BTreeSet<String>> {
    let pools = operator.all::<WorkerPool>();
    let pools = pools.list(&ListParams::default()).await?;
    Ok(pools.iter().map(ResourceExt::name_any).collect())
}

/// Waits until the topology is settled in a phase with so many personas.
async fn settled(operator: &Operator, phase: Phase, personas: i32) -> Result<PersonaTopology> {
    let found = operator
        .until(
            "default",
            "settled",
            move |found: Option<&PersonaTopology>| {
                found.is_some_and(|topology| {
                    let status = topology.status.clone().unwrap_or_default();
                    status.phase == Some(phase)
                        && status.personas == personas
                        && ["Ready", "Stable"]
                            .iter()
                            .all(|type_| condition(topology, type_).as_deref() == Some("True"))
                })
            },
        )
        .await?;
    found.context("the topology is gone")
}

/// Two is the most in PerPersona, four in Generic.
async fn small(operator: &Operator) -> Result<()> {
    operator
        .share(json!({
            "thresholds": {"generic": 2, "hybrid": 4, "specialized": 100},
            "hysteresis": 1,
            "stabilization": "1s",
        }))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_first_persona_brings_topology_pool_and_route() -> Result<()> {
    let operator = Operator::start("first").await?;
    operator.persona("helper", ENDPOINT, json!({})).await?;
    let persona = operator.ready::<Persona>("helper").await?.context("gone")?;
    let status = persona.status.context("no status")?;
    let pool = status.pool.context("no pool")?;
    assert_eq!(status.phase, Some(Phase::PerPersona));
    assert_eq!(pools(&operator).await?, BTreeSet::from([pool.clone()]));
    let registered = operator.queue()?.registration("helper").await?;
    let registered = registered.context("not registered")?;
    assert_eq!(registered.pool, Some(pool));
    let made = topology(&operator).await?;
    let owners = made.managed_fields().iter();
    let spec_owners: Vec<_> = owners
        .filter(|owner| {
            let fields = owner.fields_v1.as_ref().map(|f| f.0.to_string());
            fields.is_some_and(|fields| fields.contains("f:spec"))
        })
        .collect();
    assert!(
        spec_owners.is_empty(),
        "nobody owns its spec: {spec_owners:?}"
    );
    operator.stop().await
}

#[tokio::test]
async fn personas_walk_through_the_phases_and_back() -> Result<()> {
    let operator = Operator::start("phases").await?;
    small(&operator).await?;
    let add = async |i: usize| {
        let more = json!({"type": format!("T{}", i % 2)});
        operator.persona(&format!("p{i}"), ENDPOINT, more).await
    };
    for i in 0..2 {
        add(i).await?;
    }
    settled(&operator, Phase::PerPersona, 2).await?;
    assert_eq!(pools(&operator).await?.len(), 2);
    add(2).await?;
    settled(&operator, Phase::Generic, 3).await?;
    assert_eq!(pools(&operator).await?.len(), 1);
    for i in 3..5 {
        add(i).await?;
    }
    let hybrid = settled(&operator, Phase::Hybrid, 5).await?;
    let listed = hybrid.status.context("no status")?.pools;
    let listed: BTreeSet<_> = listed.into_iter().map(|pool| pool.name).collect();
    assert_eq!(pools(&operator).await?, listed);
    assert_eq!(listed.len(), 2);
    for i in 0..5 {
        let persona = operator.ready::<Persona>(&format!("p{i}")).await?;
        let pool = persona.context("gone")?.status.context("no status")?.pool;
        let registered = operator.queue()?.registration(&format!("p{i}")).await?;
        let registered = registered.context("not registered")?;
        assert_eq!(registered.pool, pool);
        assert!(pool.is_some_and(|pool| listed.contains(&pool)));
    }
    for i in 2..5 {
        let name = format!("p{i}");
        let personas = operator.all::<Persona>();
        personas.delete(&name, &DeleteParams::default()).await?;
    }
    settled(&operator, Phase::Generic, 2).await?;
    assert_eq!(operator.queue()?.personas().await?.len(), 2);
    operator.stop().await
}

#[tokio::test]
async fn a_missing_secret_holds_back_its_persona_until_it_is_there() -> Result<()> {
    let operator = Operator::start("secret").await?;
    let more = json!({"model": {"apiKeySecretRef": {"name": "provider", "key": "api-key"}}});
    operator.persona("keyed", ENDPOINT, more).await?;
    operator.persona("plain", ENDPOINT, json!({})).await?;
    operator.ready::<Persona>("plain").await?;
    operator
        .until("keyed", "waiting for its Secret", |p: Option<&Persona>| {
            let says = p.and_then(|p| reason(p, "Ready"));
            says.as_deref() == Some("WaitingForCredential")
        })
        .await?;
    let registered = operator.queue()?.registration("keyed").await?;
    assert!(registered.is_some(), "it accepts requests meanwhile");
    operator
        .create::<Secret>(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "provider"},
            "stringData": {"api-key": "k"},
        }))
        .await?;
    operator.ready::<Persona>("keyed").await?;
    operator.stop().await
}

#[tokio::test]
async fn a_pool_of_somebody_else_under_the_name_is_left_alone() -> Result<()> {
    let operator = Operator::start("taken").await?;
    operator.share(json!({"mode": "Generic"})).await?;
    let name = "generic-api-80e4c060";
    let theirs: WorkerPool = operator.pool(name, json!({"maxReplicas": 3})).await?;
    operator.persona("helper", ENDPOINT, json!({})).await?;
    operator
        .until("helper", "held back", |p: Option<&Persona>| {
            p.and_then(|p| reason(p, "Ready")).as_deref() == Some("PoolNameTaken")
        })
        .await?;
    let found = operator.all::<WorkerPool>().get(name).await?;
    assert_eq!(found.spec, theirs.spec);
    assert_eq!(found.uid(), theirs.uid());
    // The topology may say so later than the persona.
    let told = |topology: Option<&PersonaTopology>| {
        topology.and_then(|t| reason(t, "Ready")).as_deref() == Some("PoolNameTaken")
    };
    operator.until("default", "told", told).await?;
    let pools = operator.all::<WorkerPool>();
    pools.delete(name, &DeleteParams::default()).await?;
    operator.ready::<Persona>("helper").await?;
    operator.stop().await
}

#[tokio::test]
async fn a_controller_that_is_killed_in_the_middle_of_a_move_finishes_it() -> Result<()> {
    let operator = Operator::start("killed").await?;
    small(&operator).await?;
    for i in 0..2 {
        operator
            .persona(&format!("p{i}"), ENDPOINT, json!({}))
            .await?;
    }
    settled(&operator, Phase::PerPersona, 2).await?;
    operator.persona("p2", ENDPOINT, json!({})).await?;
    operator
        .until("default", "moving", |found: Option<&PersonaTopology>| {
            found.is_some_and(|t| {
                t.status
                    .as_ref()
                    .is_some_and(|s| s.phase == Some(Phase::Generic))
            })
        })
        .await?;
    operator.controller.kill().await?;
    operator.controller.restart().await?;
    operator.controller.ready().await?;
    settled(&operator, Phase::Generic, 3).await?;
    for i in 0..3 {
        operator.ready::<Persona>(&format!("p{i}")).await?;
    }
    assert_eq!(pools(&operator).await?.len(), 1);
    operator.stop().await
}

#[tokio::test]
async fn a_topology_that_is_deleted_comes_back_and_takes_nothing_along() -> Result<()> {
    let operator = Operator::start("again").await?;
    operator.persona("helper", ENDPOINT, json!({})).await?;
    operator.ready::<Persona>("helper").await?;
    let before = topology(&operator).await?;
    let had = pools(&operator).await?;
    let topologies = operator.all::<PersonaTopology>();
    topologies
        .delete("default", &DeleteParams::default())
        .await?;
    let uid = before.uid();
    let back = operator
        .until("default", "back", move |found: Option<&PersonaTopology>| {
            found.is_some_and(|t| {
                let decided = t.status.as_ref().is_some_and(|s| s.phase.is_some());
                t.uid() != uid && decided
            })
        })
        .await?;
    let epoch = |topology: &PersonaTopology| topology.status.as_ref().map(|s| s.epoch);
    let back = back.context("it is gone")?;
    assert!(epoch(&back) > epoch(&before));
    settled(&operator, Phase::PerPersona, 1).await?;
    assert_eq!(pools(&operator).await?, had);
    let personas = operator.all::<Persona>();
    personas.delete("helper", &DeleteParams::default()).await?;
    settled(&operator, Phase::PerPersona, 0).await?;
    assert!(pools(&operator).await?.is_empty());
    operator.stop().await
}
