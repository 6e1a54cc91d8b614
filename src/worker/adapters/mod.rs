//! What the model server beside the worker holds: LoRA adapters, and Ollama's models.
//!
//! - vLLM loads and unloads them while it runs: `table` says which one goes, and never one in use
//! - llama.cpp has those that it was started with, and mixes them by a scale each, a request at a time
//! - Ollama swaps models by itself, and is asked which it has when one begins to answer
//! - a server elsewhere, at an endpoint of the persona's, serves an adapter under its name
//!
//! What a server holds is reported with the heartbeat. `presence` says whether it answers at all.

mod presence;
mod selection;
mod server;
mod table;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use self::selection::scales;
use self::server::Server;
use self::table::{Step, Table};
use super::BACKOFF;
use super::metrics::AdapterMetrics;
use crate::api::runtime::{PersonaConfig, adapter_item, model_item, served_name};
use crate::api::{Adapter, ModelServerKind};
use crate::lock::lock;
use crate::provider::{ProviderError, Selection};
use crate::queue::listen::pause;

/// Least time between two questions to Ollama.
const BREATH: Duration = Duration::from_millis(100);

/// What the server beside the worker holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `adapter/<name>` each, in order; of llama.cpp, which knows no names, `adapter/<path>`; of Ollama
    /// `model/<name>`.
    pub loaded: Vec<String>,
    /// Those that could not be loaded: `adapter/<name>`, and the server's words.
    pub failures: Vec<(String, String)>,
}

/// The adapters of one worker.
pub struct Adapters {
    /// None where no server is beside the worker.
    server: Option<Server>,
    table: Mutex<Table>,
    /// llama.cpp's adapters, once it was asked: id and path.
    fixed: Mutex<Option<Arc<[server::Fixed]>>>,
    changed: Notify,
    /// Ollama has begun to answer.
    used: Notify,
    report: watch::Sender<Report>,
    /// Whether it answers: false until it was asked for the first time.
    answering: watch::Sender<bool>,
    witnesses: Mutex<presence::Witnesses>,
    metrics: AdapterMetrics,
}

/// A request runs with an adapter, which stays loaded until this is dropped.
pub struct InUse {
    adapters: Arc<Adapters>,
    name: String,
}

/// A request asks for an adapter until this is dropped.
struct Waiting<'a> {
    adapters: &'a Adapters,
    name: &'a str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.adapters.table().has_waited(self.name);
        self.adapters.changed.notify_waiters();
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.adapters.table().release(&self.name);
        self.adapters.changed.notify_waiters();
    }
}

