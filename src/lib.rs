//! persona-operator: runs AI personas on worker pools that follow their queues.
//!
//! - [`api`] the three kinds, conditions, labels. No I/O

pub mod api;
