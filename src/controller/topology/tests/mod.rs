//! The plan alone, and carried out in a namespace that does as the API server, pools and queue do.

mod conditions;
mod moves;
mod phases;
mod pools;
mod random;
