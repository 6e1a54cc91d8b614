//! The personas' configurations, read once a generation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::api::{Provider, runtime::PersonaConfig};
use crate::lock::lock;
use crate::queue::work::Taken;
use crate::queue::{NamespaceQueue, QueueError};

/// Configurations that are kept. One holds instructions, which may be long.
const KEPT: usize = 256;

/// What names one configuration of a persona.
type Version = (u64, i64);

/// The configuration for a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// This one.
    Config(Arc<PersonaConfig>),
    /// There is another one since the task was taken. It may need another credential or model than this
    /// worker has, and its persona may be in another pool: who takes the task next knows that.
    Changed,
    /// Its persona is gone.
    Gone,
}

/// Configurations by persona.
#[derive(Default)]
pub struct Configs {
    known: Mutex<HashMap<String, (Version, Arc<PersonaConfig>)>>,
    /// The model server beside this worker.
    model_endpoint: Option<String>,
}

impl Configs {
    /// `model_endpoint` serves local models that have no endpoint of their own.
    pub fn new(model_endpoint: Option<String>) -> Self {
        Self {
            model_endpoint,
            ..Self::default()
        }
    }

    /// The configuration for a task.
    ///
    /// # Errors
    /// When Redis gives no answer, or one that is not understood ([`QueueError::Protocol`]).
    pub async fn of(&self, taken: &Taken, queue: &NamespaceQueue) -> Result<Found, QueueError> {
        let version = (taken.since_ms, taken.generation);
        if let Some(config) = self.known(&taken.persona, version) {
            return Ok(Found::Config(config));
        }
        let Some(mut config) = queue.config(&taken.persona).await? else {
            return Ok(Found::Gone);
        };
        if config.generation != taken.generation {
            return Ok(Found::Changed);
        }
        let local = matches!(
            config.provider,
            Provider::Ollama | Provider::OpenAICompatible
        );
        if local && config.endpoint.is_none() {
            config.endpoint.clone_from(&self.model_endpoint);
        }
        let config = Arc::new(config);
        self.keep(&taken.persona, version, config.clone());
        Ok(Found::Config(config))
    }

    fn known(&self, persona: &str, version: Version) -> Option<Arc<PersonaConfig>> {
        let known = lock(&self.known);
        let (its, config) = known.get(persona)?;
        (*its == version).then(|| config.clone())
    }

    fn keep(&self, persona: &str, version: Version, config: Arc<PersonaConfig>) {
        let mut known = lock(&self.known);
        if known.len() >= KEPT && !known.contains_key(persona) {
            // Any one: with more personas than fit, the next use of each is equally far.
            let victim = known.keys().next().cloned();
            if let Some(victim) = victim {
                known.remove(&victim);
            }
        }
        known.insert(persona.to_owned(), (version, config));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::request::tests::config;

    #[test]
    fn a_configuration_is_kept_for_its_version_only() {
        let configs = Configs::default();
        configs.keep("helper", (7, 1), Arc::new(config()));
        assert!(configs.known("helper", (7, 1)).is_some());
        for other in [(7, 2), (8, 1)] {
            assert_eq!(configs.known("helper", other), None);
        }
    }

    #[test]
    fn no_more_configurations_are_kept_than_allowed() {
        let configs = Configs::default();
        let config = Arc::new(config());
        for number in 0..3 * KEPT {
            configs.keep(&number.to_string(), (1, 1), config.clone());
        }
        let last = (3 * KEPT - 1).to_string();
        assert!(configs.known(&last, (1, 1)).is_some());
        assert_eq!(configs.known.lock().expect("no panic").len(), KEPT);
    }
}
