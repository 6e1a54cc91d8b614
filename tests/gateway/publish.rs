//! What the controller does for a persona: registers it in the queue.

use persona_operator::api::runtime::{PLAIN_LANE, PersonaConfig};
use persona_operator::api::{Generation, Provider, QueueLimits};
use persona_operator::queue::routing::{Route, RouteAnswer, Target};
use persona_operator::queue::{NamespaceQueue, Queue, QueueError};

/// The pool of all personas here.
pub const POOL: &str = "pool";

/// A persona as a test wants it.
#[derive(Clone, Debug)]
pub struct Persona {
    pub namespace: String,
    pub name: String,
    pub limits: QueueLimits,
    pub timeout_ms: u64,
    pub attempts: u32,
    pub suspended: bool,
}

impl Persona {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            limits: QueueLimits::default(),
            timeout_ms: 30_000,
            attempts: 3,
            suspended: false,
        }
    }

    /// A persona's uid is its name: each is made once.
    pub fn uid(&self) -> &str {
        &self.name
    }

    fn config(&self) -> PersonaConfig {
        PersonaConfig {
            generation: 1,
            provider: Provider::OpenAICompatible,
            model: "tiny".to_owned(),
            endpoint: None,
            api_key: None,
            adapter: None,
            instructions: String::new(),
            generation_settings: Generation::default(),
            timeout_ms: self.timeout_ms,
            max_attempts: self.attempts,
        }
    }

    async fn publish(&self, queue: &NamespaceQueue) -> Result<(), QueueError> {
        queue.open(POOL).await?;
        let route = Route {
            persona: &self.name,
            uid: self.uid(),
            target: Target::Pool(POOL),
            lane: PLAIN_LANE,
            epoch: 1,
            config: &self.config(),
            limits: &self.limits,
            suspended: self.suspended,
            needs: "",
        };
        let answer = queue.route(&route).await?;
        assert!(matches!(answer, RouteAnswer::Routed { .. }), "{answer:?}");
        Ok(())
    }
}

/// Loads the functions and registers the personas, as the controller does at each new contact.
pub async fn publish(queue: &Queue, personas: &[Persona]) -> Result<(), QueueError> {
    queue.install("cluster").await?;
    for persona in personas {
        let namespace = queue.namespace(&persona.namespace)?;
        persona.publish(&namespace).await?;
    }
    Ok(())
}
