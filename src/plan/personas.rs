//! Who there is: the personas of the manifests, and as many more as were asked for.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Error, Options};
use crate::api::names::TOPOLOGY_NAME;
use crate::api::{
    Adapter, Model, Persona, PersonaSpec, PersonaTopology, PersonaTopologySpec, Provider,
};

/// Most personas to plan for.
const MOST: u32 = 100_000;

/// The personas before and after, and the topology that they share.
#[derive(Debug)]
pub struct Cast {
    /// The topology, without status.
    pub topology: PersonaTopology,
    /// Personas that there are now.
    pub before: Vec<Persona>,
    /// Personas that there shall be: the first of them are those of before.
    pub after: Vec<Persona>,
}

impl Cast {
    /// Reads the manifests, and makes up who is missing.
    ///
    /// # Errors
    /// A manifest or a number that cannot be planned with.
    pub fn new(options: &Options, texts: &[(PathBuf, String)]) -> Result<Self, Error> {
        let mut topology = PersonaTopology::new(TOPOLOGY_NAME, PersonaTopologySpec::default());
        let mut known = Vec::new();
        for (path, text) in texts {
            read(path, text, &mut topology, &mut known)?;
        }
        let described = u32::try_from(known.len()).unwrap_or(MOST);
        let after = options.personas.unwrap_or(described);
        let before = options.from.unwrap_or(0);
        if let Some(asked) = [after, before].into_iter().find(|n| *n > MOST) {
            return Err(Error::TooMany { most: MOST, asked });
        }
        topology.metadata.generation = Some(1);
        let all = |count: u32| {
            let made_up = (described..count).map(|i| make_up(i, described, options));
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            known.iter().take(count).cloned().chain(made_up).collect()
        };
        Ok(Self {
            topology,
            before: all(before),
            after: all(after),
        })
    }
}

/// One that no manifest describes.
fn make_up(number: u32, described: u32, options: &Options) -> Persona {
    let place = number - described;
    let mut persona = Persona::new(
        &format!("persona-{}", number + 1),
        PersonaSpec {
            type_: format!("Type{}", place % options.types.max(1) + 1),
            adapter: (place < options.adapters).then(|| Adapter {
                name: "adapter".to_owned(),
                source: "adapter".to_owned(),
            }),
            ..spec()
        },
    );
    settle(&mut persona);
    persona
}

/// On a remote provider, everything else as usual.
fn spec() -> PersonaSpec {
    let model = Model {
        provider: Provider::OpenAI,
        name: "model".to_owned(),
        endpoint: None,
        api_key_secret_ref: None,
        requirements: None,
        server: None,
    };
    PersonaSpec {
        type_: String::new(),
        model,
        adapter: None,
        instructions: String::new(),
        generation: Default::default(),
        queue: Default::default(),
        timeout: crate::api::Span::secs(60),
        max_attempts: 3,
        suspend: false,
        pool_ref: None,
    }
}

/// What the API server would give it.
fn settle(persona: &mut Persona) {
    let metadata = &mut persona.metadata;
    metadata.uid = metadata.name.clone();
    metadata.generation = Some(1);
    persona.status = None;
}

fn read(
    path: &Path,
    text: &str,
    topology: &mut PersonaTopology,
    personas: &mut Vec<Persona>,
) -> Result<(), Error> {
    for document in serde_norway::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| Error::Yaml {
            path: path.to_owned(),
            error,
        })?;
        let items = match value.get("items").and_then(Value::as_array) {
            Some(items) => items.clone(),
            None => vec![value],
        };
        for item in items {
            match item.get("kind").and_then(Value::as_str) {
                Some("Persona") => {
                    let mut persona: Persona = decode(path, item)?;
                    settle(&mut persona);
                    personas.push(persona);
                }
                Some("PersonaTopology") => {
                    let read: PersonaTopology = decode(path, item)?;
                    topology.spec = read.spec;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn decode<K: DeserializeOwned>(path: &Path, item: Value) -> Result<K, Error> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&item["kind"]), text(&item["metadata"]["name"]));
    serde_json::from_value(item).map_err(|error| Error::Manifest {
        path: path.to_owned(),
        kind,
        name,
        error,
    })
}
