//! Two personas and three tasks on two pools with a worker each, while the topology is edited, and a
//! worker or the controller is lost: every order in which it can happen.

use stateright::{Model, Property};

use crate::bug::Bug;
use crate::plans::{Object, Plans, Route as Planned, Situation, Wanted};
use crate::queue::{Queue, Route, RouteAnswer, TASKS, Task, TaskState, persona_of};

/// A call on its way from the controller to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// The pool to enter; none to stay.
    pub target: Option<usize>,
    /// The epoch of the topology as the caller knew it.
    pub epoch: u8,
    /// Where the caller thought the persona was.
    pub believed: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Persona {
    /// The pool in its status.
    pub says: usize,
    /// Pool and epoch that this controller has told the queue.
    pub known: Option<(usize, u8)>,
    /// The controller's call that is not answered yet.
    pub call: Option<Call>,
}

/// The process of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    /// There is no pod.
    Absent,
    Up {
        /// The fences under which it runs tasks.
        holds: [Option<u8>; TASKS],
    },
    /// Crashed: nobody has seen it yet.
    Dead,
}

const IDLE: Process = Process::Up {
    holds: [None; TASKS],
};

/// How often what comes from outside may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Tasks that clients submit.
    pub tasks: u8,
    /// Crashes of a worker, or leases that expire while it hangs.
    pub crashes: u8,
    /// Pods that are replaced: a new template, a node that goes.
    pub rollouts: u8,
    /// Edits of the topology's mode.
    pub edits: u8,
    /// Controllers whose place another takes while a call of theirs is on its way.
    pub failovers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub edits: u8,
    pub pools: [Option<Object>; 2],
    /// Closed in the queue and about to be deleted.
    pub closing: [bool; 2],
    pub personas: [Persona; 2],
    pub queue: Queue,
    pub workers: [Process; 2],
    /// The worker was told that it may take, and its take is on its way (only with
    /// [`Bug::DrainNotAtomicWithTake`]).
    pub asked: [bool; 2],
    /// A call of the controller before: persona and what it says.
    pub stale: Option<(usize, Call)>,
    pub left: Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    // Clients and people.
    Enqueue { persona: usize },
    EditTopology,
    // The controller: topology.
    Apply { pool: usize, spec: u8 },
    Close { pool: usize },
    Delete { pool: usize },
    // The controller: pools.
    Open { pool: usize },
    Start { pool: usize },
    ShowReady { pool: usize },
    Drain { worker: usize },
    Remove { worker: usize },
    Reap { worker: usize },
    // The controller: personas.
    Decide { persona: usize },
    Deliver { persona: usize },
    // Workers.
    Ask { worker: usize },
    Take { worker: usize, persona: usize },
    Finish { worker: usize, task: usize },
    // Faults.
    Crash { worker: usize },
    Hang { worker: usize },
    Restart { worker: usize },
    Failover { persona: usize },
    DeliverStale,
}

/// The whole, perhaps with a part left out.
pub struct System {
    pub left: Left,
    pub bug: Option<Bug>,
    pub plans: Plans,
}

impl System {
    pub fn new(left: Left, bug: Option<Bug>) -> Self {
        Self {
            left,
            bug,
            plans: Plans::new(),
        }
    }

    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn wanted(&self, state: &State) -> Wanted {
        let says = [0, 1].map(|i: usize| state.personas[i].says);
        self.plans.wanted(state.edits, state.pools, says)
    }

    fn planned(&self, state: &State, persona: usize) -> Option<Call> {
        let known = state.personas[persona].known;
        let route = state.queue.routes[persona];
        let published = known.unwrap_or((route.pool, route.epoch));
        let serving = [0, 1].map(|pool: usize| state.queue.may_take(pool));
        let situation = Situation {
            persona,
            edits: state.edits,
            says: state.personas[persona].says,
            pools: state.pools,
            serving,
            published,
            is_ours: known.is_some(),
        };
        let home = Plans::home(state.edits);
        let planned = if self.is(Bug::SwitchBeforeReady) && published.0 != home {
            Some(Planned::Enter(home)).filter(|_| state.pools[home].is_some())
        } else {
            self.plans.route(situation)
        };
        let target = match planned? {
            Planned::Stay => None,
            Planned::Enter(pool) => Some(pool),
        };
        Some(Call {
            target,
            epoch: Plans::epoch(state.edits),
            believed: published.0,
        })
    }

