//! What `kubectl apply` answers to manifests that cannot be right.

use std::fs;

use anyhow::Result;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{try_kubectl, with_crds};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    kind: String,
    #[serde(default)]
    name: Option<String>,
    spec: Value,
    field: String,
    mend: String,
}

impl Refusal {
    fn manifest(&self) -> Value {
        let usual = if self.kind == "PersonaTopology" {
            "default"
        } else {
            "bad"
        };
        json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": self.kind,
            "metadata": {"name": self.name.as_deref().unwrap_or(usual)},
            "spec": self.spec,
        })
    }
}

/// The server's words when the manifest is applied, or `None` when it takes it.
async fn refused(folder: &str, number: usize, refusal: &Refusal) -> Result<Option<String>> {
    let file = format!("{folder}/{number}.json");
    fs::write(&file, serde_json::to_string(&refusal.manifest())?)?;
    let output = try_kubectl(&["apply", "--dry-run=server", "-f", &file]).await?;
    let answer = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(answer))
}

#[tokio::test]
async fn each_bad_manifest_is_refused_with_the_field_and_the_mend() -> Result<()> {
    with_crds().await?;
    let table: Vec<Refusal> = serde_norway::from_str(include_str!("refusals.yaml"))?;
    assert!(table.len() >= 40, "only {} bad manifests", table.len());
    let folder = tempfile::tempdir()?;
    let folder = folder.path().to_string_lossy();
    let wrong: Vec<String> = stream::iter(table.iter().enumerate())
        .map(async |(number, refusal)| {
            let answer = refused(&folder, number, refusal).await?;
            let said = answer.as_deref().unwrap_or("taken");
            let good =
                answer.is_some() && said.contains(&refusal.field) && said.contains(&refusal.mend);
            let about = format!(
                "{} {}\n  wants {} and {:?}",
                refusal.kind, refusal.spec, refusal.field, refusal.mend
            );
            anyhow::Ok((!good).then(|| format!("{about}\n  got {said}")))
        })
        .buffer_unordered(4)
        .try_filter_map(async |wrong| Ok(wrong))
        .try_collect()
        .await?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
