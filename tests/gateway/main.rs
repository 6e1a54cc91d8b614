//! The gateway over HTTP, on a real Redis, with scripted workers.

mod access;
mod answers;
mod health;
mod idempotency;
mod interruptions;
mod outages;
mod publish;
mod refusals;
mod requests;
mod sdk;
mod server;
mod stage;
mod stop;
mod stream;
mod worker;
