//! The queue in Redis: what a task is, where it waits, who runs it.
//!
//! The queue belongs to the persona; a pool is the set of its personas that have runnable work, so
//! that moving a persona is one call that copies nothing. Every change is one Redis Function
//! (`lua/<verb>.lua`), atomic in Redis; this module is the typed way to call them:
//!
//! - [`Queue`] and [`NamespaceQueue`]: connection, and the handle of one namespace
//! - [`routing`] controller: which persona runs in which pool
//! - [`submit`] gateway: enqueue, cancel, claim, read results
//! - [`work`] worker: take, emit, finish, release
//! - [`heartbeat`] worker: register, renew, start afresh, deregister
//! - [`fleet`] controller: drain, reap and forget workers
//! - [`listen`] waiting: bell of a pool, control of a worker, results of a gateway, doorbell of the controller
//! - [`stats`] what autoscaling observes
//! - [`access`] Redis ACL users, one a namespace
//! - [`task`] the data that gateway and worker exchange
//! - [`keys`] every key and channel by name
//! - [`library`] the functions, loading them, and the checks at start

pub mod access;
mod client;
mod connection;
mod error;
pub mod fleet;
pub mod heartbeat;
pub mod keys;
pub mod library;
pub mod listen;
mod reply;
pub mod routing;
pub mod stats;
pub mod submit;
pub mod task;
pub mod work;

pub use client::{NamespaceQueue, Queue, QueueOptions};
pub use error::QueueError;
