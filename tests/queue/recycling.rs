//! Workers that are to be followed by fresh ones: they ask to be replaced, or start afresh in turns.

use std::time::Duration;

use persona_operator::queue::heartbeat::RecycleReason;

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

#[tokio::test]
async fn a_worker_asks_to_be_replaced_until_a_new_instance_has_registered() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    let mut w = q.worker("w", "pool", 1).await;
    let asks = async || q.stats("pool").await.workers[0].recycle;
    assert_eq!(asks().await, None);
    for reason in RecycleReason::ALL {
        w.recycle = Some(reason);
        w.renew(&[]).await.expect("renewed");
        assert_eq!(asks().await, Some(reason));
    }
    w.recycle = None;
    w.instance("w-2").register().await;
    assert_eq!(asks().await, None);
}
