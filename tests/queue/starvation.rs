//! The choice by what is loaded, checked from outside after each take, in one pool and between two that help
//! each other: nobody is put off too often, no task is lost, and a worker's own pool goes first.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Fixture, fixture, persona};
use crate::worker::Worker;

const PERSONAS: usize = 24;
const ADAPTERS: usize = 10;
const WORKERS: usize = 3;
const SLOTS: u32 = 4;
const STEPS: usize = 400;
/// What the functions promise.
const PASSES: u32 = 8;
/// A priority's part of a score.
const BAND: f64 = (1_u64 << 45) as f64;
/// In the second, each worker may also serve the pool that is not its own.
const POOLS: [&str; 2] = ["pool", "other"];

/// Those that may be served, in order.
type Order = Vec<(String, f64)>;

struct World {
    q: Fixture,
    /// One, or both.
    pools: &'static [&'static str],
    rng: StdRng,
    workers: Vec<Worker>,
    held: Vec<Vec<persona_operator::queue::work::Taken>>,
    put: usize,
    seen: BTreeSet<String>,
    /// How often each was put off since it was served.
    passed: BTreeMap<String, u32>,
    most: u32,
    stolen: usize,
    /// Personas that a worker of the other pool has put off for one that needs what it has loaded.
    put_off_by_thieves: usize,
}

