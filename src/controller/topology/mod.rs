//! The topology of a namespace: which pools its personas share.
//!
//! It says in its status where everyone belongs and makes the pools; each persona walks over by itself
//! when its pool is ready ([`super::persona`]); a pool that nobody needs any more is closed in the
//! queue, which succeeds only when it is empty, and deleted.
//!
//! - `plan` pure, from `census` (who belongs where), `progress` (phase, epoch, move), `pools` (which
//!   there shall be) and `verdicts` (conditions)

mod census;
mod plan;
mod pools;
mod progress;
#[cfg(test)]
mod tests;
mod verdicts;

use super::context::is_paused;

pub use plan::{Observed, Plan, plan};
pub use pools::Retired;
