//! The controller's verbs, done in the world and in the model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use persona_operator::queue::fleet::Fate;
use persona_operator::queue::routing::{CloseAnswer, RemoveAnswer, RouteAnswer};
use persona_operator::queue::task::OutcomeKind;

use crate::model::{Hold, Pool, SLOTS, State, Worker as ModelWorker};
use crate::world::{World, name, pool};

impl World {
    pub async fn reap(&mut self) {
        let reaped = self.q.reap().await;
        let mut expected = BTreeMap::new();
        let queued: Vec<_> = self.m.tasks.keys().cloned().collect();
        for id in queued {
            let task = &self.m.tasks[&id];
            match &task.state {
                State::Queued if task.late => {
                    self.m.end(&id, OutcomeKind::Expired);
                    expected.insert(id, Fate::Expired);
                }
                State::Running(run) if run.over => {
                    let fate = self.m.lose(&id);
                    expected.insert(id, fate);
                }
                _ => {}
            }
        }
        let fates: BTreeMap<_, _> = reaped.into_iter().map(|it| (it.task, it.fate)).collect();
        assert_eq!(fates, expected);
        for number in 0..self.m.pools.len() {
            if self.m.pools[number].open {
                self.wake(number);
            }
        }
    }

    pub async fn lose_worker(&mut self, id: usize, forget: bool) {
        let uid = format!("w{id}");
        let reaped = if forget {
            self.q.ns.forget_worker(&uid).await
        } else {
            self.q.ns.reap_worker(&uid).await
        };
        let reaped = reaped.expect("reaped").into_iter();
        let fates: BTreeMap<_, _> = reaped.map(|it| (it.task, it.fate)).collect();
        assert_eq!(fates, self.m.lose_all(id));
        if forget {
            let instance = self.m.workers[id].instance;
            self.m.workers[id] = ModelWorker {
                instance,
                ..ModelWorker::default()
            };
        }
    }

    pub async fn register(&mut self, id: usize, new: bool) {
        let w = &mut self.m.workers[id];
        w.instance += u32::from(new);
        let fresh = new || !w.known;
        (w.known, w.listed, w.slots) = (true, true, Some(SLOTS[id]));
        if fresh {
            w.maybe_held = false;
        }
        let freed = self.worker(id).register().await;
        let lost = if fresh { self.m.lose_all(id).len() } else { 0 };
        assert_eq!(freed, lost as u64);
    }

    pub async fn deregister(&mut self, id: usize) {
        let uid = format!("w{id}");
        self.q.ns.deregister(&pool(id), &uid).await.expect("gone");
        self.m.workers[id].listed = false;
    }

    pub async fn drain(&mut self, id: usize, on: bool) {
        let running = self.q.ns.drain(&format!("w{id}"), on).await;
        self.m.workers[id].draining = on;
        let leased = self.m.leased(id).len() as u64;
        assert_eq!(running.expect("an answer"), leased);
    }

    pub async fn open(&mut self, number: usize) {
        self.q.open(&[&pool(number)]).await;
        self.m.pools[number].open = true;
    }

    pub async fn close(&mut self, number: usize) {
        let members = (0..self.m.personas.len())
            .filter(|id| self.m.personas[*id].pool == Some(number))
            .collect::<Vec<_>>();
        let running = self.m.leased(number).len() as u64;
        let queued: usize = members.iter().map(|id| self.m.queue(*id).len()).sum();
        let answer = self.q.ns.close(&pool(number), 0).await.expect("an answer");
        if members.is_empty() && running == 0 {
            assert_eq!(answer, CloseAnswer::Closed);
            self.m.pools[number] = Pool::default();
        } else {
            let busy = CloseAnswer::Busy {
                members: members.len() as u64,
                queued: queued as u64,
                running,
            };
            assert_eq!(answer, busy);
        }
    }

