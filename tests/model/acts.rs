//! What each action does.

use crate::bug::Bug;
use crate::plans::{Object, Plans};
use crate::queue::RouteAnswer;
use crate::retiring::{Retirement, Write};
use crate::state::{Action, IDLE, Process, Stale, State};
use crate::system::System;

impl State {
    /// A call of the controller that leads is on its way into the pool. Its calls are taken to be shorter
    /// than it takes to see that the pool is gone, to make another one of its name, and to open that.
    pub fn is_called_into(&self, pool: usize) -> bool {
        let mut calls = self.personas.iter().filter_map(|persona| persona.call);
        calls.any(|call| call.target == Some(pool))
    }

    /// Does it; none where it cannot be done.
    pub fn act(&mut self, system: &System, action: Action) -> Option<()> {
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
                self.written(pool, Write::Spec);
            }
            Action::Retire { pool } => {
                self.retiring = Some(Retirement::begin(pool, Plans::epoch(self.edits)));
            }
            Action::GoOnRetiring => {
                let retirement = self.retiring.take()?;
                self.retiring = self.go_on(system, retirement);
            }
            // src/controller/contact/chores.rs, `close_pool`: no topology's epoch.
            Action::CloseGone { pool } => self.queue.close(pool, 0)?,
            Action::Open { pool } => self.open(system, pool),
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
            Action::Failover { call } => self.fail_over(call)?,
            Action::GoOnStale => match self.stale.take()? {
                Stale::Route(persona, call) => {
                    self.queue
                        .route(persona, call.target, call.epoch, system.bug);
                }
                Stale::Retire(retirement) => {
                    self.stale = self.go_on(system, retirement).map(Stale::Retire);
                }
            },
        }
        Some(())
    }

    /// src/controller/pool/apply.rs, `open`: one that may be let in at once is written to before, and not
    /// opened if it was closed in between.
    fn open(&mut self, system: &System, pool: usize) {
        let may_enter = self.pools[pool].is_some_and(|pool| pool.shown);
        let leaves_none = [Bug::OpensWithoutAMark, Bug::CloseForgetsTheLayout];
        if may_enter && !leaves_none.iter().any(|bug| system.is(*bug)) {
            self.written(pool, Write::Status);
        }
        self.queue.open(pool);
    }

    fn show_ready(&mut self, pool: usize) -> Option<()> {
        let works = matches!(self.workers[pool], Process::Up { .. }) && self.queue.may_take(pool);
        let object = self.pools[pool].as_mut().filter(|_| works)?;
        object.ready = true;
        object.shown = true;
        self.written(pool, Write::Status);
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
        if let Some(pool) = self.pools[worker].as_mut().filter(|pool| pool.ready) {
            pool.ready = false;
            self.written(worker, Write::Status);
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

    /// Another controller leads, and knows nothing; something of the one before is still under way.
    fn fail_over(&mut self, call: Option<usize>) -> Option<()> {
        self.left.failovers = self.left.failovers.checked_sub(1)?;
        self.stale = Some(match call {
            Some(persona) => Stale::Route(persona, self.personas[persona].call?),
            None => Stale::Retire(self.retiring?),
        });
        for persona in &mut self.personas {
            persona.call = None;
            persona.known = None;
        }
        self.retiring = None;
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
