//! The three kinds (`persona.dev/v1alpha1`), their conditions, labels and names. No I/O.

// Printer columns repeat `type_` and `priority` in one attribute, which the lint takes for duplicates.
#![allow(clippy::duplicated_attributes)]

pub mod condition;
mod crd;
pub mod duration;
pub mod names;
mod persona;
mod pod_overlay;
mod pod_schema;
mod rules;
pub mod runtime;
mod scaling;
mod topology;
mod worker_pool;

pub use crd::{crd_files, crds};
pub use duration::Span;
pub use persona::*;
pub use pod_overlay::*;
pub use scaling::*;
pub use topology::*;
pub use worker_pool::*;

/// API group of all kinds.
pub const GROUP: &str = "persona.dev";
/// API version of all kinds.
pub const VERSION: &str = "v1alpha1";
