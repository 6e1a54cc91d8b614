//! Model back ends behind one trait, [`ChatProvider`]: a request goes in, a stream of deltas comes
//! out, and exactly one end: the finish reason and the usage, or a [`ProviderError`].
//!
//! - [`openai`] OpenAI's chat completions over SSE: OpenAI, DeepSeek, vLLM, llama.cpp, TGI, …
//! - [`ollama`] Ollama's native `/api/chat`
//! - [`credential`] API keys from mounted files
//! - [`request`] what a persona adds to a client's request; pure
//! - [`reply`] one HTTP exchange as a stream: timeouts, limits, end marks
//! - [`lines`], [`retry_after`] pure parsers
//!
//! Not built on the `genai` crate: its 0.7.2 ends a truncated stream without an error (its OpenAI
//! streamer polls to `None`), rebuilds requests from its own types, so that a client's unknown fields
//! would have to be carried around it, and knows neither a limit of a line nor of silence.

pub mod credential;
mod error;
pub mod lines;
pub mod ollama;
pub mod openai;
pub mod reply;
pub mod request;
pub mod retry_after;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use serde_json::{Map, Value};

use crate::api::{Provider, runtime::PersonaConfig};

pub use credential::{Credential, CredentialError, Credentials};
pub use error::{ProviderError, Retry, Said};

/// One attempt at an answer.
#[derive(Clone, Debug)]
pub struct Call {
    /// The persona that answers.
    pub config: Arc<PersonaConfig>,
    /// The client's chat completion request, unknown fields included.
    pub request: Map<String, Value>,
    /// How the model is asked for the persona's adapter.
    pub selection: Selection,
    /// What authorizes the call, where the persona names a Secret.
    pub credential: Option<Credential>,
    /// How long the attempt may take, connecting included.
    pub timeout: Duration,
}

/// How a request asks for an adapter.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Selection {
    /// It needs none.
    #[default]
    Base,
    /// The adapter is a model of its own, of this name: vLLM and most servers.
    Model(String),
    /// llama.cpp's `lora`: id and scale of each adapter that the server has.
    Scales(Vec<(u32, f64)>),
}

/// A piece of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Text to append to the answer.
    pub content: String,
    /// Text to append to the model's reasoning.
    pub reasoning: String,
    /// Tool call deltas in OpenAI's form: `index`, `id`, `function.name`, `function.arguments`.
    pub tool_calls: Vec<Value>,
}

impl Delta {
    /// Nothing to append.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && self.reasoning.is_empty() && self.tool_calls.is_empty()
    }
}

/// How a complete answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// OpenAI's `finish_reason`: `stop`, `length`, `tool_calls`, …
    pub finish_reason: String,
    /// Tokens as the provider counted them; not all of them do.
    pub usage: Option<Usage>,
}

/// Tokens of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

/// What a [`ReplyStream`] yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// More of the answer; never empty.
    Delta(Delta),
    /// The answer is complete. Nothing follows.
    End(End),
}

/// An answer as it comes in: deltas, then [`Event::End`] or an error, then nothing. Nothing is sent
/// before the first poll; dropping it closes the connection and so stops the provider.
pub type ReplyStream = Pin<Box<dyn Stream<Item = Result<Event, ProviderError>> + Send>>;

/// A model's API.
pub trait ChatProvider: Send + Sync {
    /// Begins an attempt.
    fn chat(&self, call: Call) -> ReplyStream;
}

/// Limits of the exchange with a provider.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for a connection, TLS included.
    pub connect: Duration,
    /// Longest silence once the answer has begun. Before that only the attempt's timeout counts:
    /// loading a model or reading a long prompt takes what it takes.
    pub idle: Duration,
    /// Longest line of a stream, in bytes.
    pub line_bytes: usize,
    /// Longest stream, in bytes.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            line_bytes: 1 << 20,
            body_bytes: 64 << 20,
        }
    }
}

/// All providers of a process; they share connections.
#[derive(Clone, Debug)]
pub struct Providers {
    openai: openai::OpenAi,
    ollama: ollama::Ollama,
}

impl Providers {
    /// Prepares the HTTP client.
    ///
    /// # Errors
    /// [`ProviderError::Setup`] where the system has no CA certificates.
    pub fn new(limits: Limits) -> Result<Self, ProviderError> {
        let http = reply::Http::new(limits)?;
        Ok(Self {
            openai: openai::OpenAi::new(http.clone()),
            ollama: ollama::Ollama::new(http),
        })
    }

    /// The client for an API.
    ///
    /// # Errors
    /// [`ProviderError::Unsupported`] for APIs that have none yet.
    pub fn of(&self, provider: Provider) -> Result<&dyn ChatProvider, ProviderError> {
        match provider {
            Provider::OpenAI | Provider::DeepSeek | Provider::OpenAICompatible => Ok(&self.openai),
            Provider::Ollama => Ok(&self.ollama),
            Provider::Anthropic | Provider::Gemini => {
                Err(ProviderError::Unsupported(provider.as_str()))
            }
        }
    }
}
