//! The tasks that run at present: who holds a slot, and how to stop it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::lock::lock;
use crate::queue::work::Taken;

/// Why a task is to stop before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is not this worker's any more; nothing it says is wanted.
    Lost,
    /// The worker goes: the task is handed back.
    Shutdown,
}

struct Task {
    id: String,
    stop: watch::Sender<Option<Stop>>,
}

#[derive(Default)]
struct Running {
    /// By fence.
    tasks: HashMap<String, Task>,
    /// All are to stop, also those that still come.
    all: Option<Stop>,
}

/// All running tasks: a task that was lost and taken again is another entry.
pub struct Roster {
    slots: u32,
    running: Mutex<Running>,
    count: watch::Sender<Count>,
}

/// Tasks in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tasks that run.
    pub running: u32,
    /// Those of them that run alone.
    pub solo: u32,
    /// Tasks that have ended, in whatever way.
    pub ended: u64,
}

impl Roster {
    /// Room for `slots` tasks.
    pub fn new(slots: u32) -> Self {
        Self {
            slots,
            running: Mutex::default(),
            count: watch::Sender::default(),
        }
    }

    /// Gives a task a slot, until the ticket is dropped.
    pub fn admit(self: &Arc<Self>, taken: &Taken) -> Ticket {
        let mut running = self.lock();
        let (stop, told) = watch::channel(running.all);
        let id = taken.task.clone();
        running.tasks.insert(taken.fence.clone(), Task { id, stop });
        drop(running);
        self.count.send_modify(|count| {
            count.running += 1;
            count.solo += u32::from(taken.solo);
        });
        Ticket {
            roster: self.clone(),
            fence: taken.fence.clone(),
            solo: taken.solo,
            told,
        }
    }

    /// Slots that may be filled; none beside a task that runs alone.
    pub fn free(&self) -> u32 {
        match self.count() {
            Count {
                solo: 0, running, ..
            } => self.slots.saturating_sub(running),
            _ => 0,
        }
    }

    /// The numbers at present.
    pub fn count(&self) -> Count {
        *self.count.borrow()
    }

    /// Tells when a task begins or ends.
    pub fn watch(&self) -> watch::Receiver<Count> {
        self.count.subscribe()
    }

    /// Task and fence of each running task.
    pub fn leases(&self) -> Vec<(String, String)> {
        let running = self.lock();
        let tasks = running.tasks.iter();
        tasks
            .map(|(fence, task)| (task.id.clone(), fence.clone()))
            .collect()
    }

    /// Stops the task with this fence, if it still runs.
    pub fn stop(&self, fence: &str, why: Stop) {
        if let Some(task) = self.lock().tasks.get(fence) {
            task.stop.send_replace(Some(why));
        }
    }

    /// Stops all, and what may still come.
    pub fn stop_all(&self, why: Stop) {
        let mut running = self.lock();
        running.all = Some(why);
        for task in running.tasks.values() {
            task.stop.send_replace(Some(why));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        lock(&self.running)
    }
}

/// A task's slot; dropping it frees the slot.
pub struct Ticket {
    roster: Arc<Roster>,
    fence: String,
    solo: bool,
    told: watch::Receiver<Option<Stop>>,
}

impl Ticket {
    /// Waits until the task is to stop.
    pub async fn stopped(&mut self) -> Stop {
        match self.told.wait_for(Option::is_some).await {
            Ok(why) => why.unwrap_or(Stop::Lost),
            // The sender is dropped by this ticket's own drop only.
            Err(_) => Stop::Lost,
        }
    }

    /// Waits until the task is not this worker's any more.
    pub async fn lost(&mut self) {
        if self
            .told
            .wait_for(|why| *why == Some(Stop::Lost))
            .await
            .is_err()
        {
            tracing::debug!(fence = self.fence, "a task without a slot");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.roster.lock().tasks.remove(&self.fence);
        self.roster.count.send_modify(|count| {
            count.running -= 1;
            count.solo -= u32::from(self.solo);
            count.ended += 1;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    pub fn taken(task: &str, fence: &str) -> Taken {
        Taken {
            task: task.into(),
            persona: "helper".into(),
            fence: fence.into(),
            payload: String::new(),
            generation: 1,
            since_ms: 1,
            attempt: 1,
            deadline_in: Duration::from_secs(60),
            waited: Duration::ZERO,
            stream: false,
            solo: false,
            pool: "pool".into(),
        }
    }

    #[test]
    fn a_slot_is_free_again_when_its_ticket_is_dropped() {
        let roster = Arc::new(Roster::new(2));
        let first = roster.admit(&taken("a", "f1"));
        let _second = roster.admit(&taken("b", "f2"));
        assert_eq!((roster.free(), roster.count().running), (0, 2));
        drop(first);
        assert_eq!((roster.free(), roster.count().ended), (1, 1));
        assert_eq!(roster.leases(), [("b".to_owned(), "f2".to_owned())]);
    }

    #[test]
    fn beside_a_task_that_runs_alone_no_slot_is_free() {
        let roster = Arc::new(Roster::new(4));
        let alone = Taken {
            solo: true,
            ..taken("a", "f1")
        };
        let ticket = roster.admit(&alone);
        assert_eq!(roster.free(), 0);
        drop(ticket);
        assert_eq!(roster.free(), 4);
    }

    #[test]
    fn a_task_that_was_taken_again_is_not_stopped_for_its_old_fence() {
        let roster = Arc::new(Roster::new(2));
        let mut old = roster.admit(&taken("a", "f1"));
        let mut new = roster.admit(&taken("a", "f2"));
        roster.stop("f1", Stop::Lost);
        assert_eq!(old.stopped().now_or_never(), Some(Stop::Lost));
        drop(old);
        assert_eq!(new.stopped().now_or_never(), None);
        roster.stop_all(Stop::Shutdown);
        assert_eq!(new.stopped().now_or_never(), Some(Stop::Shutdown));
        assert_eq!(new.lost().now_or_never(), None);
    }
}
