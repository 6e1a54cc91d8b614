//! persona-operator: runs AI personas on worker pools that follow their queues.
//!
//! - [`api`] the three kinds, conditions, labels. No I/O
//! - [`controller`] Kubernetes: one folder a kind: observe (I/O), plan (pure), apply (I/O), status
//! - [`explain`] what the status of objects says, in words
//! - [`gateway`] HTTP: the OpenAI-compatible API, API keys, health
//! - [`input`] what commands read
//! - [`placement`] pure: model -> class of workers
//! - [`plan`] what the controller would do with a number of personas
//! - [`provider`] model back ends behind one trait
//! - [`queue`] the queue in Redis: keys, functions, typed client
//! - [`scaling`] pure: demand -> size, and who goes
//! - [`simulator`] sizes on virtual time: our planner beside KEDA, an HPA and an oracle
//! - [`telemetry`] logs, metrics, health, signals: what every process has
//! - [`topology`] pure: number of personas -> phase, persona -> pool
//! - [`worker`] the process in a pool's pods: tasks, leases, drain, recycling, health

pub mod api;
pub mod controller;
pub mod explain;
pub mod gateway;
pub mod input;
mod lock;
pub mod placement;
pub mod plan;
pub mod provider;
pub mod queue;
pub mod scaling;
pub mod simulator;
pub mod telemetry;
pub mod topology;
pub mod worker;
