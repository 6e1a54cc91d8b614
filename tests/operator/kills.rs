//! A controller that is killed at each of its writes in a move, to the API server and to Redis, before
//! and after it: where everything comes to rest is the same as without.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use persona_operator::api::{Persona, PersonaTopology, Phase, WorkerPool};
use serde_json::json;
use testbed::Cluster;
use tokio_util::sync::CancellationToken;

use crate::api_proxy::{API, ApiProxy};
use crate::crossing::{Log, ask};
use crate::fuse::{Cut, Fuse};
use crate::harness::{Ground, Operator, PATIENCE, a_redis, condition, node};
use crate::queue_proxy::{QueueProxy, REDIS};
use crate::upstream::{Upstream, says};

/// More writes than a move of three personas takes.
const MOST: usize = 120;

/// Where everything is when nothing moves any more.
#[derive(Debug, PartialEq)]
struct Rest {
    pools: Vec<String>,
    /// Pool in the status of each persona.
    personas: BTreeMap<String, Option<String>>,
    /// Pool of each in the queue.
    routed: BTreeMap<String, Option<String>>,
    open: Vec<String>,
}

async fn rest(operator: &Operator) -> Result<Rest> {
    let all = ListParams::default();
    let pools = operator.all::<WorkerPool>().list(&all).await?;
    let personas = operator.all::<Persona>().list(&all).await?;
    let queue = operator.queue()?;
    let mut routed = BTreeMap::new();
    for name in queue.personas().await? {
        let known = queue.registration(&name).await?;
        routed.insert(name, known.and_then(|known| known.pool));
    }
    let mut open = queue.pools().await?;
    open.sort();
    let place = |p: Persona| (p.name_any(), p.status.and_then(|status| status.pool));
    Ok(Rest {
        pools: pools.iter().map(ResourceExt::name_any).collect(),
        personas: personas.into_iter().map(place).collect(),
        routed,
        open,
    })
}

