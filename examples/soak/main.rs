//! Long runs of what the tests do a few times: `cargo soak NAME [TIMES]`.

#![allow(dead_code)] // Each run needs a part of the harness.

#[path = "../../tests/model/bug.rs"]
mod bug;
#[path = "../../tests/model/checks.rs"]
mod checks;
#[path = "../../tests/operator/crossing.rs"]
mod crossing;
#[path = "../../tests/operator/harness.rs"]
mod harness;
mod isolation;
mod phases;
#[path = "../../tests/model/plans.rs"]
mod plans;
#[path = "../../tests/model/queue.rs"]
mod queue;
#[path = "../../tests/model/system.rs"]
mod system;
#[path = "../../tests/operator/walk.rs"]
mod walk;

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use checks::{RETURN, explore};
use system::Left;

const USAGE: &str =
    "cargo soak crossings [TIMES]: so many crossings of thresholds under load (1000)
cargo soak walk [TIMES]: 9, 11, 51, 60 and 8 personas, so many times, a client on each (10)
cargo soak phases [SECONDS]: memory, workers and added time in each phase under the same load (20)
cargo soak isolation [SECONDS]: what others feel of a persona that kills its workers, in each phase (60)
cargo soak model: a crash, and a change of controllers, anywhere in a move that turns back";

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().context(USAGE)?;
    let times = args.next().map(|times| times.parse()).transpose()?;
    match name.as_str() {
        "crossings" => {
            build()?;
            crossings(times.unwrap_or(1000)).await
        }
        "walk" => {
            build()?;
            walk(times.unwrap_or(10)).await
        }
        "phases" => {
            build()?;
            phases::run(times.unwrap_or(20) as u64).await
        }
        "isolation" => {
            build()?;
            isolation::run(times.unwrap_or(60) as u64).await
        }
        "model" => {
            model();
            Ok(())
        }
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

async fn walk(times: usize) -> Result<()> {
    let operator = Arc::new(harness::Operator::start("walk").await?);
    println!("{}", walk::walk(&operator, times).await?);
    let operator = Arc::into_inner(operator).context("all clients have ended")?;
    operator.stop().await
}

/// Too many states for every test run: some millions.
fn model() {
    let crash = Left {
        crashes: 1,
        ..RETURN
    };
    let failover = Left {
        failovers: 1,
        ..RETURN
    };
    for (what, left) in [("a crash", crash), ("a change of controllers", failover)] {
        let begun = std::time::Instant::now();
        let states = explore(left);
        println!("{what}: {states} states hold, {:.0?}", begun.elapsed());
    }
}
