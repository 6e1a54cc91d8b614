//! `persona-operator plan`: what the controller would do with a number of personas, from the very plans
//! that it follows. Reads manifests and asks no cluster.
//!
//! - `personas` who there is before and after
//! - `forecast` pure: phases, pools and moves
//! - `table` in words
//! - `quantity` what manifests say of memory

mod forecast;
mod personas;
mod quantity;
mod table;

use std::path::PathBuf;

use jiff::Timestamp;

use self::forecast::forecast;
use self::personas::Cast;
use crate::input::{self, ReadError};

/// What to plan for.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Number of personas; those of the manifests where it is left out.
    #[arg(long, required_unless_present = "file")]
    pub personas: Option<u32>,
    /// Types among those that no manifest describes.
    #[arg(long, default_value_t = 1)]
    pub types: u32,
    /// How many of those have an adapter.
    #[arg(long, default_value_t = 0)]
    pub adapters: u32,
    /// Number of personas that there are now; without it there are none.
    #[arg(long)]
    pub from: Option<u32>,
    /// Manifests of Personas, and of the PersonaTopology if it is not all defaults; other kinds are
    /// passed over. `-` is the standard input.
    #[arg(short, long)]
    pub file: Vec<PathBuf>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A manifest is not what it says it is.
    #[error("{}: {kind} {name}: {error}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: String,
        /// Its name.
        name: String,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// A file is not YAML.
    #[error("{}: {error}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: serde_norway::Error,
    },
    /// An amount of memory in the topology's template is none.
    #[error(
        "PersonaTopology: {quantity} of memory for container {container} is no quantity: write it like 1536Mi"
    )]
    Quantity {
        /// The container.
        container: &'static str,
        /// What is written there.
        quantity: String,
    },
    /// There is a number that nobody can make pools for.
    #[error("--personas and --from go up to {most}, not {asked}")]
    TooMany {
        /// The largest number.
        most: u32,
        /// The number.
        asked: u32,
    },
}

/// The answer, ready to print.
///
/// # Errors
/// A file or a number that cannot be planned with.
pub fn run(options: &Options) -> Result<String, Error> {
    let mut texts = Vec::new();
    for path in &options.file {
        texts.push((path.clone(), input::read(path)?));
    }
    answer(options, &texts, Timestamp::now())
}

/// As [`run`], with the files' contents.
fn answer(options: &Options, texts: &[(PathBuf, String)], now: Timestamp) -> Result<String, Error> {
    let cast = Cast::new(options, texts)?;
    Ok(forecast(now, cast)?.to_string())
}

#[cfg(test)]
mod tests;
