//! The examples with models of their own are scheduled as their texts say.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use persona_operator::api::{Persona, PersonaTopologySpec, WorkerPoolSpec};
use persona_operator::controller::pool::server::Serving;
use persona_operator::placement::{Class, Offer};
use persona_operator::topology::{Home, home, phase};
use serde::Deserialize;
use serde_json::Value;

use crate::fleet::{Fleet, Place};

/// An example: its pools, each with its class, the number of its personas, nodes that are right, and words
/// that its model server is started with.
type Case = (
    &'static str,
    &'static [(
        &'static str,
        usize,
        &'static [&'static str],
        &'static [&'static str],
    )],
);

/// Class and personas of a pool.
type Shared = (Class, Vec<Arc<Persona>>);

const CPU: &[&str] = &["cpu-a", "cpu-b"];
const CASES: &[Case] = &[
    ("cpu-small", &[("cpu", 2, CPU, &[])]),
    (
        "gpu-70b",
        &[(
            "gpu-4x80Gi",
            1,
            &["a100-80", "h100"],
            &["--tensor-parallel-size 4"],
        )],
    ),
    ("mig", &[("gpu-20Gi", 1, &["mig"], &[])]),
    ("dra", &[("gpu-80Gi", 1, &["dra"], &[])]),
    (
        "lora",
        &[(
            "cpu",
            2,
            CPU,
            &[
                "--model /models/SmolLM2-135M-Instruct.Q4_1.gguf",
                "--lora /models/adapters/casual.gguf",
                "--lora /models/adapters/formal.gguf",
            ],
        )],
    ),
    ("byo-server", &[("api", 1, CPU, &[])]),
];

/// Topology and personas of a file.
fn read(name: &str) -> Result<(PersonaTopologySpec, Vec<Arc<Persona>>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let text = std::fs::read_to_string(folder.join(format!("{name}.yaml")))?;
    let (mut topology, mut personas) = (PersonaTopologySpec::default(), Vec::new());
    for document in serde_norway::Deserializer::from_str(&text) {
        let manifest = Value::deserialize(document)?;
        match manifest["kind"].as_str() {
            Some("PersonaTopology") => topology = serde_json::from_value(manifest["spec"].clone())?,
            Some("Persona") => personas.push(Arc::new(serde_json::from_value(manifest)?)),
            other => bail!("{name}: {other:?}"),
        }
    }
    Ok((topology, personas))
}

/// The pools of the personas in a namespace that has nothing else, with their classes.
fn pools(
    topology: &PersonaTopologySpec,
    personas: &[Arc<Persona>],
) -> Result<BTreeMap<String, Shared>> {
    let mut pools = BTreeMap::new();
    let adapters = personas.iter().filter(|p| p.spec.adapter.is_some());
    let (all, adapters) = (personas.len().try_into()?, adapters.count().try_into()?);
    let decided = phase(Timestamp::UNIX_EPOCH, all, adapters, None, topology);
    for persona in personas {
        let Home::Managed { pool, class } = home(persona, decided.phase, &Offer::of(topology))
        else {
            bail!("{:?} has no place", persona.metadata.name);
        };
        let (_, members) = pools.entry(pool).or_insert_with(|| (class, Vec::new()));
        members.push(persona.clone());
    }
    Ok(pools)
}

/// As the topology makes a pool.
fn spec(topology: &PersonaTopologySpec, class: Class) -> WorkerPoolSpec {
    let gpus = topology
        .gpu_pool
        .as_ref()
        .filter(|_| matches!(class, Class::Gpu { .. }));
    let mut spec = gpus.unwrap_or(&topology.pool).clone();
    spec.placement = class.placement(spec.placement.gpu);
    spec
}

#[tokio::test]
async fn examples_are_scheduled_as_they_say() -> Result<()> {
    let fleet = Fleet::join().await?;
    fleet.claim("models").await?;
    for (name, expected) in CASES {
        let (topology, personas) = read(name)?;
        let found = pools(&topology, &personas)?;
        ensure!(found.len() == expected.len(), "{name}: {found:?}");
        for ((class, members), (wanted, count, nodes, words)) in found.values().zip(*expected) {
            ensure!(
                (class.to_string().as_str(), members.len()) == (*wanted, *count),
                "{name}: {class} for {}",
                members.len()
            );
            let spec = spec(&topology, *class);
            let serving = Serving::of(members, spec.slots_per_worker);
            ensure!(
                serving.is_some() == (*wanted != "api"),
                "{name}: {serving:?}"
            );
            fleet.worker(name, spec, serving.as_ref()).await?;
            let place = fleet.place(name).await?;
            let there = matches!(&place, Place::Node(node) if nodes.contains(&node.as_str()));
            ensure!(there, "{name} is at {place:?}, not on {nodes:?}");
            let args = fleet.server_args(name).await?;
            for words in *words {
                ensure!(args.contains(words), "{name}: {args} without {words}");
            }
            fleet.remove(name).await.context(*name)?;
        }
    }
    Ok(())
}
