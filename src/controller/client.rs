//! The way to the API server, with limits.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

use super::Error;

/// No byte of an answer for this long: longer than the API server keeps a watch open (290 s), in which
/// nothing may happen.
const SILENCE: Duration = Duration::from_secs(330);

/// Connects. A server may be lost without a word, and then its connections never end by themselves: a
/// request fails when its answer, a watch's too, has not begun within `timeout`, repetitions included, and
/// when an answer that has begun does not go on.
///
/// # Errors
/// There is no cluster to reach, or its settings cannot be followed.
pub async fn connect(timeout: Duration) -> Result<Client, Error> {
    let mut config = Config::infer().await?;
    config.read_timeout = Some(SILENCE);
    // Else the time counts that a connection was idle before.
    config.reset_reader_on_write = true;
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&TimeoutLayer::new(timeout)).build())
}
