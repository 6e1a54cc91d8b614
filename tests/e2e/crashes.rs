//! Worker processes that are killed in the middle of a task.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Stage, container, eventually};
use testbed::upstream::{Step, Upstream, says, stream_head, token};

/// A persona on two workers, and a model that never ends its first answer.
async fn two_workers(stage: &Stage, model: &Upstream) -> Result<()> {
    stage
        .pool("mine", json!({"minReplicas": 2, "maxReplicas": 2}))
        .await?;
    let pool = json!({"poolRef": {"name": "mine"}});
    stage
        .persona("helper", &stage.endpoint(model)?, pool)
        .await?;
    stage.wait_ready("workerpool/mine").await?;
    stage.wait_ready("persona/helper").await
}

/// The pod that runs the pool's one task.
async fn busy_pod(stage: &Stage) -> Result<Pod> {
    let uid = eventually("a busy worker", async || {
        let workers = stage.stats("mine").await?.workers.into_iter();
        let mut busy = workers.filter(|worker| worker.running > 0);
        Ok(busy.next().map(|worker| worker.uid))
    })
    .await?;
    let pods = stage.workers().await?.into_iter();
    let mut busy = pods.filter(|pod| pod.uid().as_ref() == Some(&uid));
    busy.next().context("the busy pod is gone")
}

/// When the kubelet says that the worker of a pod has ended.
async fn kubelets_word(stage: &Stage, pod: &str) -> Result<Instant> {
    let config = watcher::Config::default().fields(&format!("metadata.name={pod}"));
    let pods = watcher(stage.all::<Pod>(), config).applied_objects();
    let mut pods = std::pin::pin!(pods);
    while let Some(pod) = pods.try_next().await? {
        let statuses = pod.status.and_then(|status| status.container_statuses);
        let ended = statuses.iter().flatten().any(|status| {
            let state = status.state.as_ref();
            status.restart_count > 0 || state.is_some_and(|state| state.terminated.is_some())
        });
        if ended {
            return Ok(Instant::now());
        }
    }
    anyhow::bail!("the watch ended")
}

#[tokio::test]
async fn a_killed_workers_task_is_run_again_at_once_and_answered_once() -> Result<()> {
    let Some(stage) = Stage::enter("killed").await? else {
        return Ok(());
    };
    let model = Upstream::start(|asked| match asked.number {
        1 => vec![stream_head("text/event-stream"), token("lost"), Step::Hang],
        _ => says(&["who", "le"]),
    })
    .await;
    two_workers(&stage, &model).await?;
    let killing = async {
        model.until("the first attempt", |c| c.requests == 1).await;
        let pod = busy_pod(&stage).await?;
        let name = pod.name_any();
        let killing = async {
            // After the watch has begun.
            tokio::time::sleep(Duration::from_millis(300)).await;
            stage.node.kill_container(&container(&pod)?).await
        };
        let again = async {
            model.until("the second attempt", |c| c.requests == 2).await;
            anyhow::Ok(Instant::now())
        };
        let word = tokio::time::timeout(PATIENCE, kubelets_word(&stage, &name));
        let word = async { word.await.context("the kubelet said nothing")? };
        let (word, again, ()) = futures::try_join!(word, again, killing)?;
        anyhow::Ok(again.saturating_duration_since(word))
    };
    let (answer, again) = tokio::join!(stage.answer("helper"), killing);
    assert_eq!(answer?, "whole");
    let again = again?;
    // Its lease would run out ten seconds after the kill at the earliest, and the kubelet takes a second
    // or two to say that it ended.
    ensure!(
        again < Duration::from_secs(6),
        "it took {again:?} from the kubelet's word"
    );
    assert_eq!(model.counts().requests, 2);
    stage.leave().await
}

#[tokio::test]
async fn a_stream_whose_worker_is_killed_ends_in_one_error_and_no_second_answer() -> Result<()> {
    let Some(stage) = Stage::enter("spliced").await? else {
        return Ok(());
    };
    let begun = [stream_head("text/event-stream"), token("begun"), Step::Hang];
    let model = Upstream::always(begun.to_vec()).await;
    two_workers(&stage, &model).await?;
    let question = stage.model("helper");
    let stream = stage.chat.ask(&question, "Hello", json!({"stream": true}));
    let mut stream = stream.await?;
    let mut text = String::new();
    while !text.contains("begun") {
        let more = stream.chunk().await?.context("it ended early")?;
        text.push_str(&String::from_utf8_lossy(&more));
    }
    let pod = busy_pod(&stage).await?;
    stage.node.kill_container(&container(&pod)?).await?;
    let rest = async {
        while let Some(more) = stream.chunk().await? {
            text.push_str(&String::from_utf8_lossy(&more));
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, rest)
        .await
        .context("it never ended")??;
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let errors: Vec<Value> = events
        .filter(|event| event.get("error").is_some())
        .collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert_eq!(errors[0]["error"]["code"], "interrupted", "{text}");
    assert_eq!(text.matches("begun").count(), 1, "{text}");
    assert_eq!(model.counts().requests, 1, "no second attempt");
    stage.leave().await
}
