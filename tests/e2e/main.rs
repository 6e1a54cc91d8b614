//! The operator as its users get it: installed by helm on a real node, with real pods.

mod caches;
mod crashes;
mod harness;
mod load;
mod metrics;
mod moves;
mod notes;
mod personas;
mod servers;
mod uninstall;
#[path = "../operator/walk/mod.rs"]
mod walk;
mod walks;
