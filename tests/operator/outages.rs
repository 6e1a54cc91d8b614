//! Outages of what pools follow, for ten seconds. `cargo soak outages` takes sixty.

use std::time::Duration;

use anyhow::Result;

use crate::outage::{Outage, endure};

const LENGTH: Duration = Duration::from_secs(10);

async fn nothing_shrinks(outage: Outage) -> Result<()> {
    let report = endure(outage, LENGTH).await?;
    println!("{report}");
    Ok(())
}

#[tokio::test]
async fn nothing_shrinks_while_redis_hangs() -> Result<()> {
    nothing_shrinks(Outage::RedisHangs).await
}

#[tokio::test]
async fn nothing_shrinks_while_redis_is_away() -> Result<()> {
    nothing_shrinks(Outage::RedisRestarts).await
}

#[tokio::test]
async fn nothing_shrinks_after_redis_lost_its_data_until_all_is_published_again() -> Result<()> {
    nothing_shrinks(Outage::RedisFlushed).await
}

#[tokio::test]
async fn counters_that_begin_again_are_no_reason_to_shrink() -> Result<()> {
    nothing_shrinks(Outage::CountersReset).await
}

#[tokio::test]
async fn nothing_shrinks_while_prometheus_is_away() -> Result<()> {
    nothing_shrinks(Outage::PrometheusRestarts).await
}
