//! Personas as the benches publish them.

use anyhow::{Result, ensure};
use persona_operator::api::runtime::PersonaConfig;
use persona_operator::api::{Generation, Provider, QueueLimits};
use persona_operator::queue::NamespaceQueue;
use persona_operator::queue::routing::{Route, RouteAnswer, Target};

/// Routes a persona of a model at `endpoint` into a pool; `needs` is what it is served best with.
pub async fn route(
    ns: &NamespaceQueue,
    persona: &str,
    pool: &str,
    endpoint: Option<String>,
    needs: &str,
) -> Result<()> {
    let config = PersonaConfig {
        generation: 1,
        provider: Provider::OpenAICompatible,
        model: "m".into(),
        endpoint,
        api_key: None,
        adapter: None,
        instructions: String::new(),
        generation_settings: Generation::default(),
        timeout_ms: 60_000,
        max_attempts: 3,
    };
    let limits = QueueLimits {
        max_concurrency: 64,
        max_length: 100_000,
        priority: 0,
        weight: 1,
    };
    let answer = ns
        .route(&Route {
            persona,
            uid: persona,
            target: Target::Pool(pool),
            lane: "-",
            epoch: 1,
            config: &config,
            limits: &limits,
            suspended: false,
            needs,
        })
        .await?;
    ensure!(matches!(answer, RouteAnswer::Routed { .. }), "{answer:?}");
    Ok(())
}
