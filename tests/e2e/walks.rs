//! From nine personas to sixty and back, with real pods: each of nine has one of its own, then some that
//! all share, then some for each type.

use anyhow::Result;

use crate::harness::{PATIENCE, Stage};
use crate::walk::{Land, Model, STOPS, walk};

#[tokio::test]
async fn nine_to_sixty_personas_and_back_on_real_pods_are_all_answered_in_order() -> Result<()> {
    let Some(stage) = Stage::enter("walk").await? else {
        return Ok(());
    };
    let land = Land {
        client: stage.client.clone(),
        namespace: stage.namespace.clone(),
        queue: stage.queue().await?,
        chat: stage.chat.clone(),
        patience: PATIENCE,
    };
    let model = Model::start().await;
    let endpoint = stage.endpoint(model.server())?;
    let report = walk(land, model, &endpoint, 1).await?;
    println!("{report}");
    let most = STOPS
        .map(|(number, _)| number)
        .into_iter()
        .max()
        .unwrap_or(0);
    assert!(report.requests >= most, "{report}");
    stage.leave().await
}
