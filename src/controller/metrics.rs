//! What Prometheus reads of the controller.

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::api::Phase;

/// The controller's series. Labels are bounded: namespaces and pools that exist, and fixed words.
pub struct Metrics {
    /// Waiting tasks.
    pub queued: IntGaugeVec,
    /// Tasks being answered.
    pub running: IntGaugeVec,
    /// How long the oldest runnable task waits.
    pub oldest_wait: GaugeVec,
    /// Workers by state.
    pub workers: IntGaugeVec,
    /// Slots of ready workers.
    pub slots: IntGaugeVec,
    /// Workers that are wanted.
    pub desired: IntGaugeVec,
    /// Busy slots over ready slots.
    pub utilization: GaugeVec,
    /// Arrival rate that sizing computes with.
    pub arrival_rate: GaugeVec,
    /// Mean service time that sizing computes with.
    pub service: GaugeVec,
    /// Tasks that the pool's providers answer at once.
    pub provider_limit: IntGaugeVec,
    /// Changes of size.
    pub scales: IntCounterVec,
    /// 1 while the size cannot follow its numbers.
    pub blind: IntGaugeVec,
    /// Personas that count, by namespace and phase.
    pub personas: IntGaugeVec,
    /// 1 for the phase a namespace is in.
    pub phase: IntGaugeVec,
    /// Personas that have still to move.
    pub moving: IntGaugeVec,
    /// Resident memory of workers over personas served.
    pub memory_per_persona: GaugeVec,
    /// 1 while the queue can be used.
    pub queue_up: IntGauge,
    /// 1 while the queue's server puts tasks at risk, by reason.
    pub queue_risk: IntGaugeVec,
    /// Dead letters.
    pub dead: IntGaugeVec,
    /// Tasks that ended without a worker's word: expired, dead, interrupted.
    pub tasks: IntCounterVec,
    /// Duration of reconciliations.
    pub reconcile: HistogramVec,
    /// Reconciliations that failed.
    pub errors: IntCounterVec,
    /// 1 in the process that leads.
    pub leader: IntGauge,
}

/// Kinds of metrics that a pool can follow: label `source`.
pub const SOURCES: [&str; 3] = ["queue", "prometheus", "rabbitmq"];
/// States of a worker in `persona_pool_workers`.
pub const STATES: [&str; 5] = ["starting", "idle", "busy", "draining", "failed"];

const POOL: &[&str] = &["namespace", "pool"];

impl Metrics {
    /// Registers all series.
    ///
    /// # Errors
    /// Two metrics of one name.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let int = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let float = |name: &str, help: &str, labels: &[&str]| {
            let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let count = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let one = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let reconcile = HistogramVec::new(
            HistogramOpts::new(
                "persona_reconcile_seconds",
                "Duration of reconciliations, by kind",
            ),
            &["kind"],
        )?;
        registry.register(Box::new(reconcile.clone()))?;
        Ok(Self {
            queued: int("persona_pool_queued_tasks", "Waiting tasks", POOL)?,
            running: int("persona_pool_running_tasks", "Tasks being answered", POOL)?,
            oldest_wait: float(
                "persona_pool_oldest_wait_seconds",
                "How long the oldest task that could run waits",
                POOL,
            )?,
            workers: int(
                "persona_pool_workers",
                "Workers, by state",
                &["namespace", "pool", "state"],
            )?,
            slots: int("persona_pool_slots", "Slots of ready workers", POOL)?,
            desired: int(
                "persona_pool_desired_replicas",
                "Workers that are wanted",
                POOL,
            )?,
            utilization: float(
                "persona_pool_utilization_ratio",
                "Busy slots over slots of ready workers",
                POOL,
            )?,
            arrival_rate: float(
                "persona_pool_arrival_rate",
                "Tasks a second that come, as sizing computes with",
                POOL,
            )?,
            service: float(
                "persona_pool_service_seconds",
                "Mean service time, as sizing computes with",
                POOL,
            )?,
            provider_limit: int(
                "persona_pool_provider_limit",
                "Tasks that the providers of a pool's personas answer at once",
                POOL,
            )?,
            scales: count(
                "persona_scale_total",
                "Changes of size, by direction and reason",
                &["namespace", "pool", "direction", "reason"],
            )?,
            blind: int(
                "persona_scale_blind",
                "1 while the source of a pool's size cannot be read",
                &["namespace", "pool", "source"],
            )?,
            personas: int(
                "persona_topology_personas",
                "Personas that count for the phase",
                &["namespace", "phase"],
            )?,
            phase: int(
                "persona_topology_phase",
                "1 for the phase a namespace is in",
                &["namespace", "phase"],
            )?,
            moving: int(
                "persona_topology_moving",
                "Personas that have still to move to their pool",
                &["namespace", "phase"],
            )?,
            memory_per_persona: float(
                "persona_memory_bytes_per_persona",
                "Resident memory of a namespace's workers over the personas they serve",
                &["namespace", "phase"],
            )?,
            queue_up: one("persona_queue_up", "1 while the queue can be used")?,
            queue_risk: int(
                "persona_queue_risk",
                "1 while a setting of the queue's Redis puts tasks at risk",
                &["reason"],
            )?,
            dead: int("persona_dead_tasks", "Dead letters", &["namespace"])?,
            tasks: count(
                "persona_tasks_total",
                "Tasks that ended without a worker's word, by outcome",
                &["namespace", "phase", "outcome"],
            )?,
            reconcile,
            errors: count(
                "persona_reconcile_errors_total",
                "Reconciliations that failed, by kind and reason",
                &["kind", "reason"],
            )?,
            leader: one("persona_leader", "1 in the controller that leads")?,
        })
    }

    /// The pool is gone: so are its series.
    pub fn forget_pool(&self, namespace: &str, pool: &str) {
        let labels = [namespace, pool];
        let missing = [
            self.queued.remove_label_values(&labels),
            self.running.remove_label_values(&labels),
            self.oldest_wait.remove_label_values(&labels),
            self.slots.remove_label_values(&labels),
            self.desired.remove_label_values(&labels),
            self.utilization.remove_label_values(&labels),
            self.arrival_rate.remove_label_values(&labels),
            self.service.remove_label_values(&labels),
        ];
        let states =
            STATES.map(|state| self.workers.remove_label_values(&[namespace, pool, state]));
        let failed = missing.iter().chain(&states).filter(|r| r.is_err()).count();
        if failed > 0 {
            tracing::debug!(namespace, pool, failed, "the pool had not all series");
        }
        self.provider_limit.remove_label_values(&labels).ok();
        for source in SOURCES {
            self.blind
                .remove_label_values(&[namespace, pool, source])
                .ok();
        }
        for direction in ["up", "down"] {
            for reason in ["pinned", "demand", "idle", "bounds", "blind"] {
                self.scales
                    .remove_label_values(&[namespace, pool, direction, reason])
                    .ok();
            }
        }
    }

    /// The topology is gone: so are its series.
    pub fn forget_topology(&self, namespace: &str) {
        for phase in Phase::ALL {
            let labels = [namespace, phase.as_str()];
            for gauge in [&self.personas, &self.phase, &self.moving] {
                gauge.remove_label_values(&labels).ok();
            }
            self.memory_per_persona.remove_label_values(&labels).ok();
        }
    }
}
