//! What people see: `kubectl get`, `describe`, `explain`, `scale`, `wait`.

use anyhow::{Context, Result};
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::cluster::{kubectl, with_crds};

/// A namespace with the objects of pictures.yaml.
async fn gallery() -> Result<String> {
    let cluster = with_crds().await?;
    let namespace = cluster.namespace("pictures").await?;
    let folder = tempfile::tempdir()?;
    let objects: Vec<Value> = serde_norway::from_str(include_str!("pictures.yaml"))?;
    for mut object in objects {
        object["apiVersion"] = "persona.dev/v1alpha1".into();
        for condition in object["status"]["conditions"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            condition["lastTransitionTime"] = "2026-11-24T04:00:00Z".into();
        }
        let file = folder.path().join("object.json");
        std::fs::write(&file, object.to_string())?;
        let file = file.to_string_lossy();
        kubectl(&["apply", "-n", &namespace, "-f", &file]).await?;
        let reference = format!(
            "{}.persona.dev/{}",
            object["kind"].as_str().context("kind")?,
            object["metadata"]["name"].as_str().context("name")?
        );
        let patch = json!({"status": object["status"]}).to_string();
        let patch = [
            "patch",
            "-n",
            &namespace,
            &reference,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ];
        kubectl(&patch).await?;
    }
    Ok(namespace)
}

/// The table with the ages, which differ, struck out.
fn ageless(table: &str) -> String {
    let mut column = None;
    let mut lines = Vec::new();
    for line in table.lines() {
        if line.starts_with("NAME") {
            column = line.find("AGE");
            lines.push(line.trim_end().to_owned());
        } else if let Some((before, rest)) = column.and_then(|at| line.split_at_checked(at)) {
            let after = rest.get(3..).unwrap_or_default();
            lines.push(format!("{before}-  {after}").trim_end().to_owned());
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

#[tokio::test]
async fn get_says_whether_each_is_well_and_if_not_why() -> Result<()> {
    let namespace = gallery().await?;
    let table = kubectl(&[
        "get",
        "-n",
        &namespace,
        "personas,workerpools,personatopologies",
    ])
    .await?;
    assert_snapshot!("get", ageless(&table));
    let wide = kubectl(&["get", "-n", &namespace, "-o", "wide", "pn,wp,ptopo"]).await?;
    assert_snapshot!("get_wide", ageless(&wide));
    Ok(())
}

#[tokio::test]
async fn plural_names_one_kind_and_the_category_all_three() -> Result<()> {
    let namespace = gallery().await?;
    let names = async |what: &str| kubectl(&["get", "-n", &namespace, "-o", "name", what]).await;
    let personas = names("personas").await?;
    assert_eq!(personas.lines().count(), 2, "{personas}");
    assert_eq!(personas, names("pn").await?);
    let all = names("persona-operator").await?;
    assert_eq!(all.lines().count(), 5, "{all}");
    Ok(())
}

#[tokio::test]
async fn describe_shows_conditions_and_the_move() -> Result<()> {
    let namespace = gallery().await?;
    let topology = kubectl(&["describe", "-n", &namespace, "ptopo/default"]).await?;
    assert!(
        topology.contains("PerPersona -> Generic 7/12"),
        "{topology}"
    );
    let persona = kubectl(&["describe", "-n", &namespace, "pn/code-review"]).await?;
    assert!(
        persona.contains("Secret openai has no key api-key: add it."),
        "{persona}"
    );
    Ok(())
}

#[tokio::test]
async fn scale_pins_the_size_and_a_null_patch_frees_it() -> Result<()> {
    let namespace = gallery().await?;
    let pool = "wp/api-3fa2b1c0";
    let replicas = async || {
        let path = "jsonpath={.spec.replicas}";
        kubectl(&["get", "-n", &namespace, pool, "-o", path]).await
    };
    assert_eq!(replicas().await?, "");
    kubectl(&[
        "scale",
        "-n",
        &namespace,
        "workerpool",
        "api-3fa2b1c0",
        "--replicas=5",
    ])
    .await?;
    assert_eq!(replicas().await?, "5");
    let free = r#"{"spec":{"replicas":null}}"#;
    kubectl(&["patch", "-n", &namespace, pool, "--type=merge", "-p", free]).await?;
    assert_eq!(replicas().await?, "");
    Ok(())
}

#[tokio::test]
async fn wait_for_ready_works_on_all_three_kinds() -> Result<()> {
    let namespace = gallery().await?;
    for object in [
        "persona.persona.dev/helper",
        "wp/api-3fa2b1c0",
        "ptopo/default",
    ] {
        kubectl(&[
            "wait",
            "-n",
            &namespace,
            "--for=condition=Ready",
            "--timeout=5s",
            object,
        ])
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn explain_tells_what_a_field_is_for() -> Result<()> {
    with_crds().await?;
    for (field, words) in [
        (
            "persona.spec.queue.maxConcurrency",
            "Requests answered at once",
        ),
        ("wp.spec.replicas", "Pins the size"),
        ("wp.spec.template.affinity.nodeAffinity", "nodeAffinity"),
        ("ptopo.spec.thresholds", "next phase begins"),
    ] {
        let told = kubectl(&["explain", field]).await?;
        assert!(told.contains(words), "{field}: {told}");
    }
    Ok(())
}
