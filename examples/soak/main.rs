//! Long runs of what the tests do a few times: `cargo soak NAME [TIMES]`.

#![allow(dead_code)] // Each run needs a part of the harness.

#[path = "../../tests/operator/crossing.rs"]
mod crossing;
#[path = "../../tests/operator/harness.rs"]
mod harness;

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const USAGE: &str =
    "cargo soak crossings [TIMES]: so many crossings of thresholds under load (1000)";

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().context(USAGE)?;
    let times = args.next().map(|times| times.parse()).transpose()?;
    build()?;
    match name.as_str() {
        "crossings" => crossings(times.unwrap_or(1000)).await,
        _ => bail!(USAGE),
    }
}

/// The workers run the program, which Cargo does not build with an example.
fn build() -> Result<()> {
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--package",
        "persona-operator",
        "--bins",
    ]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    ensure!(
        build.status()?.success(),
        "persona-operator cannot be built"
    );
    Ok(())
}

async fn crossings(times: usize) -> Result<()> {
    let operator = harness::Operator::start("soak").await?;
    let begun = std::time::Instant::now();
    let tell = |done: usize| {
        if done.is_multiple_of(12) {
            println!("{done} crossings after {:.0?}", begun.elapsed());
        }
    };
    let report = crossing::cross(&operator, times, tell).await?;
    println!("{report}");
    operator.stop().await
}
