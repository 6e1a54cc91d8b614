//! The whole operator on a real API server, with worker processes.

mod harness;
mod pools;
mod topology;
