//! The queue's verbs, as src/queue/lua has them, without time: virtual time, deadlines and retries
//! after failures decide who comes first, never who may run.

use crate::bug::Bug;

/// Tasks of all personas.
pub const TASKS: usize = 3;
/// Tasks that a worker runs at once.
const SLOTS: usize = 2;

/// The persona of a task.
pub fn persona_of(task: usize) -> usize {
    usize::from(task == TASKS - 1)
}

/// What Redis holds of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    /// A pool each: whether routes may enter it.
    pub open: [bool; 2],
    /// The newest epoch that a pool was closed for.
    pub layout: u8,
    /// A persona each.
    pub routes: [Route; 2],
    /// In the order of their submission, a persona.
    pub tasks: [Task; TASKS],
    /// What is known of the worker of each pool.
    pub books: [Option<Book>; 2],
}

/// Where a persona's tasks run, since which epoch of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub pool: usize,
    pub epoch: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    pub state: TaskState,
    /// Runs alone the next time.
    pub solo: bool,
    /// Attempts that have begun: the number of the last one is its fence.
    pub begun: u8,
    /// Outcomes that were written.
    pub outcomes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// Not submitted yet.
    Absent,
    Queued,
    Running {
        worker: usize,
        fence: u8,
    },
    Ended,
}

/// A registered worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Book {
    pub draining: bool,
}

/// Answer to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// Accepted; the pool where the persona is now.
    Routed(usize),
    StaleEpoch,
    ClosedPool,
}

impl Queue {
    /// enqueue.lua: the persona's next task; none if all were submitted.
    pub fn enqueue(&mut self, persona: usize) -> Option<()> {
        let next = (0..TASKS)
            .find(|&t| persona_of(t) == persona && self.tasks[t].state == TaskState::Absent)?;
        self.tasks[next].state = TaskState::Queued;
        Some(())
    }

    /// route.lua: compare-and-set on the epoch, into open pools only. No target: it stays.
    pub fn route(
        &mut self,
        persona: usize,
        target: Option<usize>,
        epoch: u8,
        bug: Option<Bug>,
    ) -> RouteAnswer {
        let old = self.routes[persona];
        if epoch < old.epoch && bug != Some(Bug::OldEpochAccepted) {
            return RouteAnswer::StaleEpoch;
        }
        let knows_layouts = bug != Some(Bug::CloseForgetsTheLayout);
        if target.is_some() && epoch < self.layout && knows_layouts {
            return RouteAnswer::StaleEpoch;
        }
        let pool = target.unwrap_or(old.pool);
        if !self.open[pool] {
            return RouteAnswer::ClosedPool;
        }
        self.routes[persona] = Route { pool, epoch };
        RouteAnswer::Routed(pool)
    }

    /// open.lua
    pub fn open(&mut self, pool: usize) {
        self.open[pool] = true;
    }

    /// close.lua: none while somebody is routed there or something runs on its workers.
    pub fn close(&mut self, pool: usize, epoch: u8) -> Option<()> {
        if !self.is_empty(pool) {
            return None;
        }
        self.open[pool] = false;
        self.layout = self.layout.max(epoch);
        Some(())
    }

    /// Nobody is routed there and nothing runs there.
    pub fn is_empty(&self, pool: usize) -> bool {
        let members = self.routes.iter().any(|route| route.pool == pool);
        !members && self.leases(pool).next().is_none()
    }

    /// Tasks that the worker holds in the books: the set `lease:<worker>`.
    pub fn leases(&self, worker: usize) -> impl Iterator<Item = usize> + '_ {
        (0..TASKS).filter(move |&task| {
            matches!(self.tasks[task].state, TaskState::Running { worker: w, .. } if w == worker)
        })
    }

    /// register.lua: a new process gives back what the one before it held.
    pub fn register(&mut self, worker: usize) {
        self.lose(worker);
        self.books[worker].get_or_insert(Book { draining: false });
    }

    /// take.lua, up to the check of `draining`.
    pub fn may_take(&self, worker: usize) -> bool {
        self.books[worker].is_some_and(|book| !book.draining)
    }

    /// take.lua, from there on: the head of a persona's queue, if the persona is runnable (index.lua:
    /// one at a time) and the worker has a slot. One that must run alone waits for an empty worker, and
    /// nothing joins it. Answers task and fence.
    pub fn pop(&mut self, worker: usize, persona: usize) -> Option<(usize, u8)> {
        let mine = || (0..TASKS).filter(|&task| persona_of(task) == persona);
        let runs = |task: usize| matches!(self.tasks[task].state, TaskState::Running { .. });
        if self.routes[persona].pool != worker || mine().any(runs) {
            return None;
        }
        let head = mine().find(|&task| self.tasks[task].state == TaskState::Queued)?;
        let held = self.leases(worker).count();
        let is_alone = self.leases(worker).any(|task| self.tasks[task].solo);
        if held >= SLOTS || is_alone || self.tasks[head].solo && held > 0 {
            return None;
        }
        let task = &mut self.tasks[head];
        task.begun += 1;
        let fence = task.begun;
        task.state = TaskState::Running { worker, fence };
        Some((head, fence))
    }

    /// prelude.lua, `fenced`: whether the task is running, under this very fence.
    pub fn accepts(&self, task: usize, fence: u8, bug: Option<Bug>) -> bool {
        match self.tasks[task].state {
            TaskState::Running { fence: valid, .. } => {
                valid == fence || bug == Some(Bug::FinishWithoutFence)
            }
            _ => false,
        }
    }

    /// finish.lua
    pub fn finish(&mut self, task: usize, fence: u8, bug: Option<Bug>) {
        if self.accepts(task, fence, bug) {
            let task = &mut self.tasks[task];
            task.state = TaskState::Ended;
            task.outcomes += 1;
        }
    }

    /// drain.lua
    pub fn drain(&mut self, worker: usize) {
        if let Some(book) = &mut self.books[worker] {
            book.draining = true;
        }
    }

    /// attempt.lua, `lose`, which reap.lua and reap_worker.lua call: back to the head, to run alone.
    pub fn lose(&mut self, worker: usize) {
        let lost: Vec<usize> = self.leases(worker).collect();
        for task in lost {
            let task = &mut self.tasks[task];
            task.state = TaskState::Queued;
            task.solo = true;
        }
    }

    /// reap_worker.lua with `forget`: the pod is gone.
    pub fn forget(&mut self, worker: usize) {
        self.lose(worker);
        self.books[worker] = None;
    }
}
