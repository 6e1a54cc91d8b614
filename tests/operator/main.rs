//! The whole operator on a real API server, with worker processes.

mod crashes;
mod gpus;
mod harness;
mod moves;
mod nodes;
mod personas;
mod pools;
mod topology;

use testbed::upstream;
