//! Metrics from a Prometheus that asks who is asking, or whose certificate only its owners know.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use persona_operator::api::WorkerPool;
use serde_json::{Value, json};
use testbed::certs::Authority;

use crate::gate::{Gate, TOKEN};
use crate::harness::{Operator, condition};
use crate::outage::{counting_jobs, counting_jobs_over};
use crate::sources::{size, sleepers};

const POOL: &str = "sleepers";
/// Questions, one a second: more than the windows of a pool whose idleTimeout is one second.
const ROUNDS: usize = 6;

/// The operator with its folder of credentials, and a pool of one worker for four jobs at `address`.
async fn follow(name: &str, address: &str, folder: &Path) -> Result<Operator> {
    let path = folder.to_string_lossy();
    let settings = [("PERSONA_METRIC_CREDENTIALS_DIR", &*path)];
    let operator = Operator::start_with(name, &settings).await?;
    let metric = json!([{"type": "Prometheus", "prometheus": {
        "serverAddress": address, "query": "sum(jobs) or vector(0)", "target": 4,
    }}]);
    sleepers(&operator, metric, Value::Null).await?;
    Ok(operator)
}

/// Its numbers are missing, and the message has these words.
fn blind(words: &'static [&'static str]) -> impl Fn(Option<&WorkerPool>) -> bool {
    move |pool| {
        pool.is_some_and(|pool| {
            let status = pool.status.as_ref();
            let conditions = status.into_iter().flat_map(|s| &s.conditions);
            let mut active = conditions.filter(|c| c.type_ == "ScalingActive");
            condition(pool, "ScalingActive").as_deref() == Some("False")
                && active.any(|c| words.iter().all(|word| c.message.contains(word)))
        })
    }
}

async fn workers(operator: &Operator) -> Result<Vec<String>> {
    let pods = operator.pods(POOL).await?;
    let mut uids: Vec<_> = pods.iter().filter_map(Pod::uid).collect();
    uids.sort();
    Ok(uids)
}

#[tokio::test]
async fn a_prometheus_with_tls_is_asked_once_its_authority_is_named() -> Result<()> {
    testbed::install_crypto();
    let files = tempfile::tempdir()?;
    let [ours, other] = ["ours", "other"].map(|name| Authority::create(&files.path().join(name)));
    let (ours, other) = (ours?, other?);
    let identity = ours.server("prometheus", "prometheus", &["127.0.0.1".to_owned()])?;
    let (jobs, _exporter, prometheus) = counting_jobs_over(14, Some(identity)).await?;
    let address = prometheus.url();
    assert!(address.starts_with("https://"), "{address}");
    let credentials = tempfile::tempdir()?;
    let operator = follow("tls", &address, credentials.path()).await?;
    let unknown = blind(&["certificate", "caCertificate"]);
    operator.until(POOL, "told what to do", &unknown).await?;

    let trust = |authority: &Authority| {
        let credential = json!({"address": address, "caCertificate": authority.ca().cert_pem});
        fs::write(credentials.path().join("ours"), credential.to_string())
    };
    trust(&ours)?;
    operator.until(POOL, "at four", size(4)).await?;
    trust(&other)?;
    operator.until(POOL, "told it again", &unknown).await?;
    jobs.store(28, Ordering::Relaxed);
    trust(&ours)?;
    operator.until(POOL, "at seven", size(7)).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_pool_whose_metric_refuses_the_token_keeps_its_workers_until_it_is_right_again()
-> Result<()> {
    testbed::install_crypto();
    let files = tempfile::tempdir()?;
    let [ours, other] = ["ours", "other"].map(|name| Authority::create(&files.path().join(name)));
    let (ours, other) = (ours?, other?);
    let identity = ours.server("gate", "gate", &["127.0.0.1".to_owned()])?;
    let (jobs, _exporter, prometheus) = counting_jobs(14).await?;
    let gate = Gate::start(&identity, prometheus.url()).await?;
    let address = gate.url();
    let credentials = tempfile::tempdir()?;
    let sign = |token: &str, authority: &Authority| {
        let credential = json!({
            "address": address, "bearerToken": token, "caCertificate": authority.ca().cert_pem,
        });
        fs::write(credentials.path().join("gate"), credential.to_string())
    };
    sign(TOKEN, &ours)?;
    let operator = follow("bearer", &address, credentials.path()).await?;
    operator.until(POOL, "at four", size(4)).await?;
    let all = workers(&operator).await?;

    for (token, authority, words) in [
        ("out-of-date", &ours, &["401", "bearerToken"][..]),
        (TOKEN, &other, &["certificate", "caCertificate"][..]),
    ] {
        sign(token, authority)?;
        operator
            .until(POOL, "told what to do", blind(words))
            .await?;
        // Nobody can see that there is nothing left to do.
        jobs.store(0, Ordering::Relaxed);
        gate.turns_away(ROUNDS).await?;
        // For a moment another failure may be told, like a question that took too long.
        let still = |pool: Option<&WorkerPool>| size(4)(pool) && blind(words)(pool);
        operator.until(POOL, "still at four", still).await?;
        assert_eq!(workers(&operator).await?, all, "{words:?}");
    }
    sign(TOKEN, &ours)?;
    operator.until(POOL, "empty", size(0)).await?;
    operator.stop().await
}
