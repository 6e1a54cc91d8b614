//! What the chart renders from good and bad values.

use std::fs;

use anyhow::Result;
use insta::{assert_snapshot, with_settings};
use persona_operator::api;
use serde::Deserialize;
use serde_json::Value;
use testbed::Cluster;

use crate::chart::{folder, run, template, try_kubectl, values};

const VALUES: [&str; 4] = ["defaults", "external-redis", "one-namespace", "everything"];

fn documents(yaml: &str) -> Result<Vec<Value>> {
    let documents = serde_norway::Deserializer::from_str(yaml).map(Value::deserialize);
    let documents = documents.collect::<Result<Vec<_>, _>>()?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

#[test]
fn definitions_in_the_chart_are_those_the_types_make() -> Result<()> {
    for (name, text) in api::crd_files()? {
        let file = folder().join("files/crds").join(&name);
        assert!(
            fs::read_to_string(file).is_ok_and(|there| there == text),
            "{name} of the chart is stale: run cargo run -p persona-operator -- crds --dir charts/persona-operator/files/crds"
        );
    }
    Ok(())
}

#[tokio::test]
async fn lint_finds_nothing_in_any_of_the_values_files() -> Result<()> {
    let chart = folder();
    for name in VALUES {
        let values = values(name);
        let (chart, values) = (chart.to_string_lossy(), values.to_string_lossy());
        let args = ["lint", "--strict", "--quiet", "-f", &values, &chart];
        let said = run(Cluster::shared().await?.helm().await?, &args).await?;
        assert!(
            !said.contains("[WARNING]") && !said.contains("[ERROR]"),
            "{name}: {said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn server_takes_all_that_is_rendered_strictly_and_without_a_warning() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace("render").await?;
    // Whatever is not "restricted" makes the server warn.
    let restricted = "pod-security.kubernetes.io/warn=restricted";
    run(
        cluster.kubectl().await?,
        &["label", "namespace", &namespace, restricted],
    )
    .await?;
    let folder = tempfile::tempdir()?;
    for name in VALUES {
        let file = values(name);
        let rendered = template(&namespace, &["-f", &file.to_string_lossy()]).await?;
        // The cluster does not know the kinds of the Prometheus operator.
        let known = documents(&rendered)?
            .into_iter()
            .filter(|d| d["kind"] != "PodMonitor");
        let known: Vec<String> = known.map(|d| d.to_string()).collect();
        assert!(known.len() > 10, "{name}: {} objects", known.len());
        let file = folder.path().join("all.yaml");
        fs::write(&file, known.join("\n---\n"))?;
        let file = file.to_string_lossy();
        let args = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &file,
        ];
        let output = try_kubectl(&args).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn defaults_render_as_reviewed() -> Result<()> {
    let rendered = template("persona-system", &[]).await?;
    let mut shown = Vec::new();
    for mut document in documents(&rendered)? {
        match document["kind"].as_str() {
            Some("CustomResourceDefinition") => continue,
            // Random each time.
            Some("Secret") => {
                for value in document["data"].as_object_mut().into_iter().flatten() {
                    *value.1 = "(random)".into();
                }
            }
            _ => {}
        }
        // The same on all of them.
        if let Some(metadata) = document["metadata"].as_object_mut() {
            metadata.remove("labels");
        }
        shown.push(serde_norway::to_string(&document)?);
    }
    assert!(
        !shown.iter().any(|d| d.contains("'*'") || d.contains("- *")),
        "a wildcard in a role"
    );
    with_settings!({omit_expression => true}, {
        assert_snapshot!("defaults", shown.join("---\n"));
    });
    Ok(())
}

#[tokio::test]
async fn definitions_are_kept_when_the_release_goes() -> Result<()> {
    let rendered = documents(&template("persona-system", &[]).await?)?;
    let definitions: Vec<_> = rendered
        .iter()
        .filter(|d| d["kind"] == "CustomResourceDefinition")
        .collect();
    assert_eq!(definitions.len(), 3);
    for definition in definitions {
        assert_eq!(
            definition["metadata"]["annotations"]["helm.sh/resource-policy"],
            "keep"
        );
    }
    let without = template("persona-system", &["--set", "crds.enabled=false"]).await?;
    assert!(!without.contains("CustomResourceDefinition"));
    Ok(())
}

#[tokio::test]
async fn one_namespace_needs_nothing_of_the_cluster() -> Result<()> {
    let file = values("one-namespace");
    let rendered = documents(&template("persona-system", &["-f", &file.to_string_lossy()]).await?)?;
    for document in &rendered {
        let kind = document["kind"].as_str().unwrap_or_default();
        assert!(
            !kind.starts_with("Cluster") && document["metadata"]["namespace"].is_string(),
            "{kind}"
        );
    }
    let role = rendered
        .iter()
        .find(|d| d["kind"] == "Role" && d["metadata"]["name"] == "persona-operator-controller");
    assert_eq!(
        role.map(|r| &r["metadata"]["namespace"]),
        Some(&Value::from("default"))
    );
    Ok(())
}

#[tokio::test]
async fn pod_monitors_find_controller_gateway_and_workers() -> Result<()> {
    let args = [
        "--set",
        "metrics.podMonitor.enabled=true",
        "-s",
        "templates/podmonitor.yaml",
    ];
    let monitors = template("persona-system", &args).await?;
    with_settings!({omit_expression => true}, {
        assert_snapshot!("podmonitors", monitors);
    });
    Ok(())
}

#[derive(Deserialize)]
struct BadValue {
    set: String,
    answer: String,
}

#[tokio::test]
async fn bad_values_are_refused_with_what_is_wrong() -> Result<()> {
    let table: Vec<BadValue> = serde_norway::from_str(include_str!("bad_values.yaml"))?;
    let mut wrong = Vec::new();
    for BadValue { set, answer } in table {
        match template("persona-system", &["--set", &set]).await {
            Ok(_) => wrong.push(format!("{set}: taken")),
            Err(said) if format!("{said:#}").contains(&answer) => {}
            Err(said) => wrong.push(format!("{set}: wants {answer:?}, got {said:#}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
