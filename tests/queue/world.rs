//! The model and a real queue side by side: every step is done in both, and both must agree.

use std::collections::BTreeSet;
use std::time::Duration;

use persona_operator::queue::listen::{ResultMessage, Results};
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::OutcomeKind;
use persona_operator::queue::work::{LEASE, Taken};

use crate::model::{
    Hold, LANES, MAX_ATTEMPTS, MAX_LENGTH, Model, PERSONAS, POOLS, Run, SERVES, SLOTS, STEALS,
    State, Task,
};
use crate::support::{Fixture, PAYLOAD, PersonaSpec, fixture, persona, soon};
use crate::worker::Worker;

pub const PAUSE: Duration = Duration::from_millis(2);

pub struct World {
    pub q: Fixture,
    pub m: Model,
    /// Every fence that a worker was ever given: worker, task, fence.
    pub fences: Vec<(usize, String, String)>,
    put: usize,
    results: [Results; 2],
}

pub fn pool(number: usize) -> String {
    format!("pool{number}")
}

pub fn name(persona: usize) -> String {
    format!("p{persona}")
}

fn gateway(number: usize) -> String {
    format!("gw-{number}")
}

/// What a persona needs, and what a worker has loaded; the first has nothing.
fn item(number: usize) -> String {
    format!("adapter/{}", number % 3)
}

impl World {
    /// Open pools, registered workers, a persona in each pool.
    pub async fn new() -> Self {
        let q = fixture().await;
        let results = [
            q.queue.results(&gateway(0)).await.expect("listening"),
            q.queue.results(&gateway(1)).await.expect("listening"),
        ];
        let mut world = Self {
            q,
            m: Model::new(),
            fences: Vec::new(),
            put: 0,
            results,
        };
        for number in 0..POOLS {
            world.open(number).await;
        }
        for worker in 0..SLOTS.len() {
            world.register(worker, false).await;
        }
        for id in 0..PERSONAS {
            world.route(id, Some(id % 3), 2, 0, false).await;
        }
        world
    }

    pub fn worker(&self, worker: usize) -> Worker {
        let lanes = &LANES[..SERVES[worker]];
        let steals: Vec<_> = STEALS[worker].iter().map(|number| pool(*number)).collect();
        let steals: Vec<_> = steals.iter().map(String::as_str).collect();
        let instance = format!("w{worker}-{}", self.m.workers[worker].instance);
        self.q
            .unregistered(&format!("w{worker}"), &pool(worker), SLOTS[worker])
            .lanes(lanes)
            .stealing(&steals)
            .instance(&instance)
            .loaded(&[item(worker).as_str()][..usize::from(worker > 0)])
    }

    /// What the controller says of a persona.
    pub fn spec(&self, id: usize) -> PersonaSpec {
        let p = &self.m.personas[id];
        let endpoint = match (id, p.incarnation) {
            (0 | 1, 0) => "http://shared/v1".to_owned(),
            (_, incarnation) => format!("http://{id}-{incarnation}/v1"),
        };
        let mut spec = persona(&name(id))
            .uid(&format!("uid-{id}-{}", p.incarnation))
            .lane(LANES[crate::model::lane(id)])
            .endpoint(&endpoint)
            .epoch(p.epoch)
            .generation(p.generation)
            .attempts(MAX_ATTEMPTS)
            .concurrency(p.concurrency)
            .length(u32::try_from(MAX_LENGTH).expect("short"))
            .priority(p.priority)
            .needs(&item(id));
        spec.pool = p.pool.map(pool);
        spec.suspended = p.suspended;
        spec
    }

