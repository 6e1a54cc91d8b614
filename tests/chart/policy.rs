//! The admission policies: the operator does for nobody what they may not do themselves.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use testbed::Cluster;

use crate::chart::{installed, run, try_kubectl};

/// A namespace with two people: `writer` has the rights on our kinds alone, `developer` the built-in
/// role edit, which reads Secrets and creates pods.
async fn people() -> Result<String> {
    installed().await?;
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace("people").await?;
    for (user, roles) in [
        (
            "writer",
            &["persona-view", "persona-edit", "persona-admin"][..],
        ),
        ("developer", &["edit"]),
        ("reader", &["view"]),
    ] {
        for role in roles {
            let bind = [
                "create",
                "rolebinding",
                &format!("{user}-{role}"),
                &format!("--clusterrole={role}"),
                &format!("--user={user}"),
                "-n",
                &namespace,
            ];
            run(cluster.kubectl().await?, &bind).await?;
        }
    }
    await_policies(&namespace).await?;
    Ok(namespace)
}

/// Policies count some time after they are there, each by itself.
async fn await_policies(namespace: &str) -> Result<()> {
    let probes = [
        persona(
            "probe",
            json!({"apiKeySecretRef": {"name": "keys", "key": "k"}}),
        ),
        pool("probe", json!({"template": {"labels": {"a": "b"}}})),
        topology(json!({"pool": {"template": {"labels": {"a": "b"}}}})),
    ];
    for probe in probes {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let answer = apply("writer", namespace, &probe, true).await?;
            // Until the API server has heard of the roles, it refuses without a policy.
            if matches!(&answer, Err(words) if words.contains("ValidatingAdmissionPolicy")) {
                break;
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "a policy is not enforced: {probe}: {answer:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "persona.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn persona(name: &str, more: Value) -> Value {
    let mut model = json!({"provider": "Ollama", "name": "x"});
    if let (Some(model), Value::Object(more)) = (model.as_object_mut(), more) {
        model.extend(more);
    }
    object("Persona", name, json!({"model": model}))
}

fn pool(name: &str, spec: Value) -> Value {
    object("WorkerPool", name, spec)
}

fn topology(spec: Value) -> Value {
    object("PersonaTopology", "default", spec)
}

/// Applies a manifest as somebody: the refusal's words, if there is one.
async fn apply(
    user: &str,
    namespace: &str,
    manifest: &Value,
    dry: bool,
) -> Result<Result<(), String>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), manifest.to_string())?;
    let path = file.path().to_string_lossy();
    let mut args = vec![
        "apply",
        "--server-side",
        "--force-conflicts",
        "-n",
        namespace,
        "--as",
        user,
        "-f",
        &path,
    ];
    if dry {
        args.push("--dry-run=server");
    }
    let output = try_kubectl(&args).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(said)
    })
}

async fn refused(user: &str, namespace: &str, manifest: &Value) -> Result<String> {
    match apply(user, namespace, manifest, false).await? {
        Ok(()) => bail!("{user} was let: {manifest}"),
        Err(said) => Ok(said),
    }
}

async fn taken(user: &str, namespace: &str, manifest: &Value) -> Result<()> {
    let answer = apply(user, namespace, manifest, false).await?;
    answer.map_err(|said| anyhow::anyhow!("{user} was refused: {said}"))
}

#[tokio::test]
async fn a_secret_is_named_only_by_who_may_read_it() -> Result<()> {
    let namespace = people().await?;
    let keyed = json!({"apiKeySecretRef": {"name": "keys", "key": "k"}});
    let said = refused("writer", &namespace, &persona("helper", keyed.clone())).await?;
    assert!(
        said.contains("apiKeySecretRef names Secret keys, which you may not get"),
        "{said}"
    );
    taken("writer", &namespace, &persona("plain", json!({}))).await?;
    taken("developer", &namespace, &persona("helper", keyed.clone())).await?;
    // Nor may they send the key elsewhere.
    let mut elsewhere = keyed.clone();
    elsewhere["endpoint"] = "http://elsewhere".into();
    let said = refused("writer", &namespace, &persona("helper", elsewhere)).await?;
    assert!(said.contains("which you may not get"), "{said}");
    // What does not touch the model is theirs to change.
    let mut worded = persona("helper", keyed);
    worded["spec"]["instructions"] = "You help.".into();
    taken("writer", &namespace, &worded).await
}

#[tokio::test]
async fn a_model_server_is_set_only_by_who_may_create_pods() -> Result<()> {
    let namespace = people().await?;
    let serving = persona(
        "local",
        json!({"server": {"kind": "Ollama", "cache": {"hostPath": "/"}}}),
    );
    let said = refused("writer", &namespace, &serving).await?;
    assert!(
        said.contains("spec.model.server sets fields of pods"),
        "{said}"
    );
    taken("developer", &namespace, &serving).await
}

#[tokio::test]
async fn a_template_is_set_only_by_who_may_create_pods() -> Result<()> {
    let namespace = people().await?;
    let overlay = json!({"labels": {"a": "b"}});
    let own = pool("mine", json!({"template": overlay}));
    let said = refused("writer", &namespace, &own).await?;
    assert!(said.contains("spec.template sets fields of pods"), "{said}");
    taken(
        "writer",
        &namespace,
        &pool("plain", json!({"maxReplicas": 3})),
    )
    .await?;
    taken("developer", &namespace, &own).await?;
    // Its size is theirs to change, its template is not.
    taken(
        "writer",
        &namespace,
        &pool("mine", json!({"template": overlay, "maxReplicas": 3})),
    )
    .await?;
    let other = pool("mine", json!({"template": {"labels": {"a": "c"}}}));
    refused("writer", &namespace, &other).await?;
    let defaults = topology(json!({"gpuPool": {"template": overlay}}));
    let said = refused("writer", &namespace, &defaults).await?;
    assert!(
        said.contains("spec.gpuPool.template sets fields of pods"),
        "{said}"
    );
    taken("writer", &namespace, &topology(json!({"mode": "Generic"}))).await
}

#[tokio::test]
async fn built_in_roles_reach_our_kinds() -> Result<()> {
    let namespace = people().await?;
    taken("developer", &namespace, &persona("helper", json!({}))).await?;
    let get = [
        "get",
        "personas,workerpools,personatopologies",
        "-n",
        &namespace,
        "--as",
        "reader",
    ];
    let seen = try_kubectl(&get).await?;
    assert!(
        seen.status.success(),
        "{}",
        String::from_utf8_lossy(&seen.stderr)
    );
    let said = refused("reader", &namespace, &persona("other", json!({}))).await?;
    assert!(said.contains("forbidden"), "{said}");
    // How the namespace shares pools is the admin's.
    let said = refused("developer", &namespace, &topology(json!({}))).await?;
    assert!(said.contains("forbidden"), "{said}");
    Ok(())
}
