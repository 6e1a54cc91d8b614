//! How many workers a pool needs, and which one goes. Pure: takes `now` and what was observed.
//!
//! readings -> [`Memory`] (arrival rate, service time) -> slots by the formula of `need` -> the
//! largest of all sources -> windows, tolerance and policies of `behavior` -> [`Decision`].

mod arrivals;
pub(crate) mod behavior;
mod decision;
mod erlang;
mod limits;
mod memory;
mod need;
mod peakedness;
mod reading;
mod regret;
mod service;
mod size;
mod victims;

pub use behavior::{after, after_span};
pub use decision::{Cause, Decision};
pub use memory::Memory;
pub use need::Inputs;
pub use reading::{ProviderReading, QUEUE, QueueReading, Reading};
pub use size::{LOOK, desired};
pub use victims::{Candidate, victims};
