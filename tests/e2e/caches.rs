//! Model files from where pods mount them: a claim, and a folder of the node.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt};
use persona_operator::api::{Persona, PersonaTopology};
use serde_json::{Value, json};
use testbed::image::LLAMA;

use crate::harness::{Stage, manifest};

const WEIGHTS: &str = "weights.gguf";
const ADAPTER: &str = "adapters/one.gguf";

/// A folder with the model's weights and an adapter, under names that the server's image does not have.
async fn folder() -> Result<tempfile::TempDir> {
    let (weights, [one, _]) = (testbed::weights().await?, testbed::adapters().await?);
    let folder = tempfile::tempdir()?;
    let adapter = folder.path().join(ADAPTER);
    let inside = adapter.parent().context("a folder")?;
    fs::create_dir(inside)?;
    for open in [folder.path(), inside] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
    }
    for (source, target) in [(weights, folder.path().join(WEIGHTS)), (one, adapter)] {
        fs::copy(&source, &target).with_context(|| format!("{}", source.display()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o644))?;
    }
    Ok(folder)
}

/// A volume on that folder, and a claim that is bound to it.
async fn claim(stage: &Stage, folder: &Path) -> Result<Api<PersistentVolume>> {
    let name = stage.namespace.as_str();
    let common = json!({"accessModes": ["ReadWriteMany"], "storageClassName": ""});
    let spec = |more: Value| {
        let mut spec = common.clone();
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        spec
    };
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": spec(json!({
            "capacity": {"storage": "1Gi"}, "hostPath": {"path": folder},
            "persistentVolumeReclaimPolicy": "Retain",
        })),
    }))?;
    let client: Client = stage.client.clone();
    let volumes: Api<PersistentVolume> = Api::all(client);
    volumes.create(&PostParams::default(), &volume).await?;
    let claim = json!({
        "metadata": {"name": "models"},
        "spec": spec(json!({
            "volumeName": name, "resources": {"requests": {"storage": "1Gi"}},
        })),
    });
    stage.create::<PersistentVolumeClaim>(claim).await?;
    Ok(volumes)
}

async fn persona(stage: &Stage, name: &str, cache: Value, adapter: bool) -> Result<()> {
    let mut spec = json!({
        "model": {
            "provider": "OpenAICompatible",
            "name": WEIGHTS,
            "server": {"kind": "LlamaCpp", "image": LLAMA, "cache": cache},
            "requirements": {"parameters": "135M", "quantization": "Q4_1", "contextTokens": 512},
        },
        "timeout": "60s",
        "generation": {"maxTokens": 8, "temperature": 0.0},
    });
    if adapter {
        spec["adapter"] = json!({"name": "one", "source": ADAPTER});
    }
    stage
        .create::<Persona>(manifest("Persona", name, spec))
        .await?;
    Ok(())
}

/// The volume of model files in the pods of a persona's pool.
fn volume(pods: &[Pod], pool: &str) -> Result<Value> {
    let pod = pods
        .iter()
        .find(|pod| pod.labels().get("persona.dev/pool").map(String::as_str) == Some(pool));
    let spec = pod
        .and_then(|pod| pod.spec.as_ref())
        .context("it has no pod")?;
    let volumes = spec.volumes.iter().flatten();
    let mut models = volumes.filter(|volume| volume.name == "persona-models");
    Ok(json!(models.next().context("no volume of model files")?))
}

#[tokio::test]
async fn models_and_adapters_are_loaded_from_a_claim_and_from_a_folder_of_the_node() -> Result<()> {
    let Some(stage) = Stage::enter("caches").await? else {
        return Ok(());
    };
    stage.node.import_llama().await?;
    let folder = folder().await?;
    let volumes = claim(&stage, folder.path()).await?;
    // Restricted pods may have claims, and no folders of the node.
    stage.let_all_pods_in().await?;
    // Two servers at once, on a small node.
    let little = json!({"resources": {"requests": {"cpu": "100m"}}});
    let pool = json!({"template": {"containers": {"model-server": little}}});
    stage
        .create::<PersonaTopology>(manifest(
            "PersonaTopology",
            "default",
            json!({"pool": pool}),
        ))
        .await?;
    let claimed = json!({"persistentVolumeClaim": "models"});
    persona(&stage, "claimed", claimed, false).await?;
    persona(&stage, "adapted", json!({"hostPath": folder.path()}), true).await?;
    let expected = [
        (
            "claimed",
            json!({"persistentVolumeClaim": {"claimName": "models"}}),
        ),
        (
            "adapted",
            json!({"hostPath": {"path": folder.path(), "type": "Directory"}}),
        ),
    ];
    let mut texts = Vec::new();
    for (name, source) in expected {
        stage.wait_ready(&format!("persona/{name}")).await?;
        texts.push(stage.answer(name).await?);
        let persona: Persona = stage.all().get(name).await?;
        let pool = persona
            .status
            .and_then(|status| status.pool)
            .context("no pool")?;
        let mut volume = volume(&stage.workers().await?, &pool)?;
        volume.as_object_mut().and_then(|all| all.remove("name"));
        ensure!(volume == source, "{name}: {volume}");
    }
    ensure!(
        texts.iter().all(|text| !text.trim().is_empty()),
        "{texts:?}"
    );
    ensure!(texts[0] != texts[1], "the adapter does nothing: {texts:?}");
    let name = stage.namespace.clone();
    stage.leave().await?;
    volumes.delete(&name, &DeleteParams::default()).await?;
    Ok(())
}
