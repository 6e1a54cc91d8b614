//! Lines for the person who waits.

use std::fmt::Arguments;
use std::io::Write;

/// Writes one line to stderr. Straight to the stream: `cargo test` would hide what `eprintln!` says,
/// and a first build takes minutes. A closed stderr is no reason to stop.
pub fn line(text: Arguments<'_>) {
    let text = format!("testbed: {text}\n");
    drop(std::io::stderr().write_all(text.as_bytes()));
}
