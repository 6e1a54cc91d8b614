//! The queue on a real Redis: full cycles a second, pickup by a waiting worker next to the raw round
//! trip, and what a move of many personas takes.
//!
//! `cargo bench -p persona-operator --bench queue`; with BullMQ on the same Redis in the same run:
//! `npm ci --prefix benches/bullmq && BENCH_BULLMQ=1 cargo bench …`.

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use futures::StreamExt;
use tokio::runtime::Runtime;

use support::{Bench, Pickup, bullmq, median};

/// Tasks of one round of cycles.
const TASKS: usize = 20_000;
const PERSONAS: usize = 100;
/// Calls that wait for an answer at once.
const IN_FLIGHT: usize = 64;
const WORKERS: usize = 8;
const SLOTS: u32 = 16;

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let bench = runtime.block_on(Bench::start());
    let mut criterion = Criterion::default().configure_from_args();
    let cycles = cycles(&mut criterion, &runtime, &bench);
    pickup(&mut criterion, &runtime, &bench);
    moves(&mut criterion, &runtime, &bench);
    criterion.final_summary();
    if std::env::var_os("BENCH_BULLMQ").is_some() {
        let theirs = bullmq(&bench.redis, TASKS);
        println!("\nBullMQ on the same Redis: {theirs:?}");
        println!(
            "full cycle, queue / BullMQ: {:.0}/s / {:.0}/s = {:.2}",
            cycles,
            theirs.cycles,
            cycles / theirs.cycles
        );
    }
}

/// Enqueue, then take and finish; answers the median of cycles a second.
fn cycles(criterion: &mut Criterion, runtime: &Runtime, bench: &Bench) -> f64 {
    let (mut enqueues, mut rest) = (Vec::new(), Vec::new());
    let mut group = criterion.benchmark_group("cycle");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(TASKS as u64));
    group.bench_function("enqueue_take_finish", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut total = Duration::ZERO;
            for _ in 0..rounds {
                let (enqueue, take_finish) = runtime.block_on(round(bench));
                enqueues.push(enqueue.as_secs_f64());
                rest.push(take_finish.as_secs_f64());
                total += enqueue + take_finish;
            }
            total
        });
    });
    group.finish();
    let (enqueue, take_finish) = (median(&mut enqueues), median(&mut rest));
    let tasks = TASKS as f64;
    let cycles = tasks / (enqueue + take_finish);
    println!(
        "enqueue {:.0}/s, take+finish {:.0}/s, full cycle {cycles:.0}/s",
        tasks / enqueue,
        tasks / take_finish
    );
    cycles
}

async fn round(bench: &Bench) -> (Duration, Duration) {
    bench.fresh("cycle", PERSONAS).await;
    let begin = Instant::now();
    futures::stream::iter(0..TASKS)
        .for_each_concurrent(IN_FLIGHT, |number| bench.enqueue(number % PERSONAS, number))
        .await;
    let enqueue = begin.elapsed();
    let begin = Instant::now();
    let workers = (0..WORKERS).map(|number| bench.work(number, SLOTS));
    let done: usize = futures::future::join_all(workers).await.iter().sum();
    assert_eq!(done, TASKS);
    (enqueue, begin.elapsed())
}

/// From the call of enqueue until the task is in the hands of a worker that waited at the bell.
fn pickup(criterion: &mut Criterion, runtime: &Runtime, bench: &Bench) {
    runtime.block_on(bench.fresh("pickup", 1));
    let (mut pings, mut pickups) = (Vec::new(), Vec::new());
    let mut group = criterion.benchmark_group("latency");
    let mut waiting = runtime.block_on(Pickup::start(bench));
    group.bench_function("ping", |bencher| {
        bencher.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    let begin = Instant::now();
                    bench.queue.ping().await.expect("pong");
                    total += begin.elapsed();
                    pings.push(begin.elapsed().as_secs_f64() * 1e6);
                }
                total
            })
        });
    });
    group.bench_function("pickup", |bencher| {
        bencher.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    let took = waiting.once(bench).await;
                    total += took;
                    pickups.push(took.as_secs_f64() * 1e6);
                }
                total
            })
        });
    });
    group.finish();
    let (ping, pickup) = (median(&mut pings), median(&mut pickups));
    println!(
        "round trip p50 {ping:.0} us, pickup p50 {pickup:.0} us = {:.2} round trips, p99 {:.0} us",
        pickup / ping,
        pickups[pickups.len() * 99 / 100]
    );
}

/// 1,000 personas with 100 waiting tasks each, to another pool and back.
fn moves(criterion: &mut Criterion, runtime: &Runtime, bench: &Bench) {
    const MOVED: usize = 1000;
    const QUEUED: usize = 100_000;
    runtime.block_on(async {
        bench.fresh("move", MOVED).await;
        futures::stream::iter(0..QUEUED)
            .for_each_concurrent(IN_FLIGHT, |number| bench.enqueue(number % MOVED, number))
            .await;
    });
    let mut group = criterion.benchmark_group("move_1000_personas_with_100000_tasks");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, in_flight) in [("one_by_one", 1), ("64_in_flight", IN_FLIGHT)] {
        let mut epoch = 1;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let begin = Instant::now();
                for _ in 0..rounds {
                    epoch += 1;
                    let pool = ["pool", "other"][epoch % 2];
                    let moved = futures::stream::iter(0..MOVED)
                        .for_each_concurrent(in_flight, |id| bench.route(id, pool, 1_000));
                    runtime.block_on(moved);
                }
                begin.elapsed()
            });
        });
    }
    group.finish();
}
