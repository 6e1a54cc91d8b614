//! The Helm chart: what it renders, whom it lets do what, and what an upgrade keeps.

mod chart;
mod policy;
mod redis;
mod release;
mod render;
mod rights;
