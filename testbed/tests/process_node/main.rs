//! Process nodes under a real API server, scheduler and controller manager.

mod fixture;
mod inside;
mod life;
mod nodes;
