//! Each verb, done in the world and in the model; what Redis answers must be what the model says.

use std::time::Duration;

use persona_operator::queue::submit::{CancelAnswer, ClaimAnswer, EnqueueAnswer};
use persona_operator::queue::task::{Chunk, OutcomeKind};
use persona_operator::queue::work::{Fenced, LEASE, ReleaseReason, Taken};

use crate::model::{Hold, MAX_LENGTH, Model, SERVES, SLOTS, STEALS, State, lane};
use crate::support::{PAYLOAD, completed, ids};
use crate::world::{PAUSE, World, pool};

impl World {
    pub async fn put(&mut self, id: usize, late: bool, stream: bool, priority: i32) {
        let before = self.m.queue(id).len();
        let answer = self.submit(id, late, stream, priority).await;
        let p = &mut self.m.personas[id];
        let expected = if !p.registered && p.removed {
            EnqueueAnswer::Gone
        } else if !p.registered {
            EnqueueAnswer::Unknown
        } else if p.suspended {
            EnqueueAnswer::Suspended
        } else if before >= MAX_LENGTH {
            assert!(matches!(answer, EnqueueAnswer::Full { .. }), "{answer:?}");
            answer.clone()
        } else {
            p.arrived += 1;
            let position = before as u64 + 1;
            EnqueueAnswer::Queued { position }
        };
        assert_eq!(answer, expected);
    }

    pub async fn put_again(&self, task: &str, other_payload: bool) {
        let payload = if other_payload { "{}" } else { PAYLOAD };
        let answer = self.submit_again(task, payload).await;
        let expected = if other_payload {
            EnqueueAnswer::Conflict
        } else {
            let state = self.m.state(task);
            EnqueueAnswer::Duplicate { state }
        };
        assert_eq!(answer, expected, "{task}");
    }

    pub async fn take(&mut self, id: usize, slots_free: u32, dying: bool) {
        let mut worker = self.worker(id);
        worker.lease = Self::lease(dying);
        let solo_waits = self.m.solo_waits();
        let leased = u32::try_from(self.m.leased(id).len()).expect("few");
        let w = &mut self.m.workers[id];
        w.known = true;
        let slots = w.slots.unwrap_or(slots_free);
        let draining = w.draining;
        w.maybe_held = solo_waits || (w.maybe_held && (draining || leased > 0));
        let answer = worker.try_take(slots_free).await.expect("an answer");
        assert_eq!(answer.draining, draining);
        let free = slots_free.min(slots.saturating_sub(leased)) as usize;
        let kept_out = draining || free == 0 || (leased > 0 && self.m.runs_solo(id));
        let taken = ids(&answer.tasks);
        if kept_out {
            assert!(taken.is_empty(), "w{id} may take nothing: {taken:?}");
            return;
        }
        let before = self.m.clone();
        for task in &answer.tasks {
            self.given(id, slots, task, worker.lease);
        }
        self.sync_late().await;
        let own = self.taken_from(&before, id, id, free, &answer.tasks);
        let left = free - own;
        // Which of the others has waited longest depends on virtual time, too: together they fill the slots.
        let most = left.saturating_sub(1);
        let (mut stolen, mut available) = (0, 0);
        for number in STEALS[id] {
            stolen += self.taken_from(&before, id, *number, most, &answer.tasks);
            let helped = before.helped(*number, id);
            let of_pool = helped.iter().map(|id| before.available(*id));
            available += of_pool.sum::<usize>();
        }
        assert!(stolen <= most, "w{id} steals {stolen} of {most}");
        if solo_waits {
            return;
        }
        let there = before.served(id, id);
        let mine: usize = there.iter().map(|id| before.available(*id)).sum();
        assert_eq!(own, mine.min(free), "w{id} takes from its pool");
        assert_eq!(stolen, available.min(most), "w{id} helps");
        self.wake(id);
        for number in STEALS[id].iter().filter(|_| most > 0) {
            self.wake(*number);
        }
    }

    /// How many of the tasks are of a pool; those left in good order.
    fn taken_from(
        &self,
        before: &Model,
        id: usize,
        number: usize,
        most: usize,
        tasks: &[Taken],
    ) -> usize {
        let there = if id == number {
            before.served(number, id)
        } else {
            before.helped(number, id)
        };
        let of_pool = tasks.iter().filter(|task| task.pool == pool(number));
        let got = of_pool.count();
        assert!(
            got <= most,
            "w{id} takes {got} of {most} from pool {number}"
        );
        self.first_come(before, &there, &ids(tasks), before.solo_waits());
        got
    }

    /// Each persona's tasks left from the head of its queue, and no persona of lower priority was
    /// served while one of higher priority still has something that could begin.
    fn first_come(&self, before: &Model, there: &[usize], taken: &[&str], solo_waits: bool) {
        let mut served = Vec::new();
        for id in there {
            let queue = before.queue(*id);
            let of_it: Vec<_> = taken
                .iter()
                .filter(|it| queue.iter().any(|q| q == *it))
                .collect();
            let in_time = queue.iter().filter(|task| !before.tasks[*task].late);
            let heads: Vec<_> = in_time.take(of_it.len()).collect();
            assert_eq!(of_it, heads, "order of p{id}");
            if let Some(last) = heads.last() {
                served.push(self.m.personas[*id].priority);
                let ahead = queue.iter().take_while(|task| task != last);
                for task in ahead.filter(|task| before.tasks[*task].late) {
                    assert_ne!(self.m.tasks[task].state, State::Queued, "{task} is late");
                }
            }
        }
        let lowest = served.into_iter().min();
        for id in there.iter().filter(|_| !solo_waits) {
            let passed = lowest.is_some_and(|lowest| lowest < self.m.personas[*id].priority);
            assert!(
                !passed || self.m.available(*id) == 0,
                "p{id} was passed over"
            );
        }
    }

