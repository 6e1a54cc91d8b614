//! `persona-operator explain`: what the status of objects says, in words that a person reads from top to
//! bottom. Reads what `kubectl get … -o yaml` prints and asks no cluster.
//!
//! ```text
//! kubectl get workerpools,personas,personatopologies -o yaml | persona-operator explain
//! ```

mod words;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::input::{self, ReadError};

/// What to explain.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Objects as `kubectl get -o yaml` or `-o json` prints them; `-` is the standard input.
    #[arg(default_value = "-")]
    pub file: PathBuf,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is neither YAML nor JSON.
    #[error(
        "this is neither YAML nor JSON: {0}; pipe `kubectl get workerpool NAME -o yaml` into it"
    )]
    Yaml(#[from] serde_norway::Error),
    /// An object is not what it says it is.
    #[error("{kind} {name}: {error}")]
    Object {
        /// What it should be.
        kind: String,
        /// Its name.
        name: String,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// There is no object that this program knows.
    #[error(
        "no WorkerPool, Persona or PersonaTopology is in it: pipe `kubectl get workerpool NAME -o yaml` into it"
    )]
    Nothing,
}

/// The explanation, ready to print.
///
/// # Errors
/// What was read cannot be explained.
pub fn run(options: &Options) -> Result<String, Error> {
    explain(&input::read(&options.file)?, Timestamp::now())
}

/// As [`run`], of a text.
fn explain(text: &str, now: Timestamp) -> Result<String, Error> {
    let mut explained = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let document = Value::deserialize(document)?;
        let objects = match document["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![document],
        };
        for object in objects {
            explained.extend(one(object, now)?);
        }
    }
    if explained.is_empty() {
        return Err(Error::Nothing);
    }
    Ok(explained.join("\n"))
}

/// None for an object of another kind.
fn one(object: Value, now: Timestamp) -> Result<Option<String>, Error> {
    Ok(Some(match object["kind"].as_str() {
        Some("WorkerPool") => words::pool(&parse(object)?, now),
        Some("Persona") => words::persona(&parse(object)?, now),
        Some("PersonaTopology") => words::topology(&parse(object)?, now),
        _ => return Ok(None),
    }))
}

fn parse<K: DeserializeOwned>(object: Value) -> Result<K, Error> {
    let text = |value: &Value| value.as_str().unwrap_or("without a name").to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    serde_json::from_value(object).map_err(|error| Error::Object { kind, name, error })
}

#[cfg(test)]
mod tests;
