//! The whole operator on a real API server, with worker processes.

mod access;
mod api_proxy;
mod crashes;
mod crossing;
mod crossings;
mod deletions;
#[path = "../placement/devices.rs"]
mod devices;
mod disruption;
mod failover;
mod fuse;
mod gate;
mod gpus;
mod hanging;
mod harness;
mod kills;
mod late_word;
mod leftovers;
mod limits;
mod metrics;
mod midway;
mod moves;
mod namespaces;
mod nodes;
mod other_models;
mod outage;
mod outages;
mod personas;
mod pools;
mod quarantine;
mod queue_proxy;
mod races;
mod recycling;
mod refusals;
mod scale_ins;
mod series;
mod shrinking;
mod sources;
mod stand_ins;
mod topology;
mod trust;
mod walk;
mod walks;
mod webhook;

use testbed::upstream;
