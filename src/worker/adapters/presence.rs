//! Whether the server beside the worker answers. While it does not, because it loads its model or has
//! crashed, nothing is taken: each task would fail at once, and soon all that wait.

use std::collections::VecDeque;

use tokio::sync::watch;
use tokio::time::sleep;

use super::Adapters;
use crate::api::runtime::PersonaConfig;
use crate::lock::lock;
use crate::provider::ProviderError;
use crate::queue::listen::pause;
use crate::worker::BACKOFF;

/// Tasks that are remembered to have run when the server crashed.
const WITNESSES: usize = 64;

/// The last tasks that ran when the server crashed. Whose crash it was is not known, so that the first one
/// costs none of them an attempt; who is there again may be the cause.
#[derive(Debug, Default)]
pub struct Witnesses(VecDeque<String>);

impl Witnesses {
    /// Notes the task; true if it was not there before.
    fn note(&mut self, task: &str) -> bool {
        if self.0.iter().any(|known| known == task) {
            return false;
        }
        if self.0.len() >= WITNESSES {
            self.0.pop_front();
        }
        self.0.push_back(task.to_owned());
        true
    }
}

impl Adapters {
    /// Whether tasks may be taken. True where no server is beside the worker.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.answering.subscribe()
    }

    /// Whether the server answers, or what is to be said of it.
    pub fn in_service(&self) -> Result<(), String> {
        match *self.answering.borrow() {
            true => Ok(()),
            false => Err("it does not answer: it loads its model, or has crashed".to_owned()),
        }
    }

    /// The task's call ended with this error. True when the server beside the worker does not answer at all:
    /// then nothing is taken until it does, and the task has lost no attempt.
    pub async fn is_away(&self, config: &PersonaConfig, task: &str, error: &ProviderError) -> bool {
        let Some(server) = self.asked(config) else {
            return false;
        };
        let had_begun = match error {
            ProviderError::Unreachable(_)
            | ProviderError::Adapter { .. }
            | ProviderError::Failed { status: 503, .. } => false,
            ProviderError::Broken(_)
            | ProviderError::Truncated(_)
            | ProviderError::Failed { .. } => true,
            _ => return false,
        };
        let Err(away) = server.healthy().await else {
            return false;
        };
        if self.answering.send_replace(false) {
            tracing::warn!(error = %away, "the model server does not answer; nothing is taken until it does");
            self.table().restarted();
            self.tell();
        }
        !had_begun || lock(&self.witnesses).note(task)
    }

    /// Asks the server whether it answers, as long as it does not. Never ends.
    pub(super) async fn follow_presence(&self) {
        let Some(server) = &self.server else { return };
        let mut answering = self.answering.subscribe();
        // The sender lives as long as this does.
        while answering.wait_for(|answering| !answering).await.is_ok() {
            let mut failures = 0;
            while let Err(error) = server.healthy().await {
                tracing::debug!(%error, "waiting for the model server");
                failures += 1;
                sleep(pause(BACKOFF, failures)).await;
            }
            tracing::info!("the model server answers");
            self.answering.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_spared_once_and_only_so_many_are_remembered() {
        let mut witnesses = Witnesses::default();
        assert!(witnesses.note("a") && !witnesses.note("a"));
        for task in 0..WITNESSES {
            assert!(witnesses.note(&task.to_string()));
        }
        assert_eq!(witnesses.0.len(), WITNESSES);
    }
}
