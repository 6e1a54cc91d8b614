//! What was asked and answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

/// What the model and the clients saw.
#[derive(Default)]
pub struct Seen(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    /// Of each persona, as the model saw them.
    arrived: BTreeMap<String, Vec<usize>>,
    /// When a request was submitted, and how long its answer took.
    answered: Vec<(Instant, Duration)>,
    open: BTreeSet<String>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request and gives its words back.
    pub fn arrived(&self, body: &Value) -> String {
        let messages = body["messages"].as_array();
        let content = messages.and_then(|all| all.last()?["content"].as_str());
        let content = content.unwrap_or_default();
        if let Some((name, number)) = content.split_once(' ')
            && let Ok(number) = number.parse()
        {
            let mut entries = self.lock();
            let arrived = entries.arrived.entry(name.to_owned()).or_default();
            arrived.push(number);
        }
        content.to_owned()
    }

    pub fn answered(&self, sent: Instant) {
        self.lock().answered.push((sent, sent.elapsed()));
    }

    pub fn open(&self, name: &str, is: bool) {
        let open = &mut self.lock().open;
        if is {
            open.insert(name.to_owned());
        } else {
            open.remove(name);
        }
    }

    pub fn is_open(&self, name: &str) -> bool {
        self.lock().open.contains(name)
    }

    pub fn waits_since(&self, begun: Instant) -> Vec<Duration> {
        let entries = self.lock();
        let since = entries.answered.iter().filter(|(sent, _)| *sent >= begun);
        since.map(|(_, wait)| *wait).collect()
    }

    pub fn in_order(&self) -> Result<()> {
        for (name, arrived) in &self.lock().arrived {
            let order = arrived.iter().enumerate().all(|(place, n)| place == *n);
            ensure!(order, "{name}: {arrived:?}");
        }
        Ok(())
    }
}
