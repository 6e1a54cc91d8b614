//! Long runs of what the tests do a few times: `cargo soak NAME [TIMES]`.

#![allow(dead_code)] // Each run needs a part of the harness.

#[path = "../../tests/model/acts.rs"]
mod acts;
#[path = "../../tests/model/bug.rs"]
mod bug;
#[path = "../../tests/model/checks.rs"]
mod checks;
#[path = "../../tests/operator/cost.rs"]
mod cost;
#[path = "../../tests/operator/crossing.rs"]
mod crossing;
#[path = "../../tests/operator/harness/mod.rs"]
mod harness;
mod idle;
mod isolation;
#[path = "../../tests/operator/outage.rs"]
mod outage;
mod phases;
#[path = "../../tests/model/plans.rs"]
mod plans;
#[path = "../../tests/model/queue.rs"]
mod queue;
mod recycling;
#[path = "../../tests/model/retiring.rs"]
mod retiring;
#[path = "../../tests/operator/scale_ins.rs"]
mod scale_ins;
#[path = "../../tests/operator/stand_ins.rs"]
mod stand_ins;
#[path = "../../tests/model/state.rs"]
mod state;
#[path = "../../tests/model/system.rs"]
mod system;
#[path = "../../tests/operator/walk/mod.rs"]
mod walk;

use anyhow::{Context, Result, bail, ensure};

use checks::{MOVE, RETURN, explore};
use state::Left;

const USAGE: &str =
    "cargo soak crossings [TIMES]: so many crossings of thresholds under load (1000)
cargo soak walk [TIMES]: 9, 11, 51, 60 and 8 personas, so many times, a client on each (10)
cargo soak phases [SECONDS]: memory, workers and added time in each phase under the same load (20)
cargo soak isolation [SECONDS]: what others feel of a persona that kills its workers, in each phase (60)
cargo soak scale-ins [TIMES]: so many workers are taken away under load (10000)
cargo soak recycling [SECONDS]: what clients of a pool of one feel when its worker is followed by a fresh one (60)
cargo soak outages [SECONDS]: each outage of what a pool follows, so long (60)
cargo soak idle [POOLS]: what so many idle pools cost (1000), and 100 under steady load
cargo soak model: a crash, and a change of controllers, anywhere in a move that turns back; both in one that does not";

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
        "scale-ins" => {
            build()?;
            scale_ins(times.unwrap_or(10_000)).await
        }
        "recycling" => {
            build()?;
            recycling::run(times.unwrap_or(60) as u64).await
        }
        "outages" => {
            build()?;
            outages(times.unwrap_or(60)).await
        }
        "idle" => {
            build()?;
            idle::run(times.unwrap_or(1000)).await
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
    let mut build = testbed::cargo::command();
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
    let operator = harness::Operator::start("walk").await?;
    let land = walk::Land {
        client: operator.client.clone(),
        namespace: operator.namespace.clone(),
        queue: operator.queue()?,
        chat: operator.chat()?,
        patience: harness::PATIENCE,
    };
    let model = walk::Model::start().await;
    let endpoint = model.server().base_url();
    println!("{}", walk::walk(land, model, &endpoint, times).await?);
    operator.stop().await
}

async fn scale_ins(times: usize) -> Result<()> {
    let operator = scale_ins::stage("soak").await?;
    let begun = std::time::Instant::now();
    let told = std::cell::Cell::new(0);
    let tell = |done: usize| {
        if done / 200 > told.replace(done / 200) {
            println!("{done} scale-ins after {:.0?}", begun.elapsed());
        }
    };
    let report = scale_ins::scale_in(&operator, times, false, tell).await?;
    println!("{report}");
    report.check()?;
    operator.stop().await
}

async fn outages(seconds: usize) -> Result<()> {
    let length = std::time::Duration::from_secs(u64::try_from(seconds)?);
    use outage::Outage::{
        CountersReset, PrometheusRestarts, RedisFlushed, RedisHangs, RedisRestarts,
    };
    for outage in [
        RedisHangs,
        RedisRestarts,
        RedisFlushed,
        CountersReset,
        PrometheusRestarts,
    ] {
        println!("{}", outage::endure(outage, length).await?);
    }
    Ok(())
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
    let both = Left {
        crashes: 1,
        failovers: 1,
        ..MOVE
    };
    for (what, left) in [
        ("a move that turns back, a crash", crash),
        ("a move that turns back, a change of controllers", failover),
        ("a move, a crash and a change of controllers", both),
    ] {
        let begun = std::time::Instant::now();
        let states = explore(left);
        println!("{what}: {states} states hold, {:.0?}", begun.elapsed());
    }
}
