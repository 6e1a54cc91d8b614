//! The APIs of model servers for what they hold.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, redirect};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::runtime::model_file;
use crate::api::{Adapter, ModelServerKind};
use crate::provider::{ProviderError, Said};

/// How long a server may take to load an adapter.
const LOADING: Duration = Duration::from_secs(120);
/// How long it may take to say that it is there, as for the kubelet's probe.
const PRESENCE: Duration = Duration::from_secs(2);
/// How long it may take for everything else.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read, bytes.
const LARGEST: usize = 1 << 20;
/// Words of a server that are passed on, characters.
const WORDS: usize = 300;

/// The server beside the worker.
pub struct Server {
    http: Client,
    /// Base URL of its API.
    url: String,
    kind: ModelServerKind,
}

/// An adapter that llama.cpp was started with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Fixed {
    /// By which requests name it.
    pub id: u32,
    /// Its file.
    pub path: String,
}

impl Fixed {
    /// Whether it was made from this adapter's source.
    pub fn is(&self, adapter: &Adapter) -> bool {
        self.path == model_file(&adapter.source)
    }
}

impl Server {
    /// None where there can be no client.
    pub fn new(kind: ModelServerKind, url: &str) -> Option<Self> {
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .inspect_err(
                |error| tracing::error!(%error, "the model server cannot be asked what it holds"),
            )
            .ok()?;
        Some(Self {
            http,
            url: url.to_owned(),
            kind,
        })
    }

    /// As the worker was told.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Which one.
    pub const fn kind(&self) -> ModelServerKind {
        self.kind
    }

    /// Whether it answers and has its model: `GET /health`, of Ollama `GET /api/version`.
    ///
    /// # Errors
    /// Why not.
    pub async fn healthy(&self) -> Result<(), ProviderError> {
        let root = self.root();
        let page = match self.kind {
            ModelServerKind::Ollama => format!("{root}/api/version"),
            ModelServerKind::Vllm | ModelServerKind::LlamaCpp => format!("{root}/health"),
        };
        let answer = self.http.get(page).timeout(PRESENCE).send().await;
        let answer = answer.map_err(|error| ProviderError::Unreachable(error.to_string()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status().as_u16();
        let said = Said::read(&body_of(answer).await?);
        Err(ProviderError::from_status(status, said, None))
    }

    /// Without the path of the API of OpenAI.
    fn root(&self) -> &str {
        let root = self.url.trim_end_matches('/');
        root.trim_end_matches("/v1")
    }

    /// Ollama's models in memory: `GET /api/ps`.
    pub async fn models(&self) -> Result<Vec<String>, ProviderError> {
        #[derive(Deserialize)]
        struct Running {
            models: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            name: String,
        }
        let root = self.url.trim_end_matches('/');
        let running: Running = self.json(self.http.get(format!("{root}/api/ps"))).await?;
        Ok(running.models.into_iter().map(|model| model.name).collect())
    }

    /// llama.cpp's adapters: `GET /lora-adapters`.
    pub async fn fixed(&self) -> Result<Vec<Fixed>, ProviderError> {
        let request = self.http.get(format!("{}/lora-adapters", self.root()));
        self.json(request).await
    }

    /// Names of vLLM's adapters: the models that have a parent.
    pub async fn loaded(&self) -> Result<Vec<String>, ProviderError> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
            parent: Option<String>,
        }
        let models: Models = self.json(self.http.get(self.path("models"))).await?;
        let adapters = models
            .data
            .into_iter()
            .filter(|model| model.parent.is_some());
        Ok(adapters.map(|model| model.id).collect())
    }

    /// Loads an adapter into vLLM.
    ///
    /// # Errors
    /// The server's words.
    pub async fn load(&self, name: &str, source: &str) -> Result<(), String> {
        let body = json!({"lora_name": name, "lora_path": source});
        match self.tell("load_lora_adapter", &body, LOADING).await? {
            (200..=299, _) => Ok(()),
            // From before this process, or the answer to the last try was lost.
            (400, words) if words.contains("already been loaded") => Ok(()),
            (status, words) => Err(format!("HTTP {status}: {words}")),
        }
    }

    /// Takes an adapter out of vLLM.
    ///
    /// # Errors
    /// The server's words.
    pub async fn unload(&self, name: &str) -> Result<(), String> {
        let body = json!({"lora_name": name});
        match self.tell("unload_lora_adapter", &body, PATIENCE).await? {
            // 404: it is not there.
            (200..=299 | 404, _) => Ok(()),
            (status, words) => Err(format!(
                "{name} cannot be unloaded to make room: HTTP {status}: {words}"
            )),
        }
    }

    async fn tell(
        &self,
        verb: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<(u16, String), String> {
        let request = self.http.post(self.path(verb)).json(body).timeout(patience);
        let answer = request.send().await.map_err(|error| format!("{error}"))?;
        let status = answer.status().as_u16();
        let body = body_of(answer).await.map_err(|error| error.to_string())?;
        let words = Said::read(&body).message;
        Ok((status, words.chars().take(WORDS).collect()))
    }

    async fn json<T: for<'a> Deserialize<'a>>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, ProviderError> {
        let answer = request.timeout(PATIENCE).send().await;
        let answer = answer.map_err(|error| ProviderError::Unreachable(error.to_string()))?;
        let status = answer.status().as_u16();
        let body = body_of(answer).await?;
        if !(200..300).contains(&status) {
            return Err(ProviderError::from_status(status, Said::read(&body), None));
        }
        serde_json::from_slice(&body).map_err(|error| ProviderError::Malformed(error.to_string()))
    }

    fn path(&self, verb: &str) -> String {
        format!("{}/{verb}", self.url.trim_end_matches('/'))
    }
}

async fn body_of(mut answer: Response) -> Result<Vec<u8>, ProviderError> {
    let mut body = Vec::new();
    loop {
        let chunk = answer.chunk().await;
        let chunk = chunk.map_err(|error| ProviderError::Broken(error.to_string()))?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len() + chunk.len() > LARGEST {
            return Err(ProviderError::TooLarge {
                what: "a body",
                limit: LARGEST,
            });
        }
        body.extend_from_slice(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_found_by_its_file() {
        let fixed = Fixed {
            id: 0,
            path: "/models/adapters/review.gguf".to_owned(),
        };
        let is = |source: &str| {
            fixed.is(&Adapter {
                name: "review".to_owned(),
                source: source.to_owned(),
            })
        };
        assert!(is("/models/adapters/review.gguf") && is("adapters/review.gguf"));
        assert!(!is("review.gguf") && !is("/adapters/review.gguf") && !is(""));
    }
}
