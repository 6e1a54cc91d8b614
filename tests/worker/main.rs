//! The worker and its providers: against servers that misbehave, a real language model, a real Redis.

mod adapters;
mod answers;
mod beside;
mod calls;
mod faults;
mod fixture;
mod life;
mod llama;
mod model;
mod moved;
mod ollama;
mod outage;
mod process;
mod retries;
mod vllm;
use testbed::upstream;
