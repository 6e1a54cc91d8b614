//! Some hundred scale-ins under load. `cargo soak scale-ins` makes ten thousand.

use anyhow::Result;

use crate::scale_ins::{scale_in, stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_scale_ins_under_load_kill_lose_and_double_no_task() -> Result<()> {
    let operator = stage("shrinking").await?;
    let report = scale_in(&operator, 300, false, |_| {}).await?;
    println!("{report}");
    report.check()?;
    assert!(report.scale_ins >= 300, "{report}");
    assert!(report.drained_busy > 30, "there was no load: {report}");
    assert!(report.called_back > 0, "nobody was called back: {report}");
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_worker_that_is_deleted_without_a_drain_is_seen_as_a_kill() -> Result<()> {
    let operator = stage("sabotage").await?;
    let report = scale_in(&operator, 1, true, |_| {}).await?;
    assert!(!report.killed.is_empty(), "{report}");
    assert!(report.lost.is_empty(), "it runs again elsewhere: {report}");
    assert!(report.check().is_err());
    operator.stop().await
}