/// Waits until nothing moves in a phase.
async fn settled(operator: &Operator, phase: Phase) -> Result<Rest> {
    let personas = if phase == Phase::Generic { 3 } else { 2 };
    let still = move |found: Option<&PersonaTopology>| {
        found.is_some_and(|t| {
            let status = t.status.clone().unwrap_or_default();
            let is = |type_| condition(t, type_).as_deref() == Some("True");
            status.phase == Some(phase)
                && status.personas == personas
                && is("Ready")
                && is("Stable")
        })
    };
    operator.until("default", phase.as_str(), still).await?;
    // The status of the topology is not the last word of a move: a persona that was deleted while
    // nobody watched is taken out of the queue by the next sweep.
    let agrees = async {
        loop {
            let rest = rest(operator).await?;
            let same = rest.personas == rest.routed && rest.pools == rest.open;
            if same && rest.personas.len() == personas as usize {
                return anyhow::Ok(rest);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, agrees).await {
        Ok(rest) => rest,
        Err(_) => anyhow::bail!("queue and objects differ: {:?}", rest(operator).await?),
    }
}

async fn cross(operator: &Operator, model: &Upstream, phase: Phase) -> Result<()> {
    if phase == Phase::Generic {
        operator.persona("p2", &model.base_url(), json!({})).await?;
    } else {
        let personas = operator.all::<Persona>();
        personas.delete("p2", &DeleteParams::default()).await?;
    }
    Ok(())
}

/// Crosses with a controller that is killed at its n-th write; false if it has fewer.
async fn killed_at(
    operator: &Operator,
    fuse: &Fuse,
    model: &Upstream,
    (phase, number, cut): (Phase, usize, Cut),
    expected: &Rest,
) -> Result<bool> {
    fuse.arm(number, cut);
    cross(operator, model, phase).await?;
    let killed = tokio::select! {
        () = fuse.blown() => true,
        // It may blow in this very moment.
        rest = settled(operator, phase) => { rest?; fuse.spare() }
    };
    if killed {
        let blown = tokio::time::timeout(PATIENCE, fuse.blown()).await;
        blown.context("the write had no end")?;
        operator.controller.kill().await?;
        fuse.disarm();
        // Its successor need not wait until the lease has run out.
        let leases = operator.all::<Lease>();
        let (params, all) = (DeleteParams::default(), ListParams::default());
        leases.delete_collection(&params, &all).await?;
        operator.controller.restart().await?;
    }
    let found = settled(operator, phase).await;
    let found = found.with_context(|| format!("killed {cut:?} write {number} to {phase:?}"))?;
    ensure!(
        found == *expected,
        "killed {cut:?} write {number} to {phase:?}: {found:#?} instead of {expected:#?}"
    );
    Ok(killed)
}

/// Crosses to and fro, killed at each write in turn; how often.
async fn kill_at_each_write(
    operator: &Operator,
    fuse: &Fuse,
    model: &Upstream,
    cuts: [Cut; 2],
) -> Result<usize> {
    let mut expected = Vec::new();
    for phase in [Phase::Generic, Phase::PerPersona] {
        cross(operator, model, phase).await?;
        expected.push(settled(operator, phase).await?);
    }
    let mut kills = 0;
    for number in 1..MOST {
        let up = (Phase::Generic, number, cuts[0]);
        let up = killed_at(operator, fuse, model, up, &expected[0]).await?;
        let down = (Phase::PerPersona, number, cuts[1]);
        let down = killed_at(operator, fuse, model, down, &expected[1]).await?;
        kills += usize::from(up) + usize::from(down);
        if !up && !down {
            return Ok(kills);
        }
    }
    anyhow::bail!("a move takes more than {MOST} writes")
}

async fn course(name: &str, cuts: [Cut; 2]) -> Result<()> {
    node().await?;
    let cluster = Cluster::shared().await?;
    let fuse = Arc::new(Fuse::default());
    let proxy = ApiProxy::start(cluster.client().await?, fuse.clone()).await?;
    let redis = a_redis().await?;
    let queue = QueueProxy::start(redis.port(), fuse.clone()).await?;
    let direct = format!("redis://127.0.0.1:{}", redis.port());
    let ground = Ground {
        cluster,
        redis,
        everywhere: false,
        settings: &[
            proxy.setting(),
            ("PERSONA_QUEUE_URL", &queue.url()),
            ("PERSONA_WORKER_QUEUE_URL", &direct),
        ],
    };
    let operator = Operator::start_on(name, ground).await?;
    let log = Arc::new(Log::default());
    let book = log.clone();
    let model = Upstream::start(move |asked| {
        book.arrived(&asked.body);
        says(&["alive"])
    })
    .await;
    operator
        .share(json!({
            "thresholds": {"generic": 2, "hybrid": 50, "specialized": 100},
            "hysteresis": 0,
            "stabilization": "0s",
        }))
        .await?;
    for name in ["p0", "p1"] {
        // One at a time, so that the model sees them in their order.
        let more = json!({"queue": {"maxConcurrency": 1}});
        operator.persona(name, &model.base_url(), more).await?;
    }
    settled(&operator, Phase::PerPersona).await?;
    let stop = CancellationToken::new();
    let asking = async {
        let mut asked = 0;
        while !stop.is_cancelled() {
            ensure!(operator.answer("p0").await? == "alive");
            asked += 1;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok(asked)
    };
    let killing = async {
        let kills = kill_at_each_write(&operator, &fuse, &model, cuts).await;
        stop.cancel();
        kills
    };
    let queue = operator.queue()?;
    let numbered = ask(&queue, "p1", &log, &stop);
    let (asked, numbered, kills) = tokio::join!(asking, numbered, killing);
    let kills = kills?;
    let kills_at = [API, REDIS].map(|server| (server, fuse.times(server)));
    println!("{kills} kills, by the write they came at: {kills_at:?}");
    ensure!(kills_at.iter().all(|(_, n)| *n > 10), "{kills_at:?}");
    let numbered = numbered?;
    log.in_order(numbered)?;
    let answered = asked? + numbered;
    ensure!(
        model.counts().requests == answered,
        "each was answered once"
    );
    operator.stop().await
}

#[tokio::test]
async fn killed_at_any_write_of_a_move_the_controller_ends_where_it_would_have_ended() -> Result<()>
{
    course("kills", [Cut::After, Cut::Before]).await
}

#[tokio::test]
async fn killed_before_a_write_on_the_way_up_and_after_one_on_the_way_back_it_ends_there_too()
-> Result<()> {
    course("kills-too", [Cut::Before, Cut::After]).await
}
