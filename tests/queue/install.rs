//! What is checked before the queue is used, and how the functions get there.

use persona_operator::queue::library::{Installed, LIBRARY, source};
use persona_operator::queue::submit::Enqueue;
use persona_operator::queue::{Queue, QueueError};
use redis::Value;
use testbed::net::Port;
use testbed::{Redis, RedisOptions};

use crate::support::{CLUSTER, PAYLOAD, connect, fixture, on, persona};

async fn server(config: &[&str]) -> Redis {
    let options = RedisOptions {
        append_only: true,
        config: config.iter().map(|line| (*line).to_owned()).collect(),
        ..RedisOptions::default()
    };
    Redis::start(options).await.expect("a Redis")
}

async fn install(queue: &Queue) -> (Vec<&'static str>, Installed) {
    let installed = queue.install(CLUSTER).await.expect("an answer");
    let reasons = installed.findings.iter().map(|it| it.reason).collect();
    (reasons, installed)
}

async fn has_functions(redis: &Redis) -> bool {
    let mut connection = redis.connection().await.expect("a connection");
    let list: Vec<Value> = redis::cmd("FUNCTION")
        .arg("LIST")
        .query_async(&mut connection)
        .await
        .expect("a list");
    !list.is_empty()
}

#[tokio::test]
async fn a_sound_server_gets_the_functions_without_a_finding() {
    let redis = server(&[]).await;
    let queue = connect(&redis.url(), "p");
    assert!(!has_functions(&redis).await);
    let (reasons, installed) = install(&queue).await;
    assert_eq!(reasons, [""; 0]);
    assert!(installed.run_id.len() > 40, "{}", installed.run_id);
    assert!(has_functions(&redis).await);
    assert_eq!(install(&queue).await.1, installed);
}

#[tokio::test]
async fn eviction_and_a_missing_append_only_file_are_named_but_not_fatal() {
    let redis = server(&["maxmemory-policy allkeys-lru", "appendonly no"]).await;
    let queue = connect(&redis.url(), "p");
    let (reasons, _) = install(&queue).await;
    assert_eq!(reasons, ["Eviction", "NoAppendOnlyFile"]);
    assert!(has_functions(&redis).await);
}

#[tokio::test]
async fn a_replica_and_cluster_mode_are_fatal_and_nothing_is_loaded() {
    let master = server(&[]).await;
    let replica = format!("replicaof 127.0.0.1 {}", master.port());
    // The one that Redis would choose is of the kernel's ephemeral ports, and may be in use.
    let bus = Port::free().expect("a port");
    let bus_line = format!("cluster-port {}", bus.number());
    for (config, reason) in [
        (&[replica.as_str()][..], "Replica"),
        (&["cluster-enabled yes", &bus_line], "ClusterMode"),
    ] {
        let redis = server(config).await;
        let (reasons, installed) = install(&connect(&redis.url(), "p")).await;
        assert_eq!(reasons, [reason]);
        assert!(installed.findings[0].fatal);
        assert!(!has_functions(&redis).await, "{reason}");
    }
}

#[tokio::test]
async fn a_prefix_belongs_to_the_cluster_that_came_first() {
    let q = fixture().await;
    q.queue.install(CLUSTER).await.expect("its own");
    let error = q.queue.install("cluster-2").await.expect_err("another's");
    let QueueError::ForeignInstallation { prefix, owner } = error else {
        panic!("{error}");
    };
    assert_eq!(
        (prefix.as_str(), owner.as_str()),
        (q.queue.prefix(), CLUSTER)
    );
    let second = connect(&q.url, &format!("{}-2", q.queue.prefix()));
    second
        .install("cluster-2")
        .await
        .expect("a prefix of its own");
}

#[tokio::test]
async fn another_text_of_the_library_is_replaced_and_the_same_one_is_left_alone() {
    let redis = server(&[]).await;
    let q = on(&redis).await;
    let loads = async || {
        let mut stats = redis::cmd("INFO");
        let stats: String = q.redis(stats.arg("commandstats")).await;
        let line = stats.lines().find(|line| line.contains("function|load"));
        let calls = line.expect("loaded").split("calls=").nth(1);
        let calls = calls.expect("a count").split(',').next();
        calls.expect("a count").parse::<u32>().expect("a number")
    };
    let before = loads().await;
    q.queue.install(CLUSTER).await.expect("installed");
    assert_eq!(loads().await, before);
    let other = format!(
        "#!lua name={LIBRARY}\nredis.register_function('{LIBRARY}_route', function() return 1 end)\n"
    );
    let mut load = redis::cmd("FUNCTION");
    let name: String = q.redis(load.arg(&["LOAD", "REPLACE", &other])).await;
    assert_eq!(name, LIBRARY);
    assert!(q.ns.open("pool").await.is_err());
    q.queue.install(CLUSTER).await.expect("installed");
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    let mut list = redis::cmd("FUNCTION");
    list.arg(&["LIST", "WITHCODE"]);
    let text = format!("{:?}", q.redis::<Value>(&list).await);
    let first_line = source().lines().nth(2).expect("a line").to_owned();
    assert!(text.contains(&first_line), "the whole text is there");
}

#[tokio::test]
async fn a_master_that_became_a_replica_counts_as_not_reachable() {
    let (old, new) = (server(&[]).await, server(&[]).await);
    let q = on(&old).await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    let mut demote = redis::cmd("REPLICAOF");
    demote.arg("127.0.0.1").arg(new.port());
    q.redis::<String>(&demote).await;
    let task = Enqueue::new("p", "t", PAYLOAD);
    let error = q.ns.enqueue(&task).await.expect_err("read only");
    assert!(matches!(error, QueueError::Unreachable(_)), "{error}");
}
