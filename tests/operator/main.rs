//! The whole operator on a real API server, with worker processes.

mod api_proxy;
mod crashes;
mod crossing;
mod crossings;
mod gpus;
mod harness;
mod kills;
mod leftovers;
mod metrics;
mod midway;
mod moves;
mod nodes;
mod personas;
mod pools;
mod quarantine;
mod sources;
mod topology;
mod walk;
mod walks;

use testbed::upstream;
