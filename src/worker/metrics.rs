//! What the worker counts (metrics.md).

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::watch;

use super::Options;
use super::recycle::Reason;
use crate::api::Phase;
use crate::provider::Usage;
use crate::queue::task::{Duties, OutcomeKind};

/// From a free slot to a long queue, and from a cached answer to a long one, in seconds.
const BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The phase of a pool that its owner made.
const OWN: &str = "Own";

/// Of the adapters on the server beside the worker.
#[derive(Clone, Debug)]
pub struct AdapterMetrics {
    loaded: IntGauge,
    loads: IntCounterVec,
}

impl AdapterMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// Registered before.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let loaded = IntGauge::new(
            "persona_adapters_loaded",
            "LoRA adapters that the model server beside the worker holds",
        )?;
        let loads = IntCounterVec::new(
            Opts::new(
                "persona_adapter_loads_total",
                "Loads of LoRA adapters, by result: loaded or failed",
            ),
            &["result"],
        )?;
        registry.register(Box::new(loaded.clone()))?;
        registry.register(Box::new(loads.clone()))?;
        Ok(Self { loaded, loads })
    }

    /// So many are there now.
    pub fn loaded(&self, count: usize) {
        self.loaded.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A load has ended.
    pub fn load(&self, is_loaded: bool) {
        let result = if is_loaded { "loaded" } else { "failed" };
        self.loads.with_label_values(&[result]).inc();
    }
}

/// The worker's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    namespace: String,
    duties: watch::Receiver<Duties>,
    device: String,
    wait: HistogramVec,
    duration: HistogramVec,
    first_token: HistogramVec,
    tasks: IntCounterVec,
    attempts: IntCounterVec,
    tokens: IntCounterVec,
    memory: IntGauge,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// Registered before.
    pub fn register(
        registry: &Registry,
        options: &Options,
        duties: watch::Receiver<Duties>,
    ) -> prometheus::Result<Self> {
        let histogram = |name, help| {
            let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let histogram = HistogramVec::new(opts, &["namespace", "phase", "device"])?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        let counter = |name, help, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let memory = IntGauge::new(
            "persona_worker_memory_bytes",
            "Resident memory of the worker",
        )?;
        registry.register(Box::new(memory.clone()))?;
        let recycles = counter(
            "persona_worker_recycles_total",
            "Times the worker has started afresh in its container, by reason",
            &["reason"],
        )?;
        for reason in Reason::ALL {
            let count = recycles.with_label_values(&[reason.as_str()]);
            count.inc_by(options.recycles.of(reason));
        }
        Ok(Self {
            namespace: options.namespace.clone(),
            duties,
            device: options.device.clone(),
            wait: histogram(
                "persona_task_wait_seconds",
                "Time from a task's arrival in the queue until a worker takes it",
            )?,
            duration: histogram(
                "persona_task_duration_seconds",
                "Time from the take of a task to its outcome, completed or failed",
            )?,
            first_token: histogram(
                "persona_first_token_seconds",
                "Time from the take of a task to the first piece of its answer",
            )?,
            tasks: counter(
                "persona_tasks_total",
                "Tasks that this worker has ended, by outcome",
                &["namespace", "phase", "outcome"],
            )?,
            attempts: counter(
                "persona_attempts_total",
                "Calls of providers, by result: completed, stopped, or the reason of the failure",
                &["provider", "result"],
            )?,
            tokens: counter(
                "persona_tokens_total",
                "Tokens as providers count them: input or output",
                &["namespace", "provider", "kind"],
            )?,
            memory,
        })
    }

    /// A task was taken that had waited.
    pub fn waited(&self, time: Duration) {
        self.observe(&self.wait, time);
    }

    /// The first piece of an answer came.
    pub fn first_token(&self, time: Duration) {
        self.observe(&self.first_token, time);
    }

    /// A task has its outcome from this worker.
    pub fn ended(&self, outcome: OutcomeKind, time: Duration) {
        self.observe(&self.duration, time);
        self.tasks
            .with_label_values(&[self.namespace.as_str(), self.phase(), outcome.as_str()])
            .inc();
    }

    /// A provider was called.
    pub fn attempt(&self, provider: &'static str, result: &'static str) {
        self.attempts.with_label_values(&[provider, result]).inc();
    }

    /// A provider has counted tokens.
    pub fn tokens(&self, provider: &str, usage: Usage) {
        for (kind, count) in [
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
        ] {
            self.tokens
                .with_label_values(&[self.namespace.as_str(), provider, kind])
                .inc_by(count);
        }
    }

    /// Resident memory.
    pub fn memory(&self, bytes: u64) {
        self.memory.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn observe(&self, histogram: &HistogramVec, time: Duration) {
        histogram
            .with_label_values(&[self.namespace.as_str(), self.phase(), &self.device])
            .observe(time.as_secs_f64());
    }

    /// A label of fixed words, whatever the queue says.
    fn phase(&self) -> &'static str {
        let said = &self.duties.borrow().phase;
        let known = Phase::ALL.iter().map(|phase| phase.as_str());
        known.into_iter().find(|phase| phase == said).unwrap_or(OWN)
    }
}
