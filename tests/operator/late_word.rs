//! A controller that hears of a worker's end while it cannot reach the queue, and tells the queue when the
//! worker has long begun anew.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use persona_operator::api::Persona;
use serde_json::json;
use testbed::Cluster;
use testbed::process_node::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{Ground, Operator, PATIENCE, a_redis, node};
use crate::upstream::{Step, Upstream, stream_head, token};

const POOL: &str = "mine";

/// A line to Redis that can be cut, and mended.
struct Line {
    port: u16,
    is_cut: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Line {
    async fn to(redis: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let is_cut = watch::Sender::new(false);
        let cut = is_cut.clone();
        let server = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    let mut redis = TcpStream::connect(("127.0.0.1", redis)).await?;
                    tokio::select! {
                        passed = tokio::io::copy_bidirectional(&mut client, &mut redis) => {
                            passed.map(drop)
                        }
                        _ = cut.wait_for(|cut| *cut) => Ok(()),
                    }
                });
            }
        });
        Ok(Self {
            port,
            is_cut,
            server,
        })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What Redis says of the attempt that a worker runs: task and fence.
async fn attempt(operator: &Operator, uid: &str) -> Result<(String, Vec<u8>)> {
    let mut connection = operator.redis.connection().await?;
    let prefix = format!("persona:{{{}}}:", operator.namespace);
    let mut leased = redis::cmd("ZRANGE");
    leased.arg(format!("{prefix}lease:{uid}")).arg(0).arg(-1);
    let mut tasks: Vec<String> = leased.query_async(&mut connection).await?;
    let task = tasks.pop().context("it runs nothing")?;
    let mut run = redis::cmd("HGET");
    run.arg(format!("{prefix}t:{task}")).arg("run");
    let run = run.query_async(&mut connection).await?;
    Ok((task, run))
}

async fn until_the_queue_is(operator: &Operator, up: f64) -> Result<()> {
    let waits = async {
        while operator.metric("persona_queue_up").await? != Some(up) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    let waited = tokio::time::timeout(PATIENCE, waits).await;
    waited.with_context(|| format!("persona_queue_up is not {up}"))?
}

async fn kill(operator: &Operator, pod: &str) -> Result<()> {
    let namespace = &operator.namespace;
    let node = node().await?;
    node.kill_container(namespace, pod, "worker", Signal::SIGKILL)
        .await
}

/// Whether the worker runs, as its pod says.
fn runs(pod: Option<&Pod>) -> Option<bool> {
    let statuses = pod?.status.as_ref()?.container_statuses.as_ref()?;
    let worker = statuses.iter().find(|status| status.name == "worker")?;
    let state = worker.state.as_ref()?;
    Some(state.running.is_some())
}

#[tokio::test]
async fn a_late_word_of_a_workers_end_leaves_what_it_runs_since() -> Result<()> {
    node().await?;
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("slow"),
        Step::Hang,
    ])
    .await;
    let redis = a_redis().await?;
    let line = Line::to(redis.port()).await?;
    let direct = format!("redis://127.0.0.1:{}", redis.port());
    let through = format!("redis://127.0.0.1:{}", line.port);
    let ground = Ground {
        cluster: Cluster::shared().await?,
        redis,
        everywhere: false,
        settings: &[
            ("PERSONA_QUEUE_URL", &through),
            ("PERSONA_WORKER_QUEUE_URL", &direct),
        ],
    };
    let operator = Operator::start_on("late-word", ground).await?;
    let one = json!({"minReplicas": 1, "maxReplicas": 1, "slotsPerWorker": 1});
    operator.pool(POOL, one).await?;
    let home = json!({"poolRef": {"name": POOL}, "maxAttempts": 10, "timeout": "120s"});
    operator.persona("helper", &model.base_url(), home).await?;
    operator.ready::<Persona>("helper").await?;
    let pods = operator.pods(POOL).await?;
    let pod = pods.first().context("no worker")?;
    let (name, uid) = (pod.name_any(), pod.uid().context("no uid")?);

    let course = async {
        // A container that crashes once is started again at once, and its end may never be told.
        model.until("the first attempt", |c| c.requests == 1).await;
        kill(&operator, &name).await?;
        model.until("the second attempt", |c| c.requests == 2).await;
        line.is_cut.send_replace(true);
        until_the_queue_is(&operator, 0.0).await?;
        kill(&operator, &name).await?;
        let ended = |pod: Option<&Pod>| runs(pod) == Some(false);
        operator.until(&name, "ended", ended).await?;
        let again = |pod: Option<&Pod>| runs(pod) == Some(true);
        operator.until(&name, "running again", again).await?;
        model.until("the third attempt", |c| c.requests == 3).await;
        let before = attempt(&operator, &uid).await?;
        line.is_cut.send_replace(false);
        // What waited to be told is told first.
        until_the_queue_is(&operator, 1.0).await?;
        assert_eq!(attempt(&operator, &uid).await?, before, "it runs on");
        anyhow::Ok(())
    };
    tokio::select! {
        done = course => done?,
        answer = operator.ask("helper", json!({})) => panic!("it has an answer: {:?}", answer?.text().await?),
    }
    operator.stop().await
}
