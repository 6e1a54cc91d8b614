//! A persona's route in the queue, and its status.
//!
//! - `plan` pure: whether to register, stay or enter a pool
//! - `status` pure: conditions, from the plan and the queue's answer

mod plan;
mod status;
#[cfg(test)]
mod tests;

use super::context::is_paused;

pub use plan::{Intent, Layout, Observed, Plan, PoolView, Wait, home_of, plan};
pub use status::{Outcome, differs, status};
