//! The whole operator on a real API server, with worker processes.

mod api_proxy;
mod crashes;
mod crossing;
mod crossings;
#[path = "../placement/devices.rs"]
mod devices;
mod gpus;
mod harness;
mod kills;
mod leftovers;
mod metrics;
mod midway;
mod moves;
mod nodes;
mod other_models;
mod outage;
mod outages;
mod personas;
mod pools;
mod quarantine;
mod recycling;
mod refusals;
mod scale_ins;
mod shrinking;
mod sources;
mod stand_ins;
mod topology;
mod walk;
mod walks;
mod webhook;

use testbed::upstream;
