//! Several namespaces under one controller, on one Redis: what happens in one changes nothing in the
//! others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Resource, ResourceExt};
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use persona_operator::queue::access::namespace_user;
use persona_operator::queue::routing::Registration;
use serde_json::{Value, json};
use testbed::{Cluster, Options, ProcessNode};
use tokio_util::sync::CancellationToken;

use crate::harness::{Ground, Operator, PATIENCE, a_redis, condition, join_node, reason};
use crate::upstream::{Upstream, says};

/// An operator of all namespaces, in a cluster of its own.
struct Stage {
    operator: Operator,
    _node: ProcessNode,
    cluster: Cluster,
}

impl Stage {
    async fn start(name: &str) -> Result<Self> {
        let cluster = Cluster::start(Options::default()).await?;
        let node = join_node(&cluster, "workers").await?;
        let ground = Ground {
            cluster: &cluster,
            redis: a_redis().await?,
            everywhere: true,
            settings: &[],
        };
        let operator = Operator::start_on(name, ground).await?;
        Ok(Self {
            operator,
            _node: node,
            cluster,
        })
    }

    async fn beside(&self, name: &str) -> Result<Operator> {
        Ok(self.operator.beside(self.cluster.namespace(name).await?))
    }
}

/// Everything of a namespace that only an event in it may change.
#[derive(Debug, PartialEq)]
struct Standing {
    topology: Value,
    pools: BTreeMap<String, Value>,
    /// Uids, by name.
    pods: BTreeMap<String, Option<String>>,
    personas: BTreeMap<String, Value>,
    routes: BTreeMap<String, Option<Registration>>,
    open: BTreeSet<String>,
}

impl Standing {
    async fn of(operator: &Operator) -> Result<Self> {
        let all = ListParams::default();
        let topology: PersonaTopology = operator.all().get("default").await?;
        let pools = operator.all::<WorkerPool>().list(&all).await?;
        let pods = operator.all::<Pod>().list(&all).await?;
        let personas = operator.all::<Persona>().list(&all).await?;
        let queue = operator.queue()?;
        let living: BTreeSet<String> = pools.iter().filter_map(ResourceExt::uid).collect();
        let mut routes = BTreeMap::new();
        for name in queue.personas().await? {
            routes.insert(name.clone(), queue.registration(&name).await?);
        }
        Ok(Self {
            topology: without_numbers(&topology)?,
            pools: by_name(pools.items)?,
            pods: pods
                .iter()
                // Those that go, and those of pools that are gone, do so in their own time.
                .filter(|p| p.metadata.deletion_timestamp.is_none())
                .filter(|p| {
                    let mut owners = p.owner_references().iter();
                    owners.any(|owner| living.contains(&owner.uid))
                })
                .map(|p| (p.name_any(), p.uid()))
                .collect(),
            personas: by_name(personas.items)?,
            routes,
            open: queue.pools().await?.into_iter().collect(),
        })
    }
}

fn by_name<K: Resource + serde::Serialize>(objects: Vec<K>) -> Result<BTreeMap<String, Value>> {
    let named = objects
        .iter()
        .map(|o| Ok((o.name_any(), without_numbers(o)?)));
    named.collect()
}

/// Spec and status of an object, without what follows its requests.
fn without_numbers<K: serde::Serialize>(object: &K) -> Result<Value> {
    let object = serde_json::to_value(object)?;
    let mut status = object["status"].clone();
    if let Some(status) = status.as_object_mut() {
        for number in ["queued", "running", "busy", "idle", "oldestWait"] {
            status.remove(number);
        }
        let conditions = status.get_mut("conditions");
        for condition in conditions
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            // What it says in words has numbers too.
            condition["message"] = Value::Null;
        }
    }
    let meta = &object["metadata"];
    Ok(json!({
        "uid": meta["uid"],
        "generation": meta["generation"],
        "spec": object["spec"],
        "status": status,
    }))
}

/// How a namespace stands once its own beginning has had its last effects.
async fn at_rest(operator: &Operator) -> Result<Standing> {
    let rests = async {
        let mut before = Standing::of(operator).await?;
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = Standing::of(operator).await?;
            if now == before {
                return anyhow::Ok(now);
            }
            before = now;
        }
    };
    tokio::time::timeout(PATIENCE, rests).await?
}

