//! A real Kubernetes, Redis and language model on one machine, for tests and the demo.
//!
//! Everything is a child process that dies with this one, on free ports, with its logs in one folder
//! that error messages name. [`Cluster::shared`] and [`Redis::shared`] serve all tests of a process;
//! [`Cluster::start`] and [`Redis::start`] are for tests that break things.

pub mod binaries;
mod cache;
pub mod cargo;
pub mod certs;
mod chat;
pub mod cluster;
pub mod component;
pub mod control_plane;
mod gobuild;
pub mod image;
pub mod kubeconfig;
pub mod kwok;
mod model;
pub mod net;
pub mod nodes;
mod options;
mod outside;
pub mod packages;
mod port_forward;
pub mod probe;
pub mod process;
pub mod process_node;
pub mod progress;
pub mod prometheus;
pub mod rabbitmq;
pub mod real_node;
pub mod redis;
pub mod registry;
pub mod release;
pub mod run_dir;
pub mod stack;
mod stop;
mod toolchain;
pub mod upstream;
mod venv;

pub use self::binaries::Binary;
pub use self::chat::Chat;
pub use self::cluster::Cluster;
pub use self::component::Component;
pub use self::kwok::{FakeGpu, FakeNode};
pub use self::model::{MODEL_NAME, ModelOptions, ModelServer, adapters, weights};
pub use self::nodes::{NodeKind, real_node_wanted};
pub use self::options::Options;
pub use self::process_node::{ProcessNode, ProcessNodeOptions};
pub use self::prometheus::{Prometheus, PrometheusOptions, Sample};
pub use self::rabbitmq::RabbitMq;
pub use self::real_node::RealNode;
pub use self::redis::{Redis, RedisOptions};
pub use self::release::{Release, ReleaseOptions};
pub use self::stack::{Stack, StackOptions};
pub use self::stop::Stop;
pub use self::venv::openai_python;

/// Makes ring the process's TLS provider; reqwest and kube need one. The first caller wins, and it is
/// the same provider everywhere in this workspace.
pub fn install_crypto() {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
}
