//! Pods of pools on the real scheduler, with nodes that have the labels, resources, taints and device
//! slices of real GPU nodes. Nothing runs on them.

mod devices;
mod examples;
mod fleet;
mod landing;
mod mending;
mod models;
