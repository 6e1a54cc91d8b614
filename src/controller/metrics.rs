//! What Prometheus reads of the controller.

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::api::Phase;
use crate::queue::heartbeat::RecycleReason;
use crate::queue::task::OutcomeKind;

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
    /// Workers that asked to be replaced and were.
    pub recycles: IntCounterVec,
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
    /// 1 while the queue can be used; no series where nobody looks.
    queue_up: IntGaugeVec,
    /// 1 while the queue's server puts tasks at risk, by reason.
    pub queue_risk: IntGaugeVec,
    /// Dead letters.
    pub dead: IntGaugeVec,
    /// Tasks that ended without a worker's word: expired, cancelled, dead, interrupted, of a deleted persona.
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

/// The phase of tasks in a namespace without a topology.
pub const NO_PHASE: &str = "Own";

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
            recycles: count(
                "persona_worker_recycles_total",
                "Workers that were replaced by fresh ones, by reason",
                &["namespace", "pool", "reason"],
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
            queue_up: int("persona_queue_up", "1 while the queue can be used", &[])?,
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

    /// Whether the queue can be used.
    pub fn queue_is_up(&self, is_up: bool) {
        self.queue_up
            .with_label_values::<&str>(&[])
            .set(i64::from(is_up));
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
        for reason in RecycleReason::ALL {
            self.recycles
                .remove_label_values(&[namespace, pool, reason.as_str()])
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

    /// Nothing of the namespace is left: nor are the series that belong to it as a whole.
    pub fn forget_namespace(&self, namespace: &str) {
        self.dead.remove_label_values(&[namespace]).ok();
        for phase in Phase::ALL.map(Phase::as_str).into_iter().chain([NO_PHASE]) {
            for outcome in OutcomeKind::ALL.map(OutcomeKind::as_str) {
                let labels = [namespace, phase, outcome];
                self.tasks.remove_label_values(&labels).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_gone_has_no_series() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("registers");
        for namespace in ["gone", "stays"] {
            metrics.dead.with_label_values(&[namespace]).set(1);
            for phase in ["Generic", NO_PHASE] {
                let labels = [namespace, phase, "expired"];
                metrics.tasks.with_label_values(&labels).inc();
            }
        }
        metrics.forget_namespace("gone");
        let families = registry.gather();
        let labels = families.iter().flat_map(|family| family.get_metric());
        let labels = labels.flat_map(|metric| metric.get_label());
        let of = |name: &str| labels.clone().filter(|l| l.value() == name).count();
        assert_eq!((of("gone"), of("stays")), (0, 3));
    }

    #[test]
    fn who_does_not_look_says_nothing_of_the_queue() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("registers");
        let said = || {
            let families = registry.gather();
            let found = families.iter().find(|f| f.name() == "persona_queue_up");
            found.map(|family| family.get_metric()[0].get_gauge().get_value())
        };
        assert_eq!(said(), None);
        metrics.queue_is_up(false);
        assert_eq!(said(), Some(0.0));
        metrics.queue_is_up(true);
        assert_eq!(said(), Some(1.0));
    }
}
