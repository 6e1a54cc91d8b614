//! What the gateway remembers of personas: how long their requests may take, and that they exist.
//!
//! Only a memory for speed and for a loss of Redis' data; a gateway that just started has none.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::address::Address;
use crate::api::runtime::PersonaConfig;
use crate::lock::lock;
use crate::queue::{NamespaceQueue, QueueError};

/// How old a configuration may be. A changed timeout counts for requests after that.
const FRESH: Duration = Duration::from_secs(10);
/// How long a persona that was there is expected back after a loss of data.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Personas remembered; more are asked for at each request.
const CAPACITY: usize = 10_000;
/// A persona nothing is known of: the API's defaults, 3 attempts of 60 s.
const USUAL: Allowance = Allowance {
    attempt: Duration::from_secs(60),
    attempts: 3,
};

/// How long the model may work on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// One attempt.
    pub attempt: Duration,
    /// Attempts.
    pub attempts: u32,
}

impl Allowance {
    fn of(config: &PersonaConfig) -> Self {
        Self {
            attempt: Duration::from_millis(config.timeout_ms),
            attempts: config.max_attempts,
        }
    }

    /// All attempts.
    pub fn total(self) -> Duration {
        self.attempt.saturating_mul(self.attempts)
    }
}

/// The personas seen lately.
#[derive(Debug, Default)]
pub struct Directory {
    entries: Mutex<HashMap<Address, (Instant, Allowance)>>,
}

impl Directory {
    /// How long a request to this persona may take; from memory while that is fresh.
    ///
    /// # Errors
    /// When the queue gives no answer and nothing is remembered.
    pub async fn allowance(
        &self,
        queue: &NamespaceQueue,
        address: &Address,
    ) -> Result<Allowance, QueueError> {
        let remembered = self.lookup(address, Instant::now());
        if let Some((age, allowance)) = remembered
            && age < FRESH
        {
            return Ok(allowance);
        }
        let remembered = remembered.map(|(_, allowance)| allowance);
        match (queue.config(&address.persona).await, remembered) {
            (Ok(Some(config)), _) => {
                let allowance = Allowance::of(&config);
                self.remember(address, allowance, Instant::now());
                Ok(allowance)
            }
            (Ok(None), remembered) => Ok(remembered.unwrap_or(USUAL)),
            (Err(_), Some(allowance)) => Ok(allowance),
            (Err(error), None) => Err(error),
        }
    }

    /// Whether the persona was there a moment ago: if the queue does not know it now, the queue may
    /// have lost its data, and the controller will put it back.
    pub fn knows(&self, address: &Address) -> bool {
        self.lookup(address, Instant::now()).is_some()
    }

    fn lookup(&self, address: &Address, now: Instant) -> Option<(Duration, Allowance)> {
        let entries = lock(&self.entries);
        let (at, allowance) = entries.get(address)?;
        let age = now.saturating_duration_since(*at);
        (age < REMEMBERED).then_some((age, *allowance))
    }

    fn remember(&self, address: &Address, allowance: Allowance, now: Instant) {
        let mut entries = lock(&self.entries);
        if entries.len() >= CAPACITY && !entries.contains_key(address) {
            entries.retain(|_, (at, _)| now.saturating_duration_since(*at) < REMEMBERED);
            if entries.len() >= CAPACITY {
                return;
            }
        }
        entries.insert(address.clone(), (now, allowance));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Address {
        Address {
            namespace: "a".into(),
            persona: format!("p{number}"),
        }
    }

    #[test]
    fn the_memory_ages_and_is_bounded() {
        let directory = Directory::default();
        let start = Instant::now();
        for number in 0..=CAPACITY {
            directory.remember(&address(number), USUAL, start);
        }
        assert_eq!(
            directory.lookup(&address(0), start),
            Some((Duration::ZERO, USUAL))
        );
        assert_eq!(directory.lookup(&address(CAPACITY), start), None);
        let later = start + REMEMBERED;
        assert_eq!(directory.lookup(&address(0), later), None);
        directory.remember(&address(CAPACITY), USUAL, later);
        assert!(directory.lookup(&address(CAPACITY), later).is_some());
        assert_eq!(USUAL.total(), Duration::from_secs(180));
    }
}
