//! Redis is emptied, killed, started again.

use persona_operator::queue::QueueError;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::OutcomeKind;
use persona_operator::queue::work::Fenced;
use testbed::{Redis, RedisOptions};

use crate::fence::changes_nothing;
use crate::support::{CLUSTER, PAYLOAD, numbered, on, persona, until};

async fn redis(append_only: bool) -> Redis {
    let options = RedisOptions {
        append_only,
        ..RedisOptions::default()
    };
    Redis::start(options).await.expect("a Redis")
}

#[tokio::test]
async fn a_zombie_does_not_get_in_after_flushall() {
    let redis = redis(false).await;
    let q = on(&redis).await;
    q.open(&["pool"]).await;
    q.ns.set_epoch(Some("e1")).await.expect("set");
    q.route(&persona("p").length(1)).await;
    q.enqueue("p", "t").await;
    let zombie = q.worker("zombie", "pool", 1).await;
    let old = zombie.take_one().await;
    q.redis::<String>(&redis::cmd("FLUSHALL")).await;

    // Nothing claims to be complete before the routes are published again.
    let task = Enqueue {
        resubmit: true,
        ..Enqueue::new("p", "t", PAYLOAD)
    };
    assert_eq!(q.try_submit(&task).await, EnqueueAnswer::Unknown);
    let stats = q.stats("pool").await;
    assert_eq!((stats.open, stats.epoch), (false, None));
    assert_eq!(zombie.try_finish(&old).await, Fenced::Lost);

    q.open(&["pool"]).await;
    q.route(&persona("p").length(1)).await;
    q.enqueue("p", "newcomer").await;
    // The gateway that holds the request puts it in again; the length limit does not apply.
    q.submit(&task).await;
    changes_nothing(&q, &zombie, &old).await;
    let other = q.worker("other", "pool", 4).await;
    let tasks = other.takes(4, &["newcomer", "t"]).await;
    changes_nothing(&q, &zombie, &old).await;
    other.finish(&tasks[1]).await;
    assert_eq!(q.outcome_kind("t").await, OutcomeKind::Completed);
}

#[tokio::test]
async fn the_same_worker_never_gets_the_same_fence_again_after_flushall() {
    let redis = redis(false).await;
    let q = on(&redis).await;
    let begin = async || {
        q.open(&["pool"]).await;
        q.route(&persona("p")).await;
        q.enqueue("p", "t").await;
    };
    begin().await;
    let w = q.worker("w", "pool", 1).await;
    let before = w.take_one().await;
    q.redis::<String>(&redis::cmd("FLUSHALL")).await;
    begin().await;
    w.register().await;
    let after = w.take_one().await;
    assert_eq!(w.try_finish(&before).await, Fenced::Lost);
    w.finish(&after).await;
}

#[tokio::test]
async fn with_an_append_only_file_a_crash_of_redis_loses_nothing() {
    let redis = redis(true).await;
    let q = on(&redis).await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    let w = q.worker("w", "pool", 4).await;
    let held = w.take_one().await;
    let before = q.queue.install(CLUSTER).await.expect("installed").run_id;
    redis.kill().await.expect("killed");
    let gone = q.queue.ping().await.expect_err("it is away");
    assert!(matches!(gone, QueueError::Unreachable(_)), "{gone}");
    redis.restart().await.expect("restarted");
    until(async || q.queue.ping().await.is_ok()).await;
    let after = q.queue.install(CLUSTER).await.expect("installed").run_id;
    assert_ne!(before, after, "leases are not reaped at once");
    assert_eq!(w.renew(&[&held]).await.expect("renewed").lost, [""; 0]);
    w.finish(&held).await;
    w.takes(4, &["t1", "t2"]).await;
}

#[tokio::test]
async fn without_the_functions_every_verb_says_so_and_install_mends_it() {
    let redis = redis(false).await;
    let q = on(&redis).await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.redis::<String>(redis::cmd("FUNCTION").arg("FLUSH")).await;
    let task = Enqueue::new("p", "t", PAYLOAD);
    let error = q.ns.enqueue(&task).await.expect_err("no function");
    assert!(matches!(error, QueueError::NotInstalled(_)), "{error}");
    let w = q.unregistered("w", "pool", 1);
    let error = w.try_take(1).await.expect_err("no function");
    assert!(matches!(error, QueueError::NotInstalled(_)), "{error}");
    let pools = [(q.ns.clone(), "pool".to_owned())];
    let error = q.queue.stats(&pools).await.expect_err("no function");
    assert!(matches!(error, QueueError::NotInstalled(_)), "{error}");
    q.queue.install(CLUSTER).await.expect("installed");
    q.submit(&task).await;
    w.takes(1, &["t"]).await;
}
