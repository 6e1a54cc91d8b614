//! Gateways, workers and a controller at once, each with a connection of its own: what they saw must
//! be possible.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use persona_operator::queue::NamespaceQueue;
use persona_operator::queue::listen::{ResultMessage, Results};
use persona_operator::queue::submit::{CancelAnswer, Enqueue, EnqueueAnswer};
use persona_operator::queue::task::OutcomeKind;
use persona_operator::queue::work::{Fenced, LEASE, ReleaseReason};
use rand::RngExt;
use tokio::time::Instant;

use crate::history::{History, Span};
use crate::support::{Fixture, PAYLOAD, PersonaSpec, connect, fixture, persona, soon};
use crate::worker::Worker;

const PERSONAS: usize = 8;
const WORKERS: usize = 4;
const POOLS: [&str; 2] = ["left", "right"];
const FOR: Duration = Duration::from_secs(4);

fn roll(most: usize) -> usize {
    rand::rng().random_range(0..most)
}

fn spec(id: usize) -> PersonaSpec {
    let most = u32::try_from(id % 3 + 1).expect("few");
    persona(&format!("p{id}"))
        .concurrency(most)
        .length(20)
        .attempts(1000)
}

/// A client with a connection of its own.
fn client(q: &Fixture) -> NamespaceQueue {
    let queue = connect(&q.url, q.queue.prefix());
    queue.namespace("team").expect("a name")
}

/// Puts tasks in its personas' queues, one after the other, and takes some back.
async fn gateway(ns: NamespaceQueue, number: usize, stop: Arc<AtomicBool>) -> Vec<(usize, String)> {
    let gateway = format!("gw-{number}");
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let id = roll(PERSONAS / 2) * 2 + number;
        let (persona, task) = (format!("p{id}"), format!("{number}-{}", accepted.len()));
        let request = Enqueue {
            gateway: Some(&gateway),
            retention: Duration::from_secs(600),
            ..Enqueue::new(&persona, &task, PAYLOAD)
        };
        match ns.enqueue(&request).await.expect("an answer") {
            EnqueueAnswer::Queued { .. } => accepted.push((id, task)),
            EnqueueAnswer::Full { .. } => tokio::time::sleep(Duration::from_millis(2)).await,
            other => panic!("{other:?}"),
        }
        if roll(20) == 0 && !accepted.is_empty() {
            let back = accepted.len() - 1 - roll(accepted.len().min(10));
            let answer = ns.cancel(&accepted[back].1).await.expect("an answer");
            assert_ne!(answer, CancelAnswer::Unknown);
        }
    }
    accepted
}

/// Takes, works a moment, finishes; sometimes hands back, sometimes dies with all that it holds, until
/// the chaos is over: a persona that takes workers along is put to rest, for longer each time.
async fn worker(
    mut worker: Worker,
    history: History,
    chaos_over: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
) {
    let mut bell = worker.ns.bell(&worker.pool, &worker.lanes);
    worker.register().await;
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let free = u32::try_from(1 + roll(worker.slots as usize)).expect("few");
        let tasks = worker.try_take(free).await.expect("an answer").tasks;
        let got = Instant::now();
        if tasks.is_empty() {
            bell.wait(Duration::from_millis(20)).await.expect("a wait");
        }
        let dies = !chaos_over.load(Ordering::Relaxed) && roll(40) == 0;
        for task in tasks {
            history.taken(&task, asked, got);
            if dies {
                continue;
            }
            tokio::time::sleep(Duration::from_micros(roll(2500) as u64)).await;
            let span = Span::new(&task, got);
            let hands_back = roll(10) == 0;
            let answer = if hands_back {
                let reason = ReleaseReason::Shutdown;
                let release = worker
                    .ns
                    .release(&task.task, &task.fence, reason, Duration::ZERO);
                release.await.expect("an answer")
            } else {
                worker.try_finish(&task).await
            };
            if answer == Fenced::Accepted {
                history.held(span, !hands_back);
            }
        }
        if dies {
            worker.instance = format!("{}-{}", worker.uid, rand::random::<u64>());
            worker.register().await;
        }
    }
}

