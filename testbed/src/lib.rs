//! A real Kubernetes, Redis and language model on one machine, for tests and the demo.

mod cache;
pub mod image;
mod model;
pub mod packages;

pub use model::{MODEL_NAME, ModelOptions, ModelServer, weights};
