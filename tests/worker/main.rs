//! The worker and its providers: against servers that misbehave, a real language model, a real Redis.

mod faults;
mod model;
mod upstream;
