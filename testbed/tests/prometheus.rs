//! Prometheus scrapes what it is told to, and answers queries.

use std::time::Duration;

use anyhow::Result;
use testbed::{Prometheus, PrometheusOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const METRICS: &str = "# TYPE tasks gauge\ntasks{pool=\"a\"} 3\ntasks{pool=\"b\"} 4\n";

/// Answers every request with the metrics.
async fn exposed() -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = METRICS.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                stream.write_all(head.as_bytes()).await.ok();
                stream.write_all(METRICS.as_bytes()).await.ok();
            }
        }
    });
    Ok(address)
}

#[tokio::test]
async fn prometheus_scrapes_its_jobs_and_answers_queries() -> Result<()> {
    let jobs = [("things".to_owned(), vec![exposed().await?])].into();
    let prometheus = Prometheus::start(PrometheusOptions {
        jobs,
        ..PrometheusOptions::default()
    })
    .await?;
    let within = Duration::from_secs(30);
    prometheus
        .until("up{job='things'}", within, |up| {
            up.len() == 1 && up[0].value == 1.0
        })
        .await?;
    let sum = prometheus
        .until("sum(tasks)", within, |sum| !sum.is_empty())
        .await?;
    assert_eq!(sum[0].value, 7.0);
    let mut tasks = prometheus.query("tasks").await?;
    tasks.sort_by(|a, b| a.label("pool").cmp(b.label("pool")));
    assert_eq!((tasks[1].label("pool"), tasks[1].value), ("b", 4.0));
    assert!(prometheus.query("sum(").await.is_err());
    Ok(())
}
