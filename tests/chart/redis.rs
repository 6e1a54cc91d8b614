//! The bundled Redis on a real node.

use anyhow::{Context, Result};
use testbed::{Cluster, image, real_node_wanted};

use crate::chart::{run, template};

const RELEASE: &str = "persona-operator-redis";

const PARTS: [&str; 4] = [
    "templates/redis/statefulset.yaml",
    "templates/redis/configmap.yaml",
    "templates/redis/secret.yaml",
    "templates/redis/service.yaml",
];

/// Applies what the chart renders for Redis, in a namespace that lets only restricted pods in.
async fn start() -> Result<String> {
    let cluster = Cluster::shared().await?;
    cluster.join_real_node().await?.import_redis().await?;
    let namespace = cluster.namespace("redis").await?;
    let restricted = "pod-security.kubernetes.io/enforce=restricted";
    run(
        cluster.kubectl().await?,
        &["label", "namespace", &namespace, restricted],
    )
    .await?;
    let (repository, tag) = image::REDIS
        .rsplit_once(':')
        .context("an image with a tag")?;
    let repository = format!("redis.image.repository={repository}");
    let tag = format!("redis.image.tag={tag}");
    let mut args = vec!["--set", &repository, "--set", &tag];
    args.extend([
        "--set",
        "redis.image.pullPolicy=Never",
        "--set",
        "redis.persistence.enabled=false",
    ]);
    args.extend(PARTS.iter().flat_map(|part| ["-s", *part]));
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), template(&namespace, &args).await?)?;
    run(
        cluster.kubectl().await?,
        &["apply", "-f", &file.path().to_string_lossy()],
    )
    .await?;
    ready(&namespace).await?;
    Ok(namespace)
}

async fn ready(namespace: &str) -> Result<()> {
    let statefulset = format!("statefulset/{RELEASE}");
    let args = [
        "rollout",
        "status",
        "-n",
        namespace,
        &statefulset,
        "--timeout=120s",
    ];
    run(Cluster::shared().await?.kubectl().await?, &args)
        .await
        .map(drop)
}

async fn redis_cli(namespace: &str, command: &[&str]) -> Result<String> {
    let pod = format!("{RELEASE}-0");
    let exec = ["exec", "-n", namespace, &pod, "--", "redis-cli"];
    let kubectl = Cluster::shared().await?.kubectl().await?;
    Ok(run(kubectl, &[&exec[..], command].concat())
        .await?
        .trim()
        .to_owned())
}

#[tokio::test]
async fn bundled_redis_runs_restricted_and_keeps_what_it_was_told_across_a_restart() -> Result<()> {
    if !real_node_wanted() {
        return Ok(());
    }
    let namespace = start().await?;
    assert_eq!(redis_cli(&namespace, &["set", "task", "kept"]).await?, "OK");
    for (setting, value) in [
        ("appendonly", "yes"),
        ("maxmemory-policy", "noeviction"),
        ("maxmemory", "402653184"),
    ] {
        assert_eq!(
            redis_cli(&namespace, &["config", "get", setting]).await?,
            format!("{setting}\n{value}")
        );
    }
    let anonymous = redis_cli(
        &namespace,
        &["--user", "default", "--pass", "wrong", "ping"],
    )
    .await?;
    assert!(
        anonymous.contains("NOAUTH") || anonymous.contains("WRONGPASS"),
        "{anonymous}"
    );
    // It ends without a last save: what counts is the append-only file.
    redis_cli(&namespace, &["shutdown", "nosave", "force"])
        .await
        .ok();
    let restarted = "jsonpath={.status.containerStatuses[0].restartCount}=1";
    let pod = format!("pod/{RELEASE}-0");
    let wait = [
        "wait",
        "-n",
        &namespace,
        &pod,
        "--for",
        restarted,
        "--timeout=60s",
    ];
    run(Cluster::shared().await?.kubectl().await?, &wait).await?;
    let wait = [
        "wait",
        "-n",
        &namespace,
        &pod,
        "--for=condition=Ready",
        "--timeout=60s",
    ];
    run(Cluster::shared().await?.kubectl().await?, &wait).await?;
    assert_eq!(redis_cli(&namespace, &["get", "task"]).await?, "kept");
    Ok(())
}
