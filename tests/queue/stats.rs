//! Every number that autoscaling reads.

use std::collections::BTreeMap;
use std::time::Duration;

use persona_operator::queue::stats::PersonaStats;
use persona_operator::queue::submit::Enqueue;
use persona_operator::queue::work::ReleaseReason;

use crate::support::{PAYLOAD, fixture, numbered, persona};

#[tokio::test]
async fn stats_tell_all_of_a_pool() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.ns.set_epoch(Some("e1")).await.expect("set");
    q.route(&persona("actor").concurrency(1)).await;
    q.route(&persona("wide").concurrency(8).lane("key/a")).await;
    q.route(&persona("idle").concurrency(50)).await;
    q.enqueue_all("actor", numbered("a", 3)).await;
    q.enqueue_all("wide", numbered("w", 2)).await;
    let asleep = persona("asleep").generation(2);
    q.route(&persona("asleep")).await;
    q.enqueue_all("asleep", numbered("s", 2)).await;
    q.route(&asleep.suspended()).await;
    q.pass(Duration::from_millis(10)).await;
    let w = q.worker("w", "pool", 2).await;
    w.takes(2, &["a0"]).await;
    let s = q.stats("pool").await;
    assert_eq!((s.namespace.as_str(), s.pool.as_str()), ("team", "pool"));
    assert!(s.open);
    assert_eq!(s.epoch.as_deref(), Some("e1"));
    assert!(q.now_ms().await - s.at_ms < 60_000);
    // actor: min(3, 1), wide: min(2, 8); what sleeps and what is idle wants nothing.
    assert_eq!((s.demand, s.concurrency), (3, 9));
    let lanes = BTreeMap::from([("-".to_owned(), 1), ("key/a".to_owned(), 2)]);
    assert_eq!(s.demand_by_lane, lanes);
    assert_eq!(s.members, 4);
    assert_eq!((s.queued, s.running, s.runnable), (6, 1, 2));
    assert!(s.oldest_wait_ms >= 10 && s.oldest_wait_ms < 60_000);
    assert_eq!((s.arrived, s.completed), (7, 0));
    assert_eq!((s.wait_sum_ms, s.service_sum_ms), (0, 0));
}

#[tokio::test]
async fn sums_are_of_completed_tasks_only() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    let w = q.worker("w", "pool", 2).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    q.pass(Duration::from_millis(20)).await;
    let done = w.take_one().await;
    q.pass(Duration::from_millis(30)).await;
    w.finish(&done).await;
    let waited = u64::try_from(done.waited.as_millis()).expect("short");
    let handed_back = w.take_one().await;
    w.release(&handed_back, ReleaseReason::Shutdown, Duration::ZERO)
        .await;
    q.ns.cancel("t2").await.expect("cancelled");
    let s = q.stats("pool").await;
    assert_eq!((s.arrived, s.completed), (3, 1));
    assert_eq!(s.wait_sum_ms, waited);
    assert!(s.wait_sum_ms >= 20 && s.service_sum_ms >= 30);
    // Counters only grow, also when their persona goes.
    q.ns.remove("p", "p-uid", "deleted").await.expect("removed");
    let after = q.stats("pool").await;
    assert_eq!((after.arrived, after.completed), (3, 1));
    assert_eq!(after.service_sum_ms, s.service_sum_ms);
}

#[tokio::test]
async fn counters_stay_with_the_pool_where_it_happened() {
    let q = fixture().await;
    q.open(&["old", "new"]).await;
    q.route(&persona("p").pool("old")).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    q.route(&persona("p").pool("new")).await;
    q.enqueue("p", "t2").await;
    let (old, new) = (q.stats("old").await, q.stats("new").await);
    assert_eq!((old.arrived, old.queued, old.members), (2, 0, 0));
    assert_eq!((new.arrived, new.queued, new.members), (1, 3, 1));
}

#[tokio::test]
async fn the_oldest_wait_is_that_of_the_oldest_task_whatever_its_priority() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.submit(&Enqueue {
        priority: -100,
        ..Enqueue::new("p", "oldest", PAYLOAD)
    })
    .await;
    q.pass(Duration::from_millis(50)).await;
    let between = q.now_ms().await;
    q.enqueue("p", "young").await;
    // Since when the oldest one waits: two ages would be of two moments.
    let waits_since = async || {
        let stats = q.stats("pool").await;
        stats.at_ms - stats.oldest_wait_ms
    };
    let since = waits_since().await;
    assert!(since + 50 <= between, "{since} {between}");
    q.ns.cancel("oldest").await.expect("cancelled");
    let since = waits_since().await;
    assert!(since >= between, "{since} {between}");
    q.ns.cancel("young").await.expect("cancelled");
    assert_eq!(q.stats("pool").await.oldest_wait_ms, 0);
}