    pub async fn route(
        &mut self,
        id: usize,
        to: Option<usize>,
        concurrency: u32,
        priority: i32,
        suspended: bool,
    ) {
        let before = self.m.clone();
        let p = &mut self.m.personas[id];
        if !p.registered && p.removed {
            // Tasks of the one before are told by the clock.
            p.incarnation += 1;
            self.q.pass(Duration::from_millis(2)).await;
        }
        let p = &mut self.m.personas[id];
        let from = p.pool.filter(|from| Some(*from) != to);
        if p.pool != to {
            self.m.leave(id);
        }
        let p = &mut self.m.personas[id];
        p.epoch += 1;
        p.generation += 1;
        (p.pool, p.concurrency, p.priority) = (to, concurrency, priority);
        p.suspended = suspended;
        let answer = self.q.try_route(&self.spec(id)).await;
        if to.is_some_and(|to| !before.pools[to].open) {
            assert_eq!(answer, RouteAnswer::ClosedPool);
            self.m = before;
            return;
        }
        let queued = self.m.queue(id).len() as u64;
        let from = from.map(pool);
        let now = to.map(pool);
        let expected = RouteAnswer::Routed {
            from,
            pool: now,
            queued,
        };
        assert_eq!(answer, expected);
        if self.m.personas[id].registered {
            self.m.acquit(id);
        }
        let p = &mut self.m.personas[id];
        p.registered = true;
        if p.hold == Hold::Over {
            p.hold = Hold::Awake;
        }
    }

    /// Routes that come too late, or are for another persona of the name.
    pub async fn route_stale(&self, id: usize, which: u8) {
        let p = &self.m.personas[id];
        if !p.registered {
            if p.removed {
                let late = self.q.try_route(&self.spec(id)).await;
                assert_eq!(late, RouteAnswer::Removed);
            }
            return;
        }
        let spec = self.spec(id);
        let (spec, expected) = match which % 3 {
            0 => (
                spec.epoch(p.epoch - 1),
                RouteAnswer::StaleEpoch { current: p.epoch },
            ),
            1 => (
                spec.generation(p.generation - 1),
                RouteAnswer::StaleGeneration {
                    current: p.generation,
                },
            ),
            _ => (
                spec.clone().uid("another"),
                RouteAnswer::OtherUid { current: spec.uid },
            ),
        };
        assert_eq!(self.q.try_route(&spec).await, expected);
    }

    pub async fn remove(&mut self, id: usize) {
        let uid = self.spec(id).uid;
        let answer = self.q.ns.remove(&name(id), &uid, "deleted").await;
        let answer = answer.expect("an answer");
        let p = &self.m.personas[id];
        if !p.registered && !p.removed {
            assert_eq!(answer, RemoveAnswer::Unknown);
            return;
        }
        let queue = self.m.queue(id);
        let failed = queue.len() as u64;
        assert_eq!(answer, RemoveAnswer::Removed { failed });
        for task in queue {
            self.m.end(&task, OutcomeKind::Failed);
        }
        self.m.leave(id);
        let p = &mut self.m.personas[id];
        (p.registered, p.removed, p.hold) = (false, true, Hold::Awake);
        (p.arrived, p.completed, p.lost) = (0, 0, 0);
    }

    /// The numbers that autoscaling reads.
    pub async fn look(&self, number: usize) {
        let stats = self.q.stats(&pool(number)).await;
        let m = &self.m;
        let members: BTreeSet<_> = (0..m.personas.len())
            .filter(|id| m.personas[*id].pool == Some(number))
            .collect();
        let sum =
            |of: &dyn Fn(usize) -> usize| members.iter().map(|id| of(*id)).sum::<usize>() as u64;
        assert_eq!(stats.open, m.pools[number].open);
        assert_eq!(stats.members, members.len() as u64);
        assert_eq!(stats.queued, sum(&|id| m.queue(id).len()), "queued");
        assert_eq!(stats.running, sum(&|id| m.running(id).len()), "running");
        let concurrency = |id: usize| m.personas[id].concurrency as usize;
        let work = |id: usize| m.queue(id).len() + m.running(id).len();
        let demand = |id: usize| match m.may_run(id) {
            true => work(id).min(concurrency(id)),
            false => 0,
        };
        assert_eq!(stats.demand, sum(&demand), "demand");
        let could = |id: usize| match m.may_run(id) {
            true => m
                .queue(id)
                .len()
                .min(concurrency(id).saturating_sub(m.running(id).len())),
            false => 0,
        };
        assert_eq!(stats.runnable, sum(&could), "runnable");
        assert_eq!((stats.arrived, stats.completed), m.counters(number));
        let listed = usize::from(m.workers[number].listed);
        assert_eq!(stats.workers.len(), listed);
        if let Some(worker) = stats.workers.first() {
            assert_eq!(worker.running as usize, m.leased(number).len());
            assert_eq!(worker.draining, m.workers[number].draining);
        }
    }
}
