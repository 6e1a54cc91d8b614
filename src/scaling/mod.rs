//! How many workers a pool needs, and which one goes. Pure: takes `now` and what was observed.

mod size;
mod victims;

pub use size::{Cause, Decision, Fresh, Memory, Numbers, desired};
pub use victims::{Candidate, victims};
