//! How a pool that nobody needs is taken away, step by step, by the controller that leads or by one that
//! does not know that it was replaced: src/controller/topology/apply.rs, `retire_one`.

use crate::bug::Bug;
use crate::state::{Action, Stale, State};
use crate::system::System;

/// A pool on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retirement {
    pool: usize,
    /// The epoch that it is closed for.
    epoch: u8,
    step: Step,
    object: Since,
}

/// What was done last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The plan asked for it.
    Decided,
    /// The API server was asked for the pool.
    Read,
    /// The queue has closed it.
    Closed,
}

/// What became of the pool's object since it was decided (its generation), or read (its resourceVersion).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Since {
    Same,
    Written,
    /// Another one of the name has another uid.
    Gone,
}

/// What is written of a pool's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Another generation, and another resourceVersion.
    Spec,
    /// Another resourceVersion.
    Status,
}

impl Retirement {
    pub fn begin(pool: usize, epoch: u8) -> Self {
        Self {
            pool,
            epoch,
            step: Step::Decided,
            object: Since::Same,
        }
    }
}

impl State {
    /// The next step; none when it was the last one, or was refused.
    pub fn go_on(&mut self, system: &System, retirement: Retirement) -> Option<Retirement> {
        let Retirement {
            pool,
            epoch,
            step,
            object,
        } = retirement;
        let looks_late = system.is(Bug::DeletesWhatItFinds);
        let is_meant = match object {
            Since::Same => true,
            Since::Written => looks_late,
            Since::Gone => false,
        };
        let next = match step {
            Step::Decided if looks_late || is_meant => Step::Read,
            Step::Decided => return None,
            Step::Read => {
                self.queue.close(pool, epoch)?;
                Step::Closed
            }
            Step::Closed => {
                if is_meant {
                    self.delete(pool);
                }
                return None;
            }
        };
        Some(Retirement {
            step: next,
            ..retirement
        })
    }

    fn delete(&mut self, pool: usize) {
        self.pools[pool] = None;
        for retirement in self.retirements(pool) {
            retirement.object = Since::Gone;
        }
    }

    /// The pool's object was written: it is not what a retirement has seen.
    pub fn written(&mut self, pool: usize, write: Write) {
        for retirement in self.retirements(pool) {
            let counts = write == Write::Spec || retirement.step != Step::Decided;
            if counts && retirement.object == Since::Same {
                retirement.object = Since::Written;
            }
        }
    }

    fn retirements(&mut self, pool: usize) -> impl Iterator<Item = &mut Retirement> {
        let stale = match &mut self.stale {
            Some(Stale::Retire(retirement)) => Some(retirement),
            _ => None,
        };
        let all = self.retiring.iter_mut().chain(stale);
        all.filter(move |retirement| retirement.pool == pool)
    }

    /// Whether it is a step of taking a pool away that the queue refuses, now or next.
    pub fn retires_in_vain(&self, action: Action) -> bool {
        let retirement = match (action, self.retiring, self.stale) {
            (Action::Retire { pool }, ..) => Retirement::begin(pool, 0),
            (Action::GoOnRetiring, Some(retirement), _)
            | (Action::GoOnStale, _, Some(Stale::Retire(retirement))) => retirement,
            _ => return false,
        };
        retirement.step != Step::Closed && !self.queue.is_empty(retirement.pool)
    }
}
