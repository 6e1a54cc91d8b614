//! How personas share pools: the phase by their number, and the pool of each. Pure.

mod assignment;
mod phase;

pub use assignment::{Home, PhaseGroup, home, pool_name};
pub use phase::{Below, PhaseDecision, Previous, phase};
