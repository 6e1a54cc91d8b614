//! Two personas and three tasks on two pools with a worker each, while the topology is edited, and a
//! worker or the controller is lost: every order in which it can happen.

use stateright::{Model, Property};

use crate::bug::Bug;
use crate::plans::{Object, Plans, Route as Planned, Situation, Wanted};
use crate::queue::{Queue, Route, TASKS, Task, TaskState, persona_of};
use crate::state::{Action, Call, IDLE, Left, Persona, Process, State};

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

    pub fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn wanted(&self, state: &State) -> Wanted {
        let says = [0, 1].map(|i: usize| state.personas[i].says);
        self.plans.wanted(state.edits, state.pools, says)
    }

    pub fn planned(&self, state: &State, persona: usize) -> Option<Call> {
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
            retiring: None,
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
        if state.stale.is_some() {
            actions.push(Action::GoOnStale);
        }
        // Who takes a pool away decides nothing before that is done, or was refused.
        if state.retiring.is_some() {
            actions.push(Action::GoOnRetiring);
            if state.left.failovers > 0 {
                actions.push(Action::Failover { call: None });
            }
        } else {
            if state.left.edits > 0 {
                actions.push(Action::EditTopology);
            }
            for pool in 0..2 {
                let is_made = state.pools[pool].is_none();
                if let Some(spec) = wanted.apply[pool]
                    && !(is_made && state.is_called_into(pool))
                {
                    actions.push(Action::Apply { pool, spec });
                }
                if wanted.retire[pool] {
                    actions.push(Action::Retire { pool });
                }
            }
        }
        for pool in 0..2 {
            pool_actions(state, pool, actions);
            worker_actions(state, pool, self.is(Bug::DrainNotAtomicWithTake), actions);
        }
        for persona in 0..2 {
            actions.push(Action::Enqueue { persona });
            if state.personas[persona].call.is_some() {
                actions.push(Action::Deliver { persona });
                if state.left.failovers > 0 {
                    let call = Some(persona);
                    actions.push(Action::Failover { call });
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
                // What is refused again and again is no way on.
                actions.retain(|action| !state.retires_in_vain(*action));
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

fn pool_actions(state: &State, pool: usize, actions: &mut Vec<Action>) {
    let is_open = state.queue.open[pool];
    if state.pools[pool].is_none() && is_open {
        actions.push(Action::CloseGone { pool });
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
