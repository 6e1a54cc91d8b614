//! The server that runs a persona's model in the pods of its pool. Pure.

use super::requirements::default_context;
use crate::api::{Model, ModelCache, ModelServerKind};

/// Port of Ollama.
const OLLAMA_PORT: u16 = 11_434;
/// Port of the servers that speak the API of OpenAI.
const OPENAI_PORT: u16 = 8000;

/// A model server beside a worker.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Server {
    /// Which one.
    pub kind: ModelServerKind,
    /// Image to run instead of the kind's own.
    pub image: Option<String>,
    /// Where model files come from.
    pub cache: Option<ModelCache>,
    /// The model that it holds; none for Ollama, which swaps them.
    pub model: Option<String>,
    /// Tokens of context a request may use, where that is stated.
    pub context_tokens: Option<u32>,
    /// LoRA adapters that it holds at most; none where that is as usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_adapters: Option<u32>,
    /// Largest rank of these; none where the server's own default does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_adapter_rank: Option<u32>,
}

impl Server {
    /// The server that the model needs; none where it is reached elsewhere.
    pub fn of(model: &Model) -> Option<Self> {
        let kind = model.served_by()?;
        let server = model.server.as_ref();
        let swaps = kind == ModelServerKind::Ollama;
        let context = model.requirements.as_ref().and_then(|r| r.context_tokens);
        Some(Self {
            kind,
            image: server.and_then(|server| server.image.clone()),
            cache: server.and_then(|server| server.cache.clone()),
            model: (!swaps).then(|| model.name.clone()),
            context_tokens: context,
            max_adapters: server.and_then(|server| server.max_adapters),
            max_adapter_rank: server.and_then(|server| server.max_adapter_rank),
        })
    }

    /// What tells pools of different servers apart: models of one key share a server.
    pub fn key(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Tokens of context that it has for each request: as many as its memory was estimated for.
    pub fn context(&self) -> u32 {
        let model = self.model.as_deref().unwrap_or_default();
        self.context_tokens
            .unwrap_or_else(|| default_context(model))
    }

    /// Port that it listens on in the pod.
    pub const fn port(&self) -> u16 {
        match self.kind {
            ModelServerKind::Ollama => OLLAMA_PORT,
            ModelServerKind::Vllm | ModelServerKind::LlamaCpp => OPENAI_PORT,
        }
    }

    /// Base URL of its API for a worker beside it.
    pub fn endpoint(&self) -> String {
        let path = match self.kind {
            ModelServerKind::Ollama => "",
            ModelServerKind::Vllm | ModelServerKind::LlamaCpp => "/v1",
        };
        format!("http://127.0.0.1:{}{path}", self.port())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(model: serde_json::Value) -> Option<Server> {
        Server::of(&serde_json::from_value(model).expect("a model"))
    }

    #[test]
    fn models_that_are_reached_elsewhere_need_no_server() {
        let endpoint = "http://ollama:11434";
        assert_eq!(of(json!({"provider": "OpenAI", "name": "m"})), None);
        assert_eq!(
            of(json!({"provider": "Ollama", "name": "m", "endpoint": endpoint})),
            None
        );
        assert_eq!(
            of(json!({"provider": "OpenAICompatible", "name": "m"})),
            None
        );
    }

    #[test]
    fn ollama_holds_several_models_and_the_others_one() {
        let key = |model| of(model).expect("a server").key();
        let ollama = |name| key(json!({"provider": "Ollama", "name": name}));
        assert_eq!(ollama("llama3.2:1b"), ollama("llama3.2:3b"));
        let vllm = |name| {
            key(json!({"provider": "OpenAICompatible", "name": name, "server": {"kind": "vLLM"}}))
        };
        assert_ne!(vllm("a"), vllm("b"));
        let long = json!({"provider": "Ollama", "name": "llama3.2:1b",
            "requirements": {"contextTokens": 32_768}});
        assert_ne!(
            key(long),
            ollama("llama3.2:1b"),
            "one server has one length of context"
        );
    }
}