    /// Pauses that are over are so in the pool's order too.
    pub fn wake(&mut self, number: usize) {
        let there = |pool: Option<usize>| pool == Some(number);
        for p in self.m.personas.iter_mut().filter(|p| there(p.pool)) {
            if p.hold == Hold::Over {
                p.hold = Hold::Awake;
            }
        }
    }

    pub async fn claim(&mut self, task: &str, id: usize) {
        let answer = self.q.ns.claim(task, &format!("w{id}")).await;
        let answer = answer.expect("an answer");
        let t = &self.m.tasks[task];
        let (persona, w) = (t.persona, &self.m.workers[id]);
        let leased = self.m.leased(id).len();
        let queue = self.m.queue(persona);
        let slots = w.slots.unwrap_or(0);
        let expected = if t.state != State::Queued || t.late {
            ClaimAnswer::NotQueued
        } else if self.m.available(persona) == 0 || queue.first().is_none_or(|head| head != task) {
            ClaimAnswer::NotNext
        } else if !w.known
            || w.draining
            || !w.listed
            || self.m.personas[persona].pool != Some(id)
            || lane(persona) >= SERVES[id]
            || leased >= slots as usize
            || (leased > 0 && (self.m.is_solo(task) || self.m.runs_solo(id)))
            || (leased > 0 && w.maybe_held && answer == ClaimAnswer::NoSlot)
        {
            ClaimAnswer::NoSlot
        } else {
            let ClaimAnswer::Claimed(taken) = &answer else {
                panic!("not claimed: {answer:?}");
            };
            self.given(id, slots, &taken.clone(), LEASE);
            return;
        };
        assert_eq!(answer, expected, "claim of {task} for w{id}");
    }

    pub async fn finish(&mut self, task: &str, fence: &str) {
        let answer = self.q.ns.finish(task, fence, &completed()).await;
        let held = self.m.holds(task, fence);
        assert_eq!(answer.expect("an answer"), fenced(held), "{task}");
        if held {
            let persona = self.m.tasks[task].persona;
            if !self.m.orphan(task) {
                self.m.personas[persona].completed += 1;
                self.m.acquit(persona);
            }
            self.m.end(task, OutcomeKind::Completed);
        }
    }

    pub async fn emit(&mut self, task: &str, fence: &str) {
        let answer = self.q.ns.emit(task, fence, &[Chunk::text("x")]).await;
        let held = self.m.holds(task, fence);
        assert_eq!(answer.expect("an answer"), fenced(held), "{task}");
        if held {
            self.m.task(task).emitted = true;
        }
    }

    pub async fn release(&mut self, task: &str, fence: &str, reason: ReleaseReason, hold: Hold) {
        let wait = match hold {
            Hold::Awake => Duration::ZERO,
            Hold::Over => PAUSE,
            Hold::Long => Duration::from_secs(3600),
        };
        let answer = self.q.ns.release(task, fence, reason, wait).await;
        let held = self.m.holds(task, fence);
        assert_eq!(answer.expect("an answer"), fenced(held), "{task}");
        if held {
            self.m.release(task, reason, hold);
            self.after_pause(hold).await;
        }
    }

    pub async fn cancel(&mut self, task: &str) {
        let answer = self.q.ns.cancel(task).await.expect("an answer");
        if matches!(self.m.tasks[task].state, State::Ended(_)) {
            assert_eq!(answer, CancelAnswer::Ended, "{task}");
        } else {
            assert_eq!(answer, CancelAnswer::Cancelled, "{task}");
            self.m.end(task, OutcomeKind::Cancelled);
        }
    }

    /// Renews all that the worker was ever given: what is lost is what the model says.
    pub async fn renew(&mut self, id: usize) {
        let worker = self.worker(id);
        let of_it = self.fences.iter().filter(|(worker, ..)| *worker == id);
        let leases: Vec<_> = of_it
            .map(|(_, task, fence)| (task.clone(), fence.clone()))
            .collect();
        let renewed = self.q.ns.renew(&worker.heartbeat(1, &leases)).await;
        let renewed = renewed.expect("renewed");
        let w = &mut self.m.workers[id];
        (w.known, w.listed, w.slots) = (true, true, Some(SLOTS[id]));
        assert_eq!(renewed.draining, w.draining);
        let mut lost = Vec::new();
        for (task, fence) in &leases {
            if self.m.holds(task, fence) {
                if let State::Running(run) = &mut self.m.task(task).state {
                    run.over = false;
                }
            } else {
                lost.push(fence.clone());
            }
        }
        assert_eq!(renewed.lost, lost);
    }
}

fn fenced(held: bool) -> Fenced {
    if held { Fenced::Accepted } else { Fenced::Lost }
}
