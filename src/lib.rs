//! persona-operator: runs AI personas on worker pools that follow their queues.
//!
//! - [`api`] the three kinds, conditions, labels. No I/O
//! - [`controller`] Kubernetes: one folder a kind: observe (I/O), plan (pure), apply (I/O), status
//! - [`queue`] the queue in Redis: keys, functions, typed client
//! - [`telemetry`] logs, metrics, health, signals: what every process has

pub mod api;
pub mod controller;
pub mod queue;
pub mod telemetry;
