//! Cargo, run by a process that Cargo may have run.

use std::env;
use std::process::Command;

/// The Cargo that runs us, or the machine's.
///
/// What it has told us about our own package is not passed on: build scripts (ring's) that see it run
/// anew for each package that asks, and all that depends on them is compiled again.
pub fn command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if ours
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        {
            command.env_remove(name);
        }
    }
    command
}
