//! From nine personas to sixty and back. `cargo soak walk` does it again and again; tests/e2e does it with
//! real pods.

use anyhow::Result;

use crate::harness::{Operator, PATIENCE};
use crate::walk::{Land, Model, STOPS, walk};

#[tokio::test]
async fn nine_to_sixty_personas_and_back_with_a_client_on_each_are_all_answered_in_order()
-> Result<()> {
    let operator = Operator::start("walk").await?;
    let land = Land {
        client: operator.client.clone(),
        namespace: operator.namespace.clone(),
        queue: operator.queue()?,
        chat: operator.chat()?,
        patience: PATIENCE,
    };
    let model = Model::start().await;
    let endpoint = model.server().base_url();
    let report = walk(land, model, &endpoint, 1).await?;
    println!("{report}");
    assert!(report.requests > 60 * STOPS.len(), "{report}");
    operator.stop().await
}
