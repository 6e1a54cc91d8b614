//! The CustomResourceDefinitions themselves.

use std::fs;

use anyhow::Result;
use persona_operator::api;
use serde_json::Value;

use crate::cluster::{root, with_crds};

const MOST: usize = 200 * 1024;

#[test]
fn files_in_crds_are_those_the_types_make() -> Result<()> {
    for (name, text) in api::crd_files()? {
        let file = root().join("crds").join(&name);
        assert!(
            fs::read_to_string(file).is_ok_and(|there| there == text),
            "crds/{name} is stale: run cargo run -p persona-operator -- crds --dir crds"
        );
    }
    Ok(())
}

#[test]
fn definitions_are_small_enough_for_client_side_apply() -> Result<()> {
    for (name, text) in api::crd_files()? {
        assert!(text.len() < MOST, "{name} has {} bytes", text.len());
    }
    Ok(())
}

#[test]
fn every_text_list_and_map_is_bounded_and_nothing_is_nullable() {
    let mut open = Vec::new();
    for crd in api::crds() {
        let kind = crd["spec"]["names"]["kind"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        unbounded(&kind, schema, &mut open);
    }
    assert!(open.is_empty(), "{}", open.join("\n"));
}

fn unbounded(path: &str, schema: &Value, open: &mut Vec<String>) {
    let has = |key: &str| schema.get(key).is_some();
    let complaint = match schema["type"].as_str() {
        Some("string") if !(has("maxLength") || has("enum") || has("format")) => Some("maxLength"),
        Some("array") if !has("maxItems") => Some("maxItems"),
        Some("object") if has("additionalProperties") && !has("maxProperties") => {
            Some("maxProperties")
        }
        None if !has("x-kubernetes-int-or-string") => Some("a type"),
        _ => None,
    };
    open.extend(complaint.map(|missing| format!("{path} has no {missing}")));
    if has("nullable") {
        open.push(format!("{path} is nullable"));
    }
    if schema["format"]
        .as_str()
        .is_some_and(|f| !["int32", "int64", "date-time"].contains(&f))
    {
        open.push(format!("{path} has format {}", schema["format"]));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        unbounded(&format!("{path}.{name}"), property, open);
    }
    for below in ["items", "additionalProperties"] {
        if has(below) {
            unbounded(&format!("{path}[]"), &schema[below], open);
        }
    }
}

#[test]
fn every_field_of_ours_is_explained() {
    let mut silent = Vec::new();
    for crd in api::crds() {
        let kind = crd["spec"]["names"]["kind"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        undescribed(&kind, schema, &mut silent);
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

fn undescribed(path: &str, schema: &Value, silent: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match property["description"].as_str() {
            None => silent.push(path),
            // Kubernetes' own types below are explained by `kubectl explain pod.spec`.
            Some(words) if words.starts_with("As in a") => {}
            Some(_) => {
                undescribed(&path, property, silent);
                undescribed(&path, &property["items"], silent);
                undescribed(&path, &property["additionalProperties"], silent);
            }
        }
    }
}

#[tokio::test]
async fn plain_kubectl_apply_of_the_folder_installs_them_without_a_warning() -> Result<()> {
    with_crds().await.map(|_| ())
}