/// Waits until nothing moves in a phase.
async fn settled(operator: &Operator, phase: Phase, personas: i32) -> Result<()> {
    let still = move |t: Option<&PersonaTopology>| {
        t.is_some_and(|t| {
            let status = t.status.clone().unwrap_or_default();
            let stable = condition(t, "Stable").as_deref() == Some("True");
            status.phase == Some(phase) && status.personas == personas && stable
        })
    };
    operator.until("default", phase.as_str(), still).await?;
    Ok(())
}

async fn because(operator: &Operator, persona: &str, word: &'static str) -> Result<()> {
    let waits =
        move |p: Option<&Persona>| p.is_some_and(|p| reason(p, "Ready").as_deref() == Some(word));
    operator.until(persona, word, waits).await?;
    Ok(())
}

/// Asks until `stop`; how many were answered, each with the words of this namespace's model.
async fn client(
    operator: &Operator,
    persona: &str,
    words: &str,
    stop: &CancellationToken,
) -> Result<usize> {
    let mut answered = 0;
    while !stop.is_cancelled() {
        let answer = operator.answer(persona).await?;
        ensure!(answer == words, "{answer} instead of {words}");
        answered += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(answered)
}

/// Two settle down as they are, and the third crosses its threshold to and fro; then one of the two is
/// mended, and goes.
async fn course(stage: &Stage, [grows, calm, ill]: [&Operator; 3], model: &Upstream) -> Result<()> {
    let before = [at_rest(calm).await?, at_rest(ill).await?];
    let same = async || -> Result<()> {
        for (operator, before) in [calm, ill].into_iter().zip(&before) {
            let now = Standing::of(operator).await?;
            ensure!(now == *before, "{now:#?}\ninstead of\n{before:#?}");
        }
        Ok(())
    };
    for _ in 0..2 {
        grows.persona("third", &model.base_url(), json!({})).await?;
        settled(grows, Phase::Generic, 3).await?;
        same().await?;
        let personas = grows.all::<Persona>();
        personas.delete("third", &DeleteParams::default()).await?;
        settled(grows, Phase::PerPersona, 2).await?;
        same().await?;
    }

    let before = [at_rest(grows).await?, at_rest(calm).await?];
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "missing"},
        "stringData": {"api-key": "sk-test"},
    });
    ill.create::<Secret>(secret).await?;
    ill.ready::<Persona>("keyless").await?;
    let namespaces: Api<Namespace> = Api::all(ill.client.clone());
    namespaces
        .delete(&ill.namespace, &DeleteParams::default())
        .await?;
    let user = namespace_user("persona", &ill.namespace);
    let gone = async {
        loop {
            let queue = ill.queue()?;
            let left = queue.personas().await?.len() + queue.pools().await?.len();
            if left == 0 && !queue.queue().users().await?.contains(&user) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let gone = tokio::time::timeout(PATIENCE * 2, gone).await;
    gone.with_context(|| stage.operator.controller.last_words())??;
    for (operator, before) in [grows, calm].into_iter().zip(&before) {
        let now = Standing::of(operator).await?;
        ensure!(now == *before, "{now:#?}\ninstead of\n{before:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_happens_in_a_namespace_changes_nothing_in_the_others() -> Result<()> {
    let stage = Stage::start("grows").await?;
    let grows = stage.operator.clone();
    let (calm, ill) = (stage.beside("calm").await?, stage.beside("ill").await?);
    let models = [
        Upstream::always(says(&["grows"])).await,
        Upstream::always(says(&["calm"])).await,
        Upstream::always(says(&["ill"])).await,
    ];
    let one_each = json!({"maxReplicas": 1});
    let quick = json!({"generic": 2, "hybrid": 50, "specialized": 100});
    grows
        .share(json!({
            "thresholds": quick, "hysteresis": 0, "stabilization": "0s", "pool": one_each,
        }))
        .await?;
    calm.share(json!({"mode": "Hybrid", "pool": one_each}))
        .await?;
    ill.share(json!({"mode": "Generic", "pool": one_each}))
        .await?;
    // The same names everywhere.
    for (operator, model) in [&grows, &calm, &ill].into_iter().zip(&models) {
        for name in ["helper", "other"] {
            let more = json!({"type": name});
            operator.persona(name, &model.base_url(), more).await?;
        }
    }
    let keyed = json!({"model": {"apiKeySecretRef": {"name": "missing", "key": "api-key"}}});
    let nowhere = json!({"maxReplicas": 1, "template": {"nodeSelector": {"no": "such"}}});
    ill.persona("keyless", &models[2].base_url(), keyed).await?;
    ill.pool("stuck", nowhere).await?;
    let own = json!({"poolRef": {"name": "stuck"}});
    ill.persona("stuck", &models[2].base_url(), own).await?;

    settled(&grows, Phase::PerPersona, 2).await?;
    settled(&calm, Phase::Hybrid, 2).await?;
    because(&ill, "keyless", "WaitingForCredential").await?;
    because(&ill, "stuck", "WaitingForPool").await?;
    for operator in [&grows, &calm, &ill] {
        for name in ["helper", "other"] {
            operator.ready::<Persona>(name).await?;
        }
    }
    let unschedulable = |p: Option<&WorkerPool>| {
        p.is_some_and(|p| reason(p, "Ready").as_deref() == Some("Unschedulable"))
    };
    ill.until("stuck", "unschedulable", unschedulable).await?;

    let stop = CancellationToken::new();
    let moving = async {
        let moved = course(&stage, [&grows, &calm, &ill], &models[0]).await;
        stop.cancel();
        moved
    };
    let (moved, grown, calmed) = tokio::join!(
        moving,
        client(&grows, "helper", "grows", &stop),
        client(&calm, "helper", "calm", &stop),
    );
    moved?;
    let answered = [grown?, calmed?];
    assert!(answered.iter().all(|n| *n > 20), "{answered:?}");
    for (model, answered) in models.iter().zip(answered) {
        assert_eq!(model.counts().requests, answered, "each was answered once");
    }
    stage.operator.stop().await
}

#[tokio::test]
async fn a_namespace_whose_data_in_redis_is_spoilt_is_alone_with_that() -> Result<()> {
    let stage = Stage::start("sound").await?;
    let sound = stage.operator.clone();
    let spoilt = stage.beside("spoilt").await?;
    let model = Upstream::always(says(&["Hi"])).await;
    for operator in [&sound, &spoilt] {
        operator
            .persona("helper", &model.base_url(), json!({}))
            .await?;
        operator.ready::<Persona>("helper").await?;
    }
    let pool = spoilt.all::<Persona>().get("helper").await?;
    let pool = pool.status.and_then(|s| s.pool).context("no pool")?;
    // As a worker of that namespace could: what a verb expects to be of another type.
    let prefix = format!("persona:{{{}}}:", spoilt.namespace);
    let mut redis = spoilt.redis.connection().await?;
    let keys = [
        format!("pool:{pool}"),
        "due".into(),
        "pools".into(),
        "personas".into(),
    ]
    .map(|key| prefix.clone() + &key);
    for key in &keys {
        let mut pipe = redis::pipe();
        pipe.del(key).set(key, "spoilt");
        pipe.exec_async(&mut redis).await?;
    }
    let blind = |p: Option<&WorkerPool>| {
        p.is_some_and(|p| reason(p, "ScalingActive").as_deref() == Some("QueueUnreachable"))
    };
    spoilt.until(&pool, "blind", blind).await?;

    // The others are served, come and move all the same.
    assert_eq!(sound.answer("helper").await?, "Hi");
    sound.persona("new", &model.base_url(), json!({})).await?;
    sound.ready::<Persona>("new").await?;
    assert_eq!(sound.answer("new").await?, "Hi");
    sound
        .patch::<PersonaTopology>("default", json!({"mode": "Hybrid"}))
        .await?;
    settled(&sound, Phase::Hybrid, 2).await?;
    assert_eq!(sound.answer("new").await?, "Hi");
    let follows = |p: Option<&WorkerPool>| {
        p.is_some_and(|p| condition(p, "ScalingActive").as_deref() == Some("True"))
    };
    let home = sound.all::<Persona>().get("new").await?;
    let home = home.status.and_then(|s| s.pool).context("no pool")?;
    sound.until(&home, "followed", follows).await?;
    assert_eq!(sound.metric("persona_queue_up").await?, Some(1.0));

    // What was spoilt is taken away: it is as lost data, and published again.
    let mut delete = redis::cmd("DEL");
    delete.arg(&keys);
    delete.exec_async(&mut redis).await?;
    spoilt.until(&pool, "followed", follows).await?;
    assert_eq!(spoilt.answer("helper").await?, "Hi");
    stage.operator.stop().await
}
