//! The queue as plain data: what each verb must answer and leave behind. It knows all but the virtual
//! time, so which of several personas goes first is Redis' to say; how many tasks go, which ones of
//! each persona, and everything that happens to them is the model's.

use std::collections::{BTreeMap, BTreeSet};

use persona_operator::queue::fleet::Fate;
use persona_operator::queue::submit::TaskState;
use persona_operator::queue::task::OutcomeKind;
use persona_operator::queue::work::ReleaseReason;

pub const POOLS: usize = 3;
pub const PERSONAS: usize = 4;
/// Slots of the workers; each has the pool of its number.
pub const SLOTS: [u32; 3] = [3, 2, 4];
/// Pools that they steal from.
pub const STEALS: [&[usize]; 3] = [&[1], &[], &[0, 1]];
pub const LANES: [&str; 2] = ["-", "key/a"];
/// The second worker serves the first lane only.
pub const SERVES: [usize; 3] = [2, 1, 2];
pub const MAX_LENGTH: usize = 6;
pub const MAX_ATTEMPTS: u32 = 2;
/// Workers lost alone in a row that bring a persona of a shared pool into quarantine.
const QUARANTINE: u32 = 3;

/// Lane of a persona, as a place in [`LANES`].
pub fn lane(persona: usize) -> usize {
    persona / 3
}

/// Whether a persona waits for its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    Awake,
    /// The pause is over, but nobody may have put it back in its pool's order yet.
    Over,
    /// Until after the test.
    Long,
}

#[derive(Clone, Debug)]
pub struct Persona {
    pub registered: bool,
    pub removed: bool,
    pub incarnation: u32,
    pub epoch: u64,
    pub generation: i64,
    pub pool: Option<usize>,
    pub priority: i32,
    pub concurrency: u32,
    pub suspended: bool,
    pub hold: Hold,
    pub arrived: u64,
    pub completed: u64,
    /// Workers that were lost with a task of it alone, since one ended.
    pub lost: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub worker: usize,
    pub fence: String,
    /// A loss now would be a loss alone.
    pub alone: bool,
    /// Nothing may join it.
    pub solo: bool,
    /// Its lease has ended.
    pub over: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Queued,
    Running(Run),
    Ended(OutcomeKind),
}

