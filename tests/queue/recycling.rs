//! Workers that start afresh take turns.

use std::time::Duration;

use crate::support::fixture;

#[tokio::test]
async fn workers_of_a_pool_start_afresh_one_at_a_time() {
    let q = fixture().await;
    q.open(&["pool", "other"]).await;
    let first = q.worker("first", "pool", 1).await;
    q.worker("second", "pool", 1).await;
    let long = Duration::from_secs(60);
    let may = async |pool, worker, patience| {
        let may = q.ns.may_recycle(pool, worker, patience).await;
        may.expect("an answer")
    };
    assert!(may("pool", "first", long).await);
    assert!(may("pool", "first", long).await, "asked twice");
    assert!(!may("pool", "second", long).await);
    assert!(may("other", "third", long).await, "of another pool");
    first.instance("first-2").register().await;
    let short = Duration::from_millis(20);
    assert!(may("pool", "second", short).await, "the first is back");
    q.pass(2 * short).await;
    assert!(may("pool", "first", long).await, "the second is lost");
}