impl World {
    async fn new(seed: u64, pools: &'static [&'static str]) -> Self {
        let q = fixture().await;
        let mut rng = StdRng::seed_from_u64(seed);
        q.open(pools).await;
        for number in 0..PERSONAS {
            let needs = rng.random_range(0..=ADAPTERS);
            let needs = (needs < ADAPTERS).then(|| format!("adapter/{needs}"));
            let spec = persona(&format!("p{number:02}"))
                .pool(pools[number % pools.len()])
                .needs(needs.as_deref().unwrap_or_default())
                .priority(i32::from(rng.random_bool(0.2)))
                .weight(rng.random_range(1..4))
                .concurrency(rng.random_range(1..5));
            q.route(&spec).await;
        }
        let mut workers = Vec::new();
        for number in 0..WORKERS {
            let own = pools[number % pools.len()];
            let others: Vec<&str> = pools.iter().copied().filter(|pool| *pool != own).collect();
            let worker = q.unregistered(&format!("w{number}"), own, SLOTS);
            let worker = worker.stealing(&others);
            worker.register().await;
            workers.push(worker);
        }
        Self {
            q,
            pools,
            rng,
            workers,
            held: vec![Vec::new(); WORKERS],
            put: 0,
            seen: BTreeSet::new(),
            passed: BTreeMap::new(),
            most: 0,
            stolen: 0,
            put_off_by_thieves: 0,
        }
    }

    /// Some personas have much to do and others little.
    async fn put(&mut self) {
        let most = self.rng.random_range(1..=PERSONAS);
        let name = format!("p{:02}", self.rng.random_range(0..most));
        self.q.enqueue(&name, &format!("t{}", self.put)).await;
        self.put += 1;
    }

    async fn take(&mut self, number: usize) {
        let free = SLOTS - u32::try_from(self.held[number].len()).expect("few");
        if free == 0 {
            return;
        }
        let free = self.rng.random_range(1..=free);
        let own = self.pools[number % self.pools.len()];
        let mut orders = BTreeMap::new();
        for pool in self.pools {
            orders.insert(*pool, self.order(pool).await);
        }
        let tasks = self.workers[number].take(free).await;
        let mut served = BTreeSet::new();
        let mut thief = false;
        for taken in &tasks {
            assert!(self.seen.insert(taken.task.clone()), "{} again", taken.task);
            let stolen = taken.pool != own;
            assert!(stolen || !thief, "{} after another pool's", taken.task);
            thief |= stolen;
            self.stolen += usize::from(stolen);
            let order = &orders[taken.pool.as_str()];
            let put_off = self.judge(order, &taken.persona, &mut served);
            self.put_off_by_thieves += if stolen { put_off } else { 0 };
        }
        if thief {
            assert!(tasks.len() < free as usize, "a thief keeps a slot free");
            let left = self.order(own).await;
            assert!(left.is_empty(), "{own} still had {left:?}");
        }
        let may = |(pool, order): (&&str, &Order)| (*pool == own || free > 1) && !order.is_empty();
        assert!(
            !tasks.is_empty() || !orders.iter().any(may),
            "nobody took {orders:?}"
        );
        self.held[number].extend(tasks);
    }

    /// Those of a pool that may be served, in order.
    async fn order(&self, pool: &str) -> Order {
        let key = format!("{}ready:{pool}:-", self.q.ns.keys().prefix());
        let mut cmd = redis::cmd("ZRANGE");
        self.q
            .redis(cmd.arg(key).arg(&["0", "-1", "WITHSCORES"]))
            .await
    }

    /// Who stood before the one that was served, and still does, was put off once more. Answers how many.
    fn judge(&mut self, order: &[(String, f64)], id: &str, served: &mut BTreeSet<String>) -> usize {
        let place = order.iter().position(|(other, _)| other == id);
        let place = place.expect("it was in order");
        let band = |score: f64| (score / BAND).floor();
        let mut put_off = 0;
        for (other, score) in &order[..place] {
            if served.contains(other) {
                continue;
            }
            assert_eq!(band(*score), band(order[place].1), "{id} before {other}");
            let passed = self.passed.entry(other.clone()).or_default();
            *passed += 1;
            put_off += 1;
            assert!(*passed <= PASSES, "{other} was put off {passed} times");
            self.most = self.most.max(*passed);
        }
        self.passed.insert(id.to_owned(), 0);
        served.insert(id.to_owned());
        put_off
    }

    async fn finish(&mut self, number: usize) {
        if self.held[number].is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.held[number].len());
        let task = self.held[number].remove(which);
        self.workers[number].finish(&task).await;
    }

    async fn step(&mut self) {
        let number = self.rng.random_range(0..WORKERS);
        match self.rng.random_range(0..10) {
            0..=3 => self.put().await,
            4..=6 => self.take(number).await,
            7..=8 => self.finish(number).await,
            _ => {
                let count = self.rng.random_range(0..4);
                let some = (0..count).map(|_| self.rng.random_range(0..ADAPTERS));
                self.workers[number].loaded = some.map(|item| format!("adapter/{item}")).collect();
            }
        }
    }

    async fn drain(&mut self) {
        while self.seen.len() < self.put || self.held.iter().any(|held| !held.is_empty()) {
            for number in 0..WORKERS {
                self.take(number).await;
                self.finish(number).await;
            }
        }
    }
}

/// Runs a world to its end, and asserts that every task ran once.
async fn run(seed: u64, pools: &'static [&'static str]) -> World {
    let mut world = World::new(seed, pools).await;
    for _ in 0..40 {
        world.put().await;
    }
    for _ in 0..STEPS {
        world.step().await;
    }
    world.drain().await;
    assert_eq!(world.seen.len(), world.put);
    world
}

#[tokio::test]
async fn nobody_is_put_off_more_than_eight_times_and_every_task_runs_once() {
    let mut most = 0;
    for seed in 0..12 {
        most = most.max(run(seed, &POOLS[..1]).await.most);
    }
    assert_eq!(most, PASSES, "otherwise the limit was never reached");
}

#[tokio::test]
async fn workers_that_help_another_pool_by_what_they_have_loaded_starve_and_lose_nothing_either() {
    let (mut stolen, mut put_off) = (0, 0);
    for seed in 100..112 {
        let world = run(seed, &POOLS).await;
        stolen += world.stolen;
        put_off += world.put_off_by_thieves;
    }
    assert!(stolen > 100 && put_off > 20, "{stolen} {put_off}");
}
