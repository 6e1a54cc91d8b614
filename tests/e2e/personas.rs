//! From a manifest to the answer of a real model.

use anyhow::Result;
use testbed::{ModelOptions, ModelServer};

use crate::harness::{Stage, example};

#[tokio::test]
async fn an_applied_persona_becomes_ready_and_a_real_model_answers_whole_and_streamed() -> Result<()>
{
    let Some(stage) = Stage::enter("first").await? else {
        return Ok(());
    };
    let model = ModelServer::start(ModelOptions::default()).await?;
    let address = stage.node.forward(model.address().port())?;
    let namespaces = stage.cluster.kubectl().await?;
    testbed::release::run(namespaces, &["create", "namespace", "persona-demo"]).await?;
    let outside = stage
        .cluster
        .serve_outside("persona-demo", "model", 8080, address);
    outside.await?;
    for file in ["demo/topology.yaml", "demo/helper.yaml"] {
        let path = example(file);
        stage
            .kubectl(&["apply", "-f", &path.to_string_lossy()])
            .await?;
    }
    stage.wait_ready("persona/helper").await?;
    stage.wait_ready("personatopology/default").await?;
    stage.wait_ready("workerpools").await?;

    let helper = stage.model("helper");
    let whole = stage.chat.answer(&helper, "What is a cat?").await?;
    assert!(!whole.trim().is_empty(), "{whole:?}");
    let mut pieces = 0;
    let streamed = stage
        .chat
        .stream(&helper, "What is a dog?", |_| pieces += 1)
        .await?;
    assert!(!streamed.trim().is_empty(), "{streamed:?}");
    assert!(pieces > 1, "it came in one piece: {streamed:?}");
    assert!(model.metric("tokens_predicted_total").await? > 0.0);
    model.stop().await?;
    stage.leave().await
}