#[tokio::test]
async fn stats_tell_all_of_a_worker() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    let w = q.unregistered("w", "pool", 3).lanes(&["-", "key/a"]);
    let start = q.now_ms().await;
    w.register().await;
    let task = w.take_one().await;
    let of = async || q.stats("pool").await.workers.remove(0);
    let s = of().await;
    assert_eq!((s.uid.as_str(), s.slots, s.running), ("w", 3, 1));
    assert_eq!(s.reported_running, 0);
    assert_eq!((s.draining, s.drained), (false, false));
    assert!(s.heartbeat_at_ms >= start && s.active_at_ms >= start);
    assert_eq!(s.memory_bytes, 64 << 20);
    assert_eq!(s.lanes, ["-", "key/a"]);
    assert_eq!(s.address, "10.0.0.1:8080");
    let leases = [(task.task.clone(), task.fence.clone())];
    q.pass(Duration::from_millis(2)).await;
    q.ns.renew(&w.heartbeat(2, &leases)).await.expect("renewed");
    let renewed = of().await;
    assert_eq!((renewed.reported_running, renewed.running), (2, 1));
    assert!(renewed.heartbeat_at_ms > s.heartbeat_at_ms);
    q.pass(Duration::from_millis(2)).await;
    w.finish(&task).await;
    assert!(of().await.active_at_ms > s.active_at_ms);
}

#[tokio::test]
async fn a_worker_is_drained_once_a_heartbeat_after_the_drain_said_that_nothing_runs() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    let w = q.worker("w", "pool", 3).await;
    let task = w.take_one().await;
    let drained = async || {
        let worker = q.stats("pool").await.workers.remove(0);
        assert!(worker.draining);
        worker.drained
    };
    q.ns.drain("w", true).await.expect("draining");
    q.pass(Duration::from_millis(2)).await;
    w.renew(&[&task]).await.expect("renewed");
    assert!(!drained().await, "it runs a task");
    w.finish(&task).await;
    assert!(!drained().await, "its last word was that it runs something");
    q.ns.renew(&w.heartbeat(1, &[])).await.expect("renewed");
    assert!(!drained().await, "a direct call");
    w.renew(&[]).await.expect("renewed");
    assert!(drained().await);
}

#[tokio::test]
async fn a_persona_and_an_unknown_pool_have_numbers_too() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    q.worker("w", "pool", 1).await.take_one().await;
    let names = ["p".to_owned(), "nobody".to_owned()];
    let numbers = q.ns.persona_stats(&names).await.expect("numbers");
    let p = PersonaStats {
        queued: 2,
        running: 1,
        quarantined_until_ms: None,
    };
    assert_eq!(numbers, [p, PersonaStats::default()]);
    assert!(q.ns.persona_stats(&[]).await.expect("numbers").is_empty());
    let unknown = q.stats("unknown").await;
    assert!(!unknown.open && unknown.workers.is_empty());
    assert_eq!((unknown.demand, unknown.arrived), (0, 0));
    assert!(q.queue.stats(&[]).await.expect("stats").is_empty());
}

#[tokio::test]
async fn a_pool_whose_data_is_spoilt_keeps_nobody_from_reading_the_others() {
    let q = fixture().await;
    let other = q.queue.namespace("other").expect("a name");
    q.open(&["pool"]).await;
    other.open("pool").await.expect("opened");
    // As a worker of that namespace could.
    let key = format!("{}pool:pool", other.keys().prefix());
    q.redis::<()>(redis::cmd("SET").arg(&key).arg("spoilt"))
        .await;
    let pools = [other, q.ns.clone()].map(|ns| (ns, "pool".to_owned()));
    let mut stats = q.queue.stats(&pools).await.expect("an answer");
    let error = stats.remove(0).expect_err("it cannot be read");
    assert!(!error.is_of_all(), "{error}");
    assert!(stats.remove(0).expect("sound data").open);
}

#[tokio::test]
async fn refusals_are_counted_for_each_provider_in_all_pools() {
    let q = fixture().await;
    q.open(&["pool", "other"]).await;
    let (a, b) = ("http://a.test/v1", "http://b.test/v1");
    q.route(&persona("p").concurrency(5).endpoint(a)).await;
    q.route(&persona("q").concurrency(7).endpoint(b)).await;
    q.route(&persona("e").concurrency(2).endpoint(a).pool("other"))
        .await;
    q.enqueue_all("p", numbered("p", 3)).await;
    q.enqueue_all("q", numbered("q", 1)).await;
    q.enqueue_all("e", numbered("e", 1)).await;
    let w = q.worker("w", "pool", 3).await;
    let mut refused = 0;
    for taken in w.take(3).await {
        if taken.persona == "p" {
            let wait = Duration::from_millis(60);
            w.release(&taken, ReleaseReason::RateLimited, wait).await;
            refused += 1;
        }
    }
    assert!(refused > 0);
    let mut seen = q.stats("pool").await.providers;
    seen.sort_by_key(|provider| provider.concurrency);
    let [limited, other] = seen.as_slice() else {
        panic!("{seen:?}");
    };
    assert_eq!((limited.concurrency, other.concurrency), (5, 7));
    assert_eq!((limited.limited, other.limited), (refused, 0));
    assert_eq!((limited.running, other.running), (0, 1));
    let elsewhere = q.stats("other").await.providers;
    assert_eq!(elsewhere[0].key, limited.key);
    assert_eq!(elsewhere[0].limited, refused);
}
