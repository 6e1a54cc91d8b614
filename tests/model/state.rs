//! What there is at a moment, and what can happen next.

use crate::plans::Object;
use crate::queue::{Queue, TASKS};
use crate::retiring::Retirement;

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

pub const IDLE: Process = Process::Up {
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

/// What a controller does though another one leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stale {
    /// A call for a persona is on its way.
    Route(usize, Call),
    Retire(Retirement),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub edits: u8,
    pub pools: [Option<Object>; 2],
    /// A pool that the controller is about to take away.
    pub retiring: Option<Retirement>,
    pub personas: [Persona; 2],
    pub queue: Queue,
    pub workers: [Process; 2],
    /// The worker was told that it may take, and its take is on its way (only with
    /// [`crate::bug::Bug::DrainNotAtomicWithTake`]).
    pub asked: [bool; 2],
    /// What the controller before is still at.
    pub stale: Option<Stale>,
    pub left: Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    // Clients and people.
    Enqueue {
        persona: usize,
    },
    EditTopology,
    // The controller: topology.
    Apply {
        pool: usize,
        spec: u8,
    },
    Retire {
        pool: usize,
    },
    GoOnRetiring,
    // The controller: what is gone.
    CloseGone {
        pool: usize,
    },
    // The controller: pools.
    Open {
        pool: usize,
    },
    Start {
        pool: usize,
    },
    ShowReady {
        pool: usize,
    },
    Drain {
        worker: usize,
    },
    Remove {
        worker: usize,
    },
    Reap {
        worker: usize,
    },
    // The controller: personas.
    Decide {
        persona: usize,
    },
    Deliver {
        persona: usize,
    },
    // Workers.
    Ask {
        worker: usize,
    },
    Take {
        worker: usize,
        persona: usize,
    },
    Finish {
        worker: usize,
        task: usize,
    },
    // Faults.
    Crash {
        worker: usize,
    },
    Hang {
        worker: usize,
    },
    Restart {
        worker: usize,
    },
    /// What is still under way: the call for a persona, or else a pool's retirement.
    Failover {
        call: Option<usize>,
    },
    GoOnStale,
}
