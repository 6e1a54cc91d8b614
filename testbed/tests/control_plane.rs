//! The control plane and Redis as other crates' tests use them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use testbed::{Cluster, Options, Redis, RedisOptions};

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".into(), "value".into())])),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn objects_are_stored_in_a_namespace_of_ones_own() {
    let cluster = Cluster::shared().await.unwrap();
    let (a, b) = (
        cluster.namespace("mine").await.unwrap(),
        cluster.namespace("mine").await.unwrap(),
    );
    assert_ne!(a, b);
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await.unwrap(), &a);
    maps.create(&PostParams::default(), &config_map("settings"))
        .await
        .unwrap();
    assert_eq!(
        maps.get("settings").await.unwrap().data.unwrap()["key"],
        "value"
    );
}

#[tokio::test]
async fn killed_api_server_comes_back_with_its_objects() {
    let cluster = Cluster::start(Options {
        audit: true,
        ..Options::default()
    })
    .await
    .unwrap();
    let namespace = cluster.namespace("kept").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await.unwrap(), &namespace);
    maps.create(&PostParams::default(), &config_map("settings"))
        .await
        .unwrap();

    cluster.apiserver().unwrap().kill().await.unwrap();
    assert!(maps.get("settings").await.is_err());
    cluster.apiserver().unwrap().restart().await.unwrap();
    assert_eq!(
        maps.get("settings").await.unwrap().metadata.name.unwrap(),
        "settings"
    );

    let audit = std::fs::read_to_string(cluster.audit_log().unwrap()).unwrap();
    assert!(
        audit
            .lines()
            .any(|line| line.contains("testbed-admin") && line.contains("settings"))
    );
}

#[tokio::test]
async fn kubectl_of_the_clusters_version_talks_to_it() {
    let cluster = Cluster::shared().await.unwrap();
    let output = cluster
        .kubectl()
        .await
        .unwrap()
        .args(["version", "--output=json"])
        .output()
        .await
        .unwrap();
    let versions: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(versions["clientVersion"]["minor"], "36", "{versions}");
    assert_eq!(versions["serverVersion"]["minor"], "36", "{versions}");
}

async fn ping(redis: &Redis) -> redis::RedisResult<String> {
    let mut connection = redis.connection().await?;
    redis::cmd("PING").query_async(&mut connection).await
}

#[tokio::test]
async fn shared_redis_answers_its_admin_and_nobody_else() {
    let redis = Redis::shared().await.unwrap();
    assert_eq!(ping(redis).await.unwrap(), "PONG");
    let stranger = testbed::redis::connection(("127.0.0.1", redis.port()));
    let mut connection = stranger.await.unwrap();
    let refused = redis::cmd("PING")
        .query_async::<String>(&mut connection)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some("NOAUTH"));
}

#[tokio::test]
async fn killed_redis_keeps_its_append_only_data() {
    let redis = Redis::start(RedisOptions {
        append_only: true,
        ..RedisOptions::default()
    })
    .await
    .unwrap();
    let mut connection = redis.connection().await.unwrap();
    redis::cmd("SET")
        .arg("key")
        .arg("value")
        .exec_async(&mut connection)
        .await
        .unwrap();
    redis.kill().await.unwrap();
    assert!(ping(&redis).await.is_err());
    redis.restart().await.unwrap();
    let mut connection = redis.connection().await.unwrap();
    assert_eq!(
        redis::cmd("GET")
            .arg("key")
            .query_async::<String>(&mut connection)
            .await
            .unwrap(),
        "value"
    );
}

#[tokio::test]
async fn paused_redis_answers_after_it_is_resumed() {
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    redis.pause().unwrap();
    let waiting = ping(&redis);
    let mut waiting = std::pin::pin!(waiting);
    tokio::time::timeout(std::time::Duration::from_millis(200), &mut waiting)
        .await
        .unwrap_err();
    redis.resume().unwrap();
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
}
