//! From nine personas to sixty and back. `cargo soak walk` does it again and again.

use std::sync::Arc;

use anyhow::Result;

use crate::harness::Operator;
use crate::walk::{STOPS, walk};

#[tokio::test]
async fn nine_to_sixty_personas_and_back_with_a_client_on_each_are_all_answered_in_order()
-> Result<()> {
    let operator = Arc::new(Operator::start("walk").await?);
    let report = walk(&operator, 1).await?;
    println!("{report}");
    assert!(report.requests > 60 * STOPS.len(), "{report}");
    Arc::into_inner(operator)
        .expect("all clients have ended")
        .stop()
        .await
}