#[derive(Clone, Debug)]
pub struct Task {
    pub persona: usize,
    pub incarnation: u32,
    pub priority: i32,
    pub order: usize,
    /// Its deadline has passed.
    pub late: bool,
    pub stream: bool,
    pub gateway: usize,
    pub state: State,
    pub attempts: u32,
    pub solo: bool,
    pub emitted: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Worker {
    pub instance: u32,
    /// Redis knows the instance.
    pub known: bool,
    /// Slots in Redis' books.
    pub slots: Option<u32>,
    /// It is capacity of its pool.
    pub listed: bool,
    pub draining: bool,
    /// It may be held for a task that must run alone.
    pub maybe_held: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Pool {
    pub open: bool,
    pub arrived: u64,
    pub completed: u64,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub pools: Vec<Pool>,
    pub personas: Vec<Persona>,
    pub workers: Vec<Worker>,
    pub tasks: BTreeMap<String, Task>,
    pub fences: BTreeSet<String>,
}

impl Model {
    pub fn new() -> Self {
        let persona = Persona {
            registered: false,
            removed: false,
            incarnation: 0,
            epoch: 1,
            generation: 1,
            pool: None,
            priority: 0,
            concurrency: 1,
            suspended: false,
            hold: Hold::Awake,
            arrived: 0,
            completed: 0,
            lost: 0,
        };
        Self {
            pools: vec![Pool::default(); POOLS],
            personas: vec![persona; PERSONAS],
            workers: vec![Worker::default(); SLOTS.len()],
            tasks: BTreeMap::new(),
            fences: BTreeSet::new(),
        }
    }

    /// Waiting tasks of a persona, in their order.
    pub fn queue(&self, persona: usize) -> Vec<String> {
        let mut queue: Vec<_> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.persona == persona && task.state == State::Queued)
            .collect();
        queue.sort_by_key(|(_, task)| (-task.priority, task.order));
        queue.into_iter().map(|(id, _)| id.clone()).collect()
    }

    pub fn running(&self, persona: usize) -> BTreeSet<String> {
        let runs = |task: &Task| task.persona == persona && matches!(task.state, State::Running(_));
        self.ids(runs)
    }

    pub fn leased(&self, worker: usize) -> BTreeSet<String> {
        self.ids(|task| matches!(&task.state, State::Running(run) if run.worker == worker))
    }

    fn ids(&self, which: impl Fn(&Task) -> bool) -> BTreeSet<String> {
        let found = self.tasks.iter().filter(|(_, task)| which(task));
        found.map(|(id, _)| id.clone()).collect()
    }

    /// Its worker may take nothing beside it.
    pub fn runs_solo(&self, worker: usize) -> bool {
        self.tasks.values().any(
            |task| matches!(&task.state, State::Running(run) if run.worker == worker && run.solo),
        )
    }

    pub fn solo_waits(&self) -> bool {
        let waits = |id: &&String| self.tasks[*id].state == State::Queued && self.is_solo(id);
        self.tasks.keys().any(|id| waits(&id))
    }

    /// The task, or all of its persona's, must run alone.
    pub fn is_solo(&self, id: &str) -> bool {
        let task = &self.tasks[id];
        task.solo || self.personas[task.persona].lost >= QUARANTINE
    }

    /// A worker survived a task of the persona, or its configuration is another one.
    pub fn acquit(&mut self, persona: usize) {
        let p = &mut self.personas[persona];
        if std::mem::take(&mut p.lost) >= QUARANTINE {
            p.hold = Hold::Awake;
        }
    }

    fn suspect(&mut self, persona: usize) {
        let pool = self.personas[persona].pool;
        let members = self.personas.iter().filter(|p| p.pool == pool).count();
        let p = &mut self.personas[persona];
        p.lost += 1;
        if p.lost >= QUARANTINE && pool.is_some() && members > 1 {
            p.hold = Hold::Long;
        }
    }

    pub fn may_run(&self, persona: usize) -> bool {
        let p = &self.personas[persona];
        p.registered && p.pool.is_some() && !p.suspended && p.hold != Hold::Long
    }

    fn room(&self, persona: usize) -> usize {
        let most = self.personas[persona].concurrency as usize;
        most.saturating_sub(self.running(persona).len())
    }

    /// Tasks of the persona that could begin now.
    pub fn available(&self, persona: usize) -> usize {
        if !self.may_run(persona) {
            return 0;
        }
        let in_time = |id: &String| !self.tasks[id].late;
        let waiting = self.queue(persona).iter().filter(|id| in_time(id)).count();
        waiting.min(self.room(persona))
    }

    /// Members of a pool in the lanes that a worker serves.
    pub fn served(&self, pool: usize, worker: usize) -> Vec<usize> {
        (0..PERSONAS)
            .filter(|id| self.personas[*id].pool == Some(pool) && lane(*id) < SERVES[worker])
            .collect()
    }

    /// As [`Self::served`], by a worker of another pool: not those that may have taken workers along.
    pub fn helped(&self, pool: usize, worker: usize) -> Vec<usize> {
        let mut members = self.served(pool, worker);
        members.retain(|id| self.personas[*id].lost == 0);
        members
    }

    /// Recomputed: who is to be in the order of a pool and lane, and who may or may not be.
    pub fn ready(&self, pool: usize, in_lane: usize) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let runnable = (0..PERSONAS).filter(|id| {
            self.personas[*id].pool == Some(pool)
                && lane(*id) == in_lane
                && self.may_run(*id)
                && self.room(*id) > 0
                && !self.queue(*id).is_empty()
        });
        runnable.partition(|id| self.personas[*id].hold == Hold::Awake)
    }

    /// The task, if the fence holds it.
    pub fn holds(&self, task: &str, fence: &str) -> bool {
        let task = self.tasks.get(task);
        matches!(task.map(|task| &task.state), Some(State::Running(run)) if run.fence == fence)
    }

    pub fn state(&self, task: &str) -> TaskState {
        match self.tasks[task].state {
            State::Queued => TaskState::Queued,
            State::Running(_) => TaskState::Running,
            State::Ended(_) => TaskState::Ended,
        }
    }