/// Moves personas to and fro, drains and wakes workers, takes for dead who is not.
async fn controller(ns: NamespaceQueue, stop: Arc<AtomicBool>) -> u64 {
    let mut epoch = 1;
    while !stop.load(Ordering::Relaxed) {
        epoch += 1;
        let to = spec(roll(PERSONAS)).pool(POOLS[roll(2)]).epoch(epoch);
        ns.route(&to.route()).await.expect("an answer");
        let uid = format!("w{}", roll(WORKERS));
        match roll(8) {
            0 => drop(ns.reap_worker(&uid).await.expect("reaped")),
            1 => drop(ns.drain(&uid, true).await.expect("draining")),
            2 | 3 => drop(ns.drain(&uid, false).await.expect("not draining")),
            4 => drop(ns.reap(100).await.expect("reaped")),
            _ => tokio::time::sleep(Duration::from_millis(3)).await,
        }
    }
    for number in 0..WORKERS {
        ns.drain(&format!("w{number}"), false).await.expect("awake");
    }
    // A new configuration ends the rest of a persona that took workers along.
    for id in 0..PERSONAS {
        let changed = spec(id).pool(POOLS[id % 2]).epoch(epoch + 1).generation(2);
        ns.route(&changed.route()).await.expect("an answer");
    }
    epoch
}

/// Ends that a gateway hears of until each accepted task has one.
async fn ends(mut results: Results, expected: usize) -> HashMap<String, Vec<OutcomeKind>> {
    let mut ends: HashMap<String, Vec<OutcomeKind>> = HashMap::new();
    while ends.len() < expected {
        if let ResultMessage::Ended { task, outcome, .. } = soon(results.next()).await {
            ends.entry(task).or_default().push(outcome.outcome);
        }
    }
    ends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_see_nothing_impossible() {
    let q = fixture().await;
    q.open(&POOLS).await;
    for id in 0..PERSONAS {
        q.route(&spec(id).pool(POOLS[id % 2])).await;
    }
    let history = History::default();
    let (chaos_over, all_over) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let mut w = q.unregistered(&format!("w{number}"), POOLS[number % 2], 3);
        if number > 1 {
            w = w.stealing(&[POOLS[(number + 1) % 2]]);
        }
        w.ns = client(&q);
        w.lease = LEASE;
        workers.push(tokio::spawn(worker(
            w,
            history.clone(),
            Arc::clone(&chaos_over),
            Arc::clone(&all_over),
        )));
    }
    let mut gateways = Vec::new();
    let mut listeners = Vec::new();
    for number in 0..2 {
        let results = q.queue.results(&format!("gw-{number}")).await;
        listeners.push(results.expect("listening"));
        gateways.push(tokio::spawn(gateway(
            client(&q),
            number,
            Arc::clone(&chaos_over),
        )));
    }
    let moving = tokio::spawn(controller(client(&q), Arc::clone(&chaos_over)));
    tokio::time::sleep(FOR).await;
    chaos_over.store(true, Ordering::Relaxed);
    let routes = soon(moving).await.expect("moved");
    assert!(routes > 50, "only {routes} routes");

    let mut completed = 0;
    for (gateway, results) in gateways.into_iter().zip(listeners) {
        let accepted = soon(gateway).await.expect("enqueued");
        assert!(accepted.len() > 100, "only {} tasks", accepted.len());
        let ends = ends(results, accepted.len()).await;
        for (_, task) in &accepted {
            let outcomes = &ends[task];
            assert_eq!(outcomes.len(), 1, "{task} ended {outcomes:?}");
            assert_eq!(q.outcome_kind(task).await, outcomes[0]);
            let finishes = history.finishes(task);
            let expected = usize::from(outcomes[0] == OutcomeKind::Completed);
            assert_eq!(finishes, expected, "{task}: {outcomes:?}");
            completed += expected;
        }
        history.check_order(&accepted);
    }
    all_over.store(true, Ordering::Relaxed);
    for worker in workers {
        soon(worker).await.expect("stopped");
    }
    assert!(completed > 200, "only {completed} completed");
    history.check_overlap(|persona| {
        spec(persona[1..].parse().expect("a number"))
            .limits
            .max_concurrency
    });
    for pool in POOLS {
        let stats = q.stats(pool).await;
        assert_eq!((stats.queued, stats.running), (0, 0), "stranded in {pool}");
    }
}
