//! A few crossings of thresholds under load. `cargo soak crossings` makes a thousand.

use anyhow::Result;

use crate::crossing::cross;
use crate::harness::Operator;

#[tokio::test]
async fn twenty_crossings_between_all_phases_lose_double_and_reorder_nothing() -> Result<()> {
    let operator = Operator::start("crossings").await?;
    let report = cross(&operator, 20, |_| {}).await?;
    println!("{report}");
    assert!(report.requests > 100, "{report}");
    operator.stop().await
}