    pub fn task(&mut self, id: &str) -> &mut Task {
        self.tasks.get_mut(id).expect("a known task")
    }

    /// A task's one outcome; a second one is what must never be.
    pub fn end(&mut self, id: &str, outcome: OutcomeKind) {
        let task = self.task(id);
        assert!(!matches!(task.state, State::Ended(_)), "{id} ends twice");
        task.state = State::Ended(outcome);
    }

    /// Its persona was deleted.
    pub fn orphan(&self, id: &str) -> bool {
        let task = &self.tasks[id];
        let persona = &self.personas[task.persona];
        !persona.registered || persona.incarnation != task.incarnation
    }

    pub fn begin(&mut self, id: &str, run: Run) {
        assert!(self.fences.insert(run.fence.clone()), "a fence came twice");
        let task = self.task(id);
        assert_eq!(task.state, State::Queued, "{id} is given out twice");
        assert!(!task.late, "{id} is given out after its deadline");
        task.state = State::Running(run);
        let persona = self.tasks[id].persona;
        let most = self.personas[persona].concurrency as usize;
        let running = self.running(persona).len();
        assert!(running <= most, "{running} of p{persona}, allowed {most}");
    }

    /// An attempt has stopped without an outcome.
    fn resume(&mut self, id: &str, counts: bool) -> Fate {
        let orphan = self.orphan(id);
        let task = self.task(id);
        task.attempts += u32::from(counts);
        let (fate, outcome) = if orphan {
            (Fate::Removed, OutcomeKind::Failed)
        } else if task.stream && task.emitted {
            (Fate::Interrupted, OutcomeKind::Failed)
        } else if counts && task.attempts >= MAX_ATTEMPTS {
            (Fate::Dead, OutcomeKind::Dead)
        } else {
            task.state = State::Queued;
            task.emitted = false;
            return Fate::Requeued;
        };
        self.end(id, outcome);
        fate
    }

    /// Its worker was lost.
    pub fn lose(&mut self, id: &str) -> Fate {
        let task = self.task(id);
        let State::Running(run) = task.state.clone() else {
            panic!("{id} does not run");
        };
        task.solo = true;
        let persona = task.persona;
        if run.alone && !self.orphan(id) {
            self.suspect(persona);
        }
        self.resume(id, run.alone)
    }

    pub fn lose_all(&mut self, worker: usize) -> BTreeMap<String, Fate> {
        let leased = self.leased(worker);
        let lost = leased.into_iter().map(|id| (id.clone(), self.lose(&id)));
        lost.collect()
    }

    pub fn release(&mut self, id: &str, reason: ReleaseReason, hold: Hold) {
        let persona = self.tasks[id].persona;
        if !self.orphan(id) {
            for other in 0..PERSONAS {
                let named = other == persona
                    || (reason == ReleaseReason::RateLimited && self.same_provider(other, persona));
                if named && self.personas[other].registered {
                    let p = &mut self.personas[other];
                    p.hold = p.hold.max(hold);
                }
            }
        }
        self.resume(id, reason == ReleaseReason::Failed);
    }

    /// The first two share a provider; whoever comes again has one of its own.
    fn same_provider(&self, a: usize, b: usize) -> bool {
        let first = |id: usize| id < 2 && self.personas[id].incarnation == 0;
        first(a) && first(b)
    }

    /// What a pool's counters show.
    pub fn counters(&self, pool: usize) -> (u64, u64) {
        let members = self.personas.iter().filter(|p| p.pool == Some(pool));
        members.fold(
            (self.pools[pool].arrived, self.pools[pool].completed),
            |(arrived, completed), p| (arrived + p.arrived, completed + p.completed),
        )
    }

    /// A persona leaves its pool; what it did stays there.
    pub fn leave(&mut self, persona: usize) {
        let p = &mut self.personas[persona];
        if let Some(pool) = p.pool.take() {
            self.pools[pool].arrived += std::mem::take(&mut p.arrived);
            self.pools[pool].completed += std::mem::take(&mut p.completed);
        }
    }
}
