//! The queue on a real Redis: each rule by itself, all verbs against a model, many clients at once.

mod access;
mod backoff;
mod claim;
mod concurrency;
mod drain;
mod ending;
mod fairness;
mod fence;
mod install;
mod loss;
mod memory;
mod moving;
mod order;
mod output;
mod registration;
mod removal;
mod results;
mod routing;
mod solo;
mod stats;
mod stealing;
mod support;
mod waiting;