    pub fn enqueue<'a>(&self, task: &'a str, persona: &'a str, gateway: &'a str) -> Enqueue<'a> {
        let t = &self.m.tasks[task];
        Enqueue {
            priority: t.priority,
            stream: t.stream,
            deadline: if t.late {
                Duration::ZERO
            } else {
                Duration::from_secs(3600)
            },
            gateway: Some(gateway),
            retention: Duration::from_secs(3600),
            ..Enqueue::new(persona, task, PAYLOAD)
        }
    }

    /// Puts a task in, late or not; the model forgets it again when Redis refused it.
    pub async fn submit(
        &mut self,
        id: usize,
        late: bool,
        stream: bool,
        priority: i32,
    ) -> EnqueueAnswer {
        let order = self.put;
        self.put += 1;
        let task = format!("t{order}");
        let new = Task {
            persona: id,
            incarnation: self.m.personas[id].incarnation,
            priority,
            order,
            late,
            stream,
            gateway: order % 2,
            state: State::Queued,
            attempts: 0,
            solo: false,
            emitted: false,
        };
        self.m.tasks.insert(task.clone(), new);
        let (name, gateway) = (name(id), gateway(order % 2));
        let request = self.enqueue(&task, &name, &gateway);
        let answer = self.q.try_submit(&request).await;
        if !matches!(answer, EnqueueAnswer::Queued { .. }) {
            self.m.tasks.remove(&task);
        }
        answer
    }

    /// Enqueues the same once more, or another payload under the same id.
    pub async fn submit_again(&self, task: &str, payload: &str) -> EnqueueAnswer {
        let (name, gateway) = (
            name(self.m.tasks[task].persona),
            gateway(self.m.tasks[task].gateway),
        );
        let request = Enqueue {
            payload,
            ..self.enqueue(task, &name, &gateway)
        };
        self.q.try_submit(&request).await
    }

    /// A worker got a task: both sides write it down.
    pub fn given(&mut self, worker: usize, slots: u32, taken: &Taken, lease: Duration) {
        let id = &taken.task;
        let task = &self.m.tasks[id];
        assert_eq!(taken.persona, name(task.persona));
        assert_eq!(taken.attempt, task.attempts + 1, "{id}");
        let solo = self.m.is_solo(id);
        assert_eq!((taken.stream, taken.solo), (task.stream, solo), "{id}");
        let p = &self.m.personas[task.persona];
        assert_eq!(Some(taken.pool.clone()), p.pool.map(pool));
        assert_eq!(taken.generation, p.generation);
        if p.pool != Some(worker) {
            assert_eq!((solo, p.lost), (false, 0), "{id} may take a helper along");
        }
        if solo {
            let beside = self.m.leased(worker);
            assert!(beside.is_empty(), "{id} is not alone: {beside:?}");
        }
        assert!(!self.m.runs_solo(worker), "{id} joined one that runs alone");
        let run = Run {
            worker,
            fence: taken.fence.clone(),
            alone: solo || slots == 1,
            solo,
            over: lease.is_zero(),
        };
        self.m.begin(id, run);
        self.fences.push((worker, id.clone(), taken.fence.clone()));
    }

    /// Late tasks end when somebody comes across them: which of them has, Redis says.
    pub async fn sync_late(&mut self) {
        let late: Vec<String> = self
            .m
            .tasks
            .iter()
            .filter(|(_, task)| task.late && task.state == State::Queued)
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            let output = self.q.ns.output(&id, None).await.expect("an answer");
            if let Some(outcome) = output.expect("known").outcome {
                assert_eq!(outcome.outcome, OutcomeKind::Expired);
                self.m.end(&id, OutcomeKind::Expired);
            }
        }
    }

    /// Lets a pause pass that the queue was told of.
    pub async fn after_pause(&self, hold: Hold) {
        if hold == Hold::Over {
            self.q.pass(PAUSE + Duration::from_millis(1)).await;
        }
    }

    /// Queues, running tasks and the order of runnable personas: Redis' books are the model's.
    pub async fn agree(&self) {
        let keys = self.q.ns.keys();
        let mut pipe = redis::pipe();
        for id in 0..PERSONAS {
            pipe.cmd("ZRANGE")
                .arg(keys.queued(&name(id)))
                .arg(&["0", "-1"]);
            pipe.smembers(keys.running(&name(id)));
        }
        for number in 0..POOLS {
            for lane in LANES {
                let ready = format!("{}ready:{}:{lane}", keys.prefix(), pool(number));
                pipe.cmd("ZRANGE").arg(ready).arg(&["0", "-1"]);
            }
        }
        let mut answers: Vec<Vec<String>> = self.q.pipe(&pipe).await;
        let ready = answers.split_off(2 * PERSONAS);
        for id in 0..PERSONAS {
            assert_eq!(answers[2 * id], self.m.queue(id), "queue of p{id}");
            let running: BTreeSet<_> = answers[2 * id + 1].iter().cloned().collect();
            assert_eq!(running, self.m.running(id), "running of p{id}");
        }
        for number in 0..POOLS {
            for lane in 0..LANES.len() {
                let there: BTreeSet<_> =
                    ready[number * LANES.len() + lane].iter().cloned().collect();
                let (must, may) = self.m.ready(number, lane);
                let names =
                    |ids: BTreeSet<usize>| ids.into_iter().map(name).collect::<BTreeSet<_>>();
                let (must, may) = (names(must), names(may));
                let sure: BTreeSet<_> = there.difference(&may).cloned().collect();
                assert_eq!(sure, must, "ready in pool {number}, lane {lane}");
            }
        }
    }

    /// Each gateway has heard of exactly one end of each of its tasks: that of the model.
    pub async fn outcomes_agree(&mut self) {
        for (number, results) in self.results.iter_mut().enumerate() {
            let last = format!("last-{number}");
            let (persona, gateway) = (format!("asked-{number}"), gateway(number));
            self.q
                .route(&crate::support::persona(&persona).nowhere())
                .await;
            let sentinel = Enqueue {
                gateway: Some(&gateway),
                ..Enqueue::new(&persona, &last, PAYLOAD)
            };
            self.q.submit(&sentinel).await;
            self.q.ns.cancel(&last).await.expect("cancelled");
            let mut heard = Vec::new();
            loop {
                match soon(results.next()).await {
                    ResultMessage::Ended { task, .. } if task == last => break,
                    ResultMessage::Ended { task, outcome, .. } => {
                        heard.push((task, outcome.outcome))
                    }
                    ResultMessage::Gap => panic!("the connection was lost"),
                    _ => {}
                }
            }
            heard.retain(|(task, _)| {
                self.m
                    .tasks
                    .get(task)
                    .is_some_and(|it| it.gateway == number)
            });
            heard.sort_by(|a, b| a.0.cmp(&b.0));
            let of_model = self
                .m
                .tasks
                .iter()
                .filter_map(|(id, task)| match task.state {
                    State::Ended(outcome) if task.gateway == number => Some((id.clone(), outcome)),
                    _ => None,
                });
            let mut expected: Vec<_> = of_model.collect();
            expected.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(heard, expected, "ends that {gateway} heard of");
        }
    }

    pub fn lease(dying: bool) -> Duration {
        if dying { Duration::ZERO } else { LEASE }
    }
}
