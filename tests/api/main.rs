//! The three kinds on a real API server: what it refuses, what it fills in, what people see.

mod cluster;
mod defaults;
mod definitions;
mod examples;
mod pictures;
mod refusals;
