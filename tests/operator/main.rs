//! The whole operator on a real API server, with worker processes.

mod crashes;
mod harness;
mod moves;
mod personas;
mod pools;
#[path = "../worker/upstream.rs"]
mod upstream;