    /// Nothing is left to do, and nobody is where they do not belong.
    fn is_at_rest(&self, state: &State) -> bool {
        let home = Plans::home(state.edits);
        let answered = |task: &Task| task.state == TaskState::Ended;
        let submitted = |task: &&Task| task.state != TaskState::Absent;
        state.left.tasks == 0
            && state.queue.tasks.iter().filter(submitted).all(answered)
            && state.queue.routes.iter().all(|route| route.pool == home)
            && state.pools[1 - home].is_none()
            && !state.queue.open[1 - home]
            && state.workers[1 - home] == Process::Absent
    }
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let spec = self.plans.wanted(0, [None, None], [0, 0]).apply[0];
        let route = Route { pool: 0, epoch: 1 };
        let persona = Persona {
            says: 0,
            known: Some((0, 1)),
            call: None,
        };
        let task = Task {
            state: TaskState::Absent,
            solo: false,
            begun: 0,
            outcomes: 0,
        };
        let mut queue = Queue {
            open: [true, false],
            layout: 0,
            routes: [route; 2],
            tasks: [task; TASKS],
            books: [None; 2],
        };
        queue.register(0);
        let pool = Object {
            spec: spec.expect("a pool for all"),
            ready: true,
            shown: true,
        };
        vec![State {
            edits: 0,
            pools: [Some(pool), None],
            closing: [false; 2],
            personas: [persona.clone(), persona],
            queue,
            workers: [IDLE, Process::Absent],
            asked: [false; 2],
            stale: None,
            left: self.left,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let wanted = self.wanted(state);
        // Who closes and deletes a pool decides nothing between the two.
        if state.left.edits > 0 && !state.closing.contains(&true) {
            actions.push(Action::EditTopology);
        }
        if state.stale.is_some() {
            actions.push(Action::DeliverStale);
        }
        for pool in 0..2 {
            if let Some(spec) = wanted.apply[pool] {
                actions.push(Action::Apply { pool, spec });
            }
            pool_actions(state, pool, wanted.retire[pool], actions);
            worker_actions(state, pool, self.is(Bug::DrainNotAtomicWithTake), actions);
        }
        for persona in 0..2 {
            actions.push(Action::Enqueue { persona });
            if state.personas[persona].call.is_some() {
                actions.push(Action::Deliver { persona });
                if state.left.failovers > 0 {
                    actions.push(Action::Failover { persona });
                }
            } else if self.planned(state, persona).is_some() {
                actions.push(Action::Decide { persona });
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        state.act(self, action)?;
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOT_LOST, |_, state: &State| {
                state.queue.tasks.iter().all(|task| match task.state {
                    TaskState::Absent | TaskState::Queued => true,
                    TaskState::Running { worker, .. } => state.queue.books[worker].is_some(),
                    TaskState::Ended => task.outcomes == 1,
                })
            }),
            Property::always(NOT_TWICE, |system: &Self, state: &State| {
                (0..TASKS).all(|task| {
                    let valid = |worker: &&Process| match worker {
                        Process::Up { holds } => holds[task]
                            .is_some_and(|fence| state.queue.accepts(task, fence, system.bug)),
                        _ => false,
                    };
                    state.workers.iter().filter(valid).count() <= 1
                })
            }),
            Property::always(IN_ORDER, |_, state: &State| {
                let begun = |t: usize| state.queue.tasks[t].begun > 0;
                let ended = |t: usize| state.queue.tasks[t].state == TaskState::Ended;
                (1..TASKS).all(|t| persona_of(t) != persona_of(t - 1) || !begun(t) || ended(t - 1))
            }),
            Property::always(SERVED, |_, state: &State| {
                state.queue.routes.iter().all(|route| {
                    let shown = state.pools[route.pool].is_some_and(|pool| pool.shown);
                    shown && state.queue.open[route.pool]
                })
            }),
            Property::always(COMES_TO_REST, |system: &Self, state: &State| {
                let mut actions = Vec::new();
                system.actions(state, &mut actions);
                let mut actions = actions.into_iter();
                actions.any(|action| system.next_state(state, action).is_some())
                    || system.is_at_rest(state)
            }),
            Property::sometimes(THERE_AND_BACK, |system: &Self, state: &State| {
                state.edits == system.left.edits && system.is_at_rest(state)
            }),
        ]
    }
}

pub const NOT_LOST: &str = "no task is lost";
pub const NOT_TWICE: &str = "no task runs twice with a valid fence";
pub const IN_ORDER: &str = "a persona's tasks run in their order";
pub const SERVED: &str = "every persona is routed to an open pool that has shown a ready worker";
pub const COMES_TO_REST: &str =
    "it comes to rest with every task answered and every persona where it belongs";
pub const THERE_AND_BACK: &str = "everybody moves and every task is answered";

fn pool_actions(state: &State, pool: usize, retire: bool, actions: &mut Vec<Action>) {
    let is_open = state.queue.open[pool];
    match state.pools[pool] {
        Some(_) if state.closing[pool] => actions.push(Action::Delete { pool }),
        Some(_) if retire => actions.push(Action::Close { pool }),
        // One that is gone and still open: src/controller/contact.rs, `close_pools`.
        None if is_open => actions.push(Action::Close { pool }),
        _ => {}
    }
    if let Some(object) = state.pools[pool] {
        if !is_open {
            actions.push(Action::Open { pool });
        } else if state.workers[pool] == Process::Absent {
            actions.push(Action::Start { pool });
        } else if !object.ready {
            actions.push(Action::ShowReady { pool });
        }
    }
}

fn worker_actions(state: &State, worker: usize, two_steps: bool, actions: &mut Vec<Action>) {
    if state.pools[worker].is_none() || state.left.rollouts > 0 {
        actions.push(Action::Drain { worker });
    }
    actions.push(Action::Remove { worker });
    if state.asked[worker] {
        actions.extend([0, 1].map(|persona| Action::Take { worker, persona }));
    }
    match state.workers[worker] {
        Process::Absent => {}
        Process::Dead => actions.extend([Action::Reap { worker }, Action::Restart { worker }]),
        Process::Up { holds } => {
            if two_steps {
                actions.push(Action::Ask { worker });
            } else if state.queue.may_take(worker) {
                actions.extend([0, 1].map(|persona| Action::Take { worker, persona }));
            }
            let held = (0..TASKS).filter(|task| holds[*task].is_some());
            actions.extend(held.map(|task| Action::Finish { worker, task }));
            if state.left.crashes > 0 {
                actions.extend([Action::Crash { worker }, Action::Hang { worker }]);
            }
        }
    }
}

impl State {
    /// Does it; none where it cannot be done.
    fn act(&mut self, system: &System, action: Action) -> Option<()> {
        match action {
            Action::Enqueue { persona } => {
                self.left.tasks = self.left.tasks.checked_sub(1)?;
                self.queue.enqueue(persona)?;
            }
            Action::EditTopology => {
                self.left.edits = self.left.edits.checked_sub(1)?;
                self.edits += 1;
            }
            Action::Apply { pool, spec } => {
                let shown = self.pools[pool].is_some_and(|pool| pool.shown);
                let ready = false;
                self.pools[pool] = Some(Object { spec, ready, shown });
            }
            Action::Close { pool } => {
                self.queue.close(pool, Plans::epoch(self.edits))?;
                self.closing[pool] = self.pools[pool].is_some();
            }
            Action::Delete { pool } => {
                self.closing[pool] = false;
                self.pools[pool] = None;
            }
            Action::Open { pool } => self.queue.open(pool),
            Action::Start { pool } => {
                self.workers[pool] = IDLE;
                self.queue.register(pool);
            }
            Action::ShowReady { pool } => self.show_ready(pool)?,
            Action::Drain { worker } => self.drain(worker)?,
            Action::Remove { worker } => self.remove(worker)?,
            Action::Reap { worker } => self.queue.lose(worker),
            Action::Decide { persona } => {
                self.personas[persona].call = system.planned(self, persona);
            }
            Action::Deliver { persona } => self.deliver(system, persona)?,
            Action::Ask { worker } => self.asked[worker] = self.queue.may_take(worker),
            Action::Take { worker, persona } => self.take(worker, persona)?,
            Action::Finish { worker, task } => self.finish(system, worker, task)?,
            Action::Crash { worker } => {
                self.left.crashes = self.left.crashes.checked_sub(1)?;
                self.workers[worker] = Process::Dead;
            }
            Action::Hang { worker } => {
                self.left.crashes = self.left.crashes.checked_sub(1)?;
                self.queue.leases(worker).next()?;
                self.queue.lose(worker);
            }
            Action::Restart { worker } => {
                self.workers[worker] = IDLE;
                self.queue.register(worker);
            }
            Action::Failover { persona } => self.fail_over(persona)?,
            Action::DeliverStale => {
                let (persona, call) = self.stale.take()?;
                self.queue
                    .route(persona, call.target, call.epoch, system.bug);
            }
        }
        Some(())
    }

