//! Cancels the tasks of clients that went away.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::refusal;
use crate::queue::NamespaceQueue;

/// Tasks that wait to be cancelled. Past that they are left to run: their outcome is not asked for.
const WAITING: usize = 1024;
/// Cancelled at once.
const AT_ONCE: usize = 32;
/// Tries while the queue is away.
const TRIES: u32 = 4;

/// Takes tasks to cancel; cheap to clone.
#[derive(Clone, Debug)]
pub struct Canceller(mpsc::Sender<(NamespaceQueue, String)>);

impl Canceller {
    /// Starts the loop. It ends when all clones are dropped and their tasks are dealt with.
    pub fn start() -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let tasks = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|next| (next, receiver))
        });
        let run = tasks.for_each_concurrent(AT_ONCE, |(queue, task)| cancel(queue, task));
        (Self(sender), tokio::spawn(run))
    }

    /// Has a task cancelled, soon.
    pub fn cancel(&self, queue: &NamespaceQueue, task: &str) {
        if self.0.try_send((queue.clone(), task.to_owned())).is_err() {
            tracing::warn!(task, "too many tasks to cancel: this one runs to its end");
        }
    }
}

async fn cancel(queue: NamespaceQueue, task: String) {
    for attempt in 1..=TRIES {
        match queue.cancel(&task).await {
            Ok(_) => return,
            Err(error) if refusal::is_passing(&error) && attempt < TRIES => {
                tokio::time::sleep(Duration::from_millis(200) * attempt).await;
            }
            Err(error) => {
                tracing::warn!(task, %error, "the task of a client that left is not cancelled");
                return;
            }
        }
    }
}