impl Adapters {
    /// `endpoint` is the base URL of the server beside the worker, which holds `limit` adapters at most.
    pub fn new(
        kind: Option<ModelServerKind>,
        endpoint: Option<&str>,
        limit: u32,
        metrics: AdapterMetrics,
    ) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let server = kind
            .zip(endpoint)
            .and_then(|(kind, url)| Server::new(kind, url));
        Self {
            answering: watch::Sender::new(server.is_none()),
            witnesses: Mutex::default(),
            server,
            table: Mutex::new(Table::new(limit)),
            fixed: Mutex::default(),
            changed: Notify::new(),
            used: Notify::new(),
            report: watch::Sender::default(),
            metrics,
        }
    }

    /// What the server holds.
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// What tasks are better taken with here than by other workers: none where all servers of the pool
    /// hold the same.
    pub fn preferred(&self) -> Vec<String> {
        let kind = self.server.as_ref().map(Server::kind);
        if kind.is_some_and(|kind| kind != ModelServerKind::LlamaCpp) {
            self.report.borrow().loaded.clone()
        } else {
            Vec::new()
        }
    }

    /// Files of the adapters that the server was started with: no task of another one is for this worker.
    pub fn files(&self) -> Vec<String> {
        let fixed = lock(&self.fixed).clone();
        let fixed = fixed.iter().flat_map(|fixed| fixed.iter());
        fixed.map(|fixed| fixed.path.clone()).collect()
    }

    /// Asks the server what it holds, until it says so.
    async fn begin(&self) {
        let Some(server) = &self.server else { return };
        let mut failures = 0;
        loop {
            let asked = match server.kind() {
                ModelServerKind::LlamaCpp => self.fixed(server).await.map(drop),
                ModelServerKind::Vllm => self.find(server).await,
                ModelServerKind::Ollama => self.find_models(server).await,
            };
            match asked {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "asking the model server for its adapters"),
            }
            failures += 1;
            sleep(pause(BACKOFF, failures)).await;
        }
    }

    /// Makes the persona's adapter ready, and says how a request asks for it; it stays loaded as long as
    /// the guard.
    ///
    /// # Errors
    /// The server does not load it.
    pub async fn select(
        self: &Arc<Self>,
        config: &PersonaConfig,
    ) -> Result<(Selection, Option<InUse>), ProviderError> {
        match (self.asked(config), &config.adapter) {
            (Some(server), adapter) if server.kind() == ModelServerKind::LlamaCpp => {
                let fixed = self.fixed(server).await?;
                Ok((scales(&fixed, adapter.as_ref())?, None))
            }
            (Some(_), Some(adapter)) => {
                let guard = self.load(adapter).await?;
                Ok((Selection::Model(guard.name.clone()), Some(guard)))
            }
            (None, Some(adapter)) => Ok((Selection::Model(adapter.name.clone()), None)),
            (_, None) => Ok((Selection::Base, None)),
        }
    }

    /// A call ended with this error: the server may have lost what it held. True when it only lacks the
    /// persona's adapter, which is loaded again for another try.
    pub fn hear(&self, config: &PersonaConfig, error: &ProviderError) -> bool {
        if self.asked(config).map(Server::kind) != Some(ModelServerKind::Vllm) {
            return false;
        }
        let lacks = match (error, &config.adapter) {
            (ProviderError::Unreachable(_) | ProviderError::Broken(_), _) => {
                self.table().lost(None);
                false
            }
            (ProviderError::NotFound { .. }, Some(adapter)) => {
                self.table().lost(Some(&served_name(adapter)));
                true
            }
            _ => return false,
        };
        self.tell();
        lacks
    }

    /// Asks the server what it holds, tells that it knows, then rings for each change of that. Never ends.
    pub async fn run(&self, begun: impl FnOnce(), ring: impl Fn()) {
        let mut report = self.report.subscribe();
        let holding = async {
            self.begin().await;
            begun();
            ring();
            let ringing = async {
                // The sender lives as long as this does.
                while report.changed().await.is_ok() {
                    ring();
                }
            };
            futures::join!(ringing, self.follow_models());
        };
        futures::join!(holding, self.follow_presence());
    }

    /// A model has begun to answer, and so is loaded.
    pub fn answers(&self, config: &PersonaConfig) {
        if self.asked(config).is_some() {
            self.used.notify_one();
        }
    }

    /// The server beside the worker, if it is the one that answers the persona.
    fn asked(&self, config: &PersonaConfig) -> Option<&Server> {
        let server = self.server.as_ref();
        server.filter(|server| config.endpoint.as_deref() == Some(server.url()))
    }

    /// Asks Ollama again when it begins to answer, not more often than it has to.
    async fn follow_models(&self) {
        let ollama = self.server.as_ref();
        let ollama = ollama.filter(|server| server.kind() == ModelServerKind::Ollama);
        let Some(server) = ollama else { return };
        loop {
            self.used.notified().await;
            if let Err(error) = self.find_models(server).await {
                tracing::debug!(%error, "asking Ollama for its models");
            }
            sleep(BREATH).await;
        }
    }

    async fn find_models(&self, server: &Server) -> Result<(), ProviderError> {
        let models = server.models().await?;
        let mut loaded: Vec<_> = models.iter().map(|model| model_item(model)).collect();
        loaded.sort_unstable();
        self.publish(Report {
            loaded,
            failures: Vec::new(),
        });
        Ok(())
    }

    async fn load(self: &Arc<Self>, adapter: &Adapter) -> Result<InUse, ProviderError> {
        let name = served_name(adapter);
        self.table().wait(&name);
        let _waiting = Waiting {
            adapters: self,
            name: &name,
        };
        loop {
            // What changes from here on is heard.
            let changed = self.changed.notified();
            let step = self.table().request(Instant::now(), &name);
            match step {
                Step::Run => {
                    return Ok(InUse {
                        adapters: self.clone(),
                        name: name.clone(),
                    });
                }
                Step::Refuse(message) => {
                    return Err(ProviderError::Adapter {
                        name: adapter.name.clone(),
                        message,
                    });
                }
                // Not in this task, which may be stopped in the middle.
                Step::Load { evict } => {
                    tokio::spawn(self.clone().exchange(adapter.clone(), name.clone(), evict));
                }
                Step::Wait => {}
            }
            changed.await;
        }
    }

    /// Takes one out and loads another.
    async fn exchange(self: Arc<Self>, adapter: Adapter, name: String, evict: Option<String>) {
        let Some(server) = &self.server else { return };
        let began = Instant::now();
        let mut still = evict;
        let exchange = async {
            if let Some(evicted) = &still {
                server.unload(evicted).await?;
                still = None;
            }
            server.load(&name, &adapter.source).await
        };
        match exchange.await {
            Ok(()) => {
                tracing::info!(adapter = name, took = ?began.elapsed(), "loaded");
                self.metrics.load(true);
                self.table().loaded(&name);
            }
            Err(words) => {
                tracing::warn!(adapter = name, error = words, "cannot be loaded");
                self.metrics.load(false);
                self.table()
                    .failed(Instant::now(), &name, words, still.as_deref());
            }
        }
        self.tell();
    }

    /// What vLLM holds from before this process.
    async fn find(&self, server: &Server) -> Result<(), ProviderError> {
        for name in server.loaded().await? {
            self.table().found(&name);
        }
        self.tell();
        Ok(())
    }

    /// llama.cpp's adapters. They are its arguments, and so the same as long as the pod is there.
    async fn fixed(&self, server: &Server) -> Result<Arc<[server::Fixed]>, ProviderError> {
        let known = lock(&self.fixed).clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let found: Arc<[server::Fixed]> = server.fixed().await?.into();
        for adapter in &*found {
            self.table().found(&adapter.path);
        }
        *lock(&self.fixed) = Some(found.clone());
        self.tell();
        Ok(found)
    }

    /// Tells those who wait, and the heartbeat.
    fn tell(&self) {
        let report = {
            let table = self.table();
            let failures = table.failures();
            Report {
                loaded: table.names().map(adapter_item).collect(),
                failures: failures
                    .map(|(name, words)| (adapter_item(name), words.to_owned()))
                    .collect(),
            }
        };
        self.metrics.loaded(report.loaded.len());
        self.publish(report);
        self.changed.notify_waiters();
    }

    fn publish(&self, report: Report) {
        self.report.send_if_modified(|known| {
            let differs = *known != report;
            *known = report;
            differs
        });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}