    fn show_ready(&mut self, pool: usize) -> Option<()> {
        let works = matches!(self.workers[pool], Process::Up { .. }) && self.queue.may_take(pool);
        let object = self.pools[pool].as_mut().filter(|_| works)?;
        object.ready = true;
        object.shown = true;
        Some(())
    }

    /// A pod that goes with its pool, or is replaced.
    fn drain(&mut self, worker: usize) -> Option<()> {
        if !self.queue.may_take(worker) {
            return None;
        }
        if self.pools[worker].is_some() {
            self.left.rollouts = self.left.rollouts.checked_sub(1)?;
        }
        self.queue.drain(worker);
        Some(())
    }

    /// src/controller/pool/plan.rs, `remove_drained`: it drained, and nothing of it runs.
    fn remove(&mut self, worker: usize) -> Option<()> {
        let drained = self.queue.books[worker].is_some_and(|book| book.draining);
        if !drained || self.queue.leases(worker).next().is_some() {
            return None;
        }
        self.workers[worker] = Process::Absent;
        self.queue.forget(worker);
        if let Some(pool) = &mut self.pools[worker] {
            pool.ready = false;
        }
        Some(())
    }

    /// src/controller/persona/apply.rs
    fn deliver(&mut self, system: &System, which: usize) -> Option<()> {
        let persona = &mut self.personas[which];
        let call = persona.call.take()?;
        match self.queue.route(which, call.target, call.epoch, system.bug) {
            RouteAnswer::Routed(pool) => {
                let pool = match system.is(Bug::BelievesItsMemory) {
                    true => call.target.unwrap_or(call.believed),
                    false => pool,
                };
                persona.known = Some((pool, call.epoch));
                persona.says = pool;
            }
            RouteAnswer::ClosedPool => persona.known = None,
            RouteAnswer::StaleEpoch => {}
        }
        Some(())
    }

    /// Another controller leads, and knows nothing; a call of the one before is still on its way.
    fn fail_over(&mut self, persona: usize) -> Option<()> {
        self.left.failovers = self.left.failovers.checked_sub(1)?;
        self.stale = Some((persona, self.personas[persona].call?));
        for persona in &mut self.personas {
            persona.call = None;
            persona.known = None;
        }
        self.closing = [false; 2];
        Some(())
    }

    fn take(&mut self, worker: usize, persona: usize) -> Option<()> {
        let (task, fence) = self.queue.pop(worker, persona)?;
        self.asked[worker] = false;
        if let Process::Up { holds } = &mut self.workers[worker] {
            holds[task] = Some(fence);
        }
        Some(())
    }

    fn finish(&mut self, system: &System, worker: usize, task: usize) -> Option<()> {
        let Process::Up { holds } = &mut self.workers[worker] else {
            return None;
        };
        let fence = holds[task].take()?;
        self.queue.finish(task, fence, system.bug);
        Some(())
    }
}
