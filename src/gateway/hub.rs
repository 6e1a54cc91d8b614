//! Who waits for which task: results from the gateway's one subscription go to bounded inboxes.
//!
//! An inbox that runs over (a slow client), and every inbox after the subscription broke, is emptied
//! and told to catch up from the task's output in Redis, page by page. So memory is bounded and nothing
//! is lost.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::lock::lock;
use crate::queue::listen::ResultMessage;
use crate::queue::task::{Chunk, Outcome};

/// Messages an inbox holds. At one message per 20 ms and task this is more than a second.
const CAPACITY: usize = 64;

/// Something about the task that an inbox belongs to.
#[derive(Clone, Debug, PartialEq)]
pub enum Letter {
    /// Chunks, with the id of their entry in the task's output.
    Chunks {
        /// Id of the entry.
        id: String,
        /// The chunks, in order.
        chunks: Vec<Chunk>,
    },
    /// The task ended.
    Ended(Outcome),
    /// Messages may be missing: read the output after the last known id.
    CatchUp,
}

#[derive(Debug, Default)]
struct Inbox {
    state: Mutex<Letters>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Letters {
    waiting: VecDeque<Letter>,
    behind: bool,
}

impl Inbox {
    fn put(&self, letter: Letter) {
        let mut state = lock(&self.state);
        if state.behind {
            // It is in the output that will be read.
            return;
        }
        if letter == Letter::CatchUp || state.waiting.len() >= CAPACITY {
            state.waiting.clear();
            state.behind = true;
        } else {
            state.waiting.push_back(letter);
        }
        drop(state);
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Letter> {
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.behind) {
            return Some(Letter::CatchUp);
        }
        state.waiting.pop_front()
    }
}

/// Namespace and id of a task. The namespace is part of it, so that a worker of one namespace cannot
/// speak for the tasks of another.
type TaskKey = (String, String);

/// All inboxes of the gateway. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    inboxes: Arc<Mutex<HashMap<TaskKey, Vec<Arc<Inbox>>>>>,
}

impl Hub {
    /// Opens an inbox for a task; several may wait for the same one.
    pub fn subscribe(&self, namespace: &str, task: &str) -> Subscription {
        let key = (namespace.to_owned(), task.to_owned());
        let inbox = Arc::new(Inbox::default());
        let mut inboxes = lock(&self.inboxes);
        inboxes.entry(key.clone()).or_default().push(inbox.clone());
        drop(inboxes);
        Subscription {
            hub: self.clone(),
            key,
            inbox,
        }
    }

    /// Hands a message to those who wait for its task.
    pub fn deliver(&self, message: ResultMessage) {
        let (key, letter) = match message {
            ResultMessage::Chunks {
                namespace,
                task,
                id,
                chunks,
            } => ((namespace, task), Letter::Chunks { id, chunks }),
            ResultMessage::Ended {
                namespace,
                task,
                outcome,
            } => ((namespace, task), Letter::Ended(outcome)),
            // Nothing of it has gone to the client yet, and nothing will until it runs again.
            ResultMessage::Restarted { .. } => return,
            ResultMessage::Gap => {
                for inbox in lock(&self.inboxes).values().flatten() {
                    inbox.put(Letter::CatchUp);
                }
                return;
            }
        };
        for inbox in lock(&self.inboxes).get(&key).into_iter().flatten() {
            inbox.put(letter.clone());
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.inboxes).len()
    }
}

/// An open inbox; dropping it closes it.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    key: TaskKey,
    inbox: Arc<Inbox>,
}

impl Subscription {
    /// The next letter. May be dropped at any time.
    pub async fn next(&self) -> Letter {
        loop {
            if let Some(letter) = self.inbox.take() {
                return letter;
            }
            self.inbox.filled.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inboxes = lock(&self.hub.inboxes);
        if let Some(waiting) = inboxes.get_mut(&self.key) {
            waiting.retain(|inbox| !Arc::ptr_eq(inbox, &self.inbox));
            if waiting.is_empty() {
                inboxes.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn chunk(namespace: &str, number: usize) -> ResultMessage {
        ResultMessage::Chunks {
            namespace: namespace.into(),
            task: "t".into(),
            id: format!("{number}-0"),
            chunks: vec![Chunk::text(number.to_string())],
        }
    }

    fn next(subscription: &Subscription) -> Option<Letter> {
        subscription.next().now_or_never()
    }

    #[test]
    fn letters_go_in_order_to_all_who_wait_for_that_task_of_that_namespace() {
        let hub = Hub::default();
        let one = hub.subscribe("a", "t");
        let two = hub.subscribe("a", "t");
        let other = hub.subscribe("b", "t");
        hub.deliver(chunk("a", 1));
        hub.deliver(chunk("a", 2));
        for subscription in [&one, &two] {
            for id in ["1-0", "2-0"] {
                let letter = next(subscription).expect("a letter");
                assert!(matches!(letter, Letter::Chunks { id: got, .. } if got == id));
            }
        }
        assert_eq!(next(&other), None);
    }

    #[test]
    fn a_full_inbox_is_emptied_and_told_to_catch_up() {
        let hub = Hub::default();
        let slow = hub.subscribe("a", "t");
        for number in 0..CAPACITY * 3 {
            hub.deliver(chunk("a", number));
        }
        assert!(lock(&slow.inbox.state).waiting.len() <= CAPACITY);
        assert_eq!(next(&slow), Some(Letter::CatchUp));
        assert_eq!(next(&slow), None);
        hub.deliver(chunk("a", 1));
        assert!(matches!(next(&slow), Some(Letter::Chunks { .. })));
    }

    #[test]
    fn after_a_gap_the_first_letter_is_to_catch_up() {
        let hub = Hub::default();
        let inbox = hub.subscribe("a", "t");
        hub.deliver(chunk("a", 1));
        hub.deliver(ResultMessage::Gap);
        hub.deliver(chunk("a", 2));
        assert_eq!(next(&inbox), Some(Letter::CatchUp));
        assert_eq!(next(&inbox), None);
    }

    #[test]
    fn nothing_stays_behind_when_the_last_one_leaves() {
        let hub = Hub::default();
        let one = hub.subscribe("a", "t");
        let two = hub.subscribe("a", "t");
        drop(one);
        assert_eq!(hub.len(), 1);
        drop(two);
        assert_eq!(hub.len(), 0);
    }
}
