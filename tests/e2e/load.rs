//! A pool that follows its queue, in real pods.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use persona_operator::api::WorkerPool;
use serde_json::json;

use crate::harness::{Stage, eventually};
use testbed::upstream::{Step, Upstream, done, stream_head, token};

#[tokio::test]
async fn a_pool_grows_under_load_and_shrinks_without_cutting_a_request_short() -> Result<()> {
    let Some(stage) = Stage::enter("load").await? else {
        return Ok(());
    };
    let model = Upstream::start(|asked| {
        // Of different lengths, so that workers empty at different times.
        let time = Duration::from_millis(1000 + 300 * (asked.number as u64 % 8));
        vec![
            stream_head("text/event-stream"),
            token("slow"),
            Step::Pause(time),
            done(),
        ]
    })
    .await;
    let spec = json!({"maxReplicas": 6, "slotsPerWorker": 2, "idleTimeout": "2s"});
    stage.pool("mine", spec).await?;
    let more = json!({"poolRef": {"name": "mine"}, "queue": {"maxConcurrency": 12}});
    stage
        .persona("helper", &stage.endpoint(&model)?, more)
        .await?;
    stage.wait_ready("persona/helper").await?;
    let mut most = 0;
    let mut sent = 0;
    // Bursts with pauses in which workers drain.
    for burst in [40, 3, 12] {
        sent += burst;
        let answers = try_join_all((0..burst).map(|_| stage.answer("helper")));
        let mut answers = std::pin::pin!(answers);
        let answers = loop {
            tokio::select! {
                answers = &mut answers => break answers?,
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    most = most.max(stage.workers().await?.len());
                }
            }
        };
        assert!(answers.iter().all(|answer| answer == "slow"), "{answers:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(most, 6, "12 requests at once, 2 a worker");
    eventually("one worker is left", async || {
        Ok((stage.workers().await?.len() == 1).then_some(()))
    })
    .await?;
    assert_eq!(model.counts().requests, sent, "no request ran twice");
    assert_eq!(model.counts().given_up, 0, "none was cut short");
    let small = |pool: Option<&WorkerPool>| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status.is_some_and(|status| status.replicas == 1 && status.draining == 0)
    };
    let _: WorkerPool = stage.until("mine", "back at one worker", small).await?;
    stage.leave().await
}
