//! What the accounts of the chart may ask of the API server, and what they may not.

use anyhow::{Context, Result};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use serde::Deserialize;
use testbed::Cluster;

use crate::chart::{NAME, installed};

/// Verbs on a resource, written `group/resource/subresource:name` with what is empty left out.
#[derive(Deserialize)]
struct Line {
    verbs: Vec<String>,
    on: Vec<String>,
    /// Where; `system` is the release's own namespace, the default some other.
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct Table {
    may: Vec<Line>,
    may_not: Vec<Line>,
}

fn attributes(verb: &str, on: &str, namespace: Option<&str>, system: &str) -> ResourceAttributes {
    let (path, name) = on
        .split_once(':')
        .map_or((on, None), |(path, name)| (path, Some(name)));
    let (group, resource) = path.split_once("//").unwrap_or(("", path));
    let (resource, subresource) = resource
        .split_once('/')
        .map_or((resource, None), |(r, s)| (r, Some(s)));
    ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: subresource.map(str::to_owned),
        name: name.map(str::to_owned),
        namespace: match namespace {
            Some("system") => Some(system.to_owned()),
            Some("cluster") => None,
            Some(other) => Some(other.to_owned()),
            None => Some("default".to_owned()),
        },
        ..ResourceAttributes::default()
    }
}

/// The lines of the table that are not as they should be.
async fn differences(account: &str, table: &Table) -> Result<Vec<String>> {
    let system = installed().await?;
    let client = Cluster::shared().await?.client().await?;
    let reviews: Api<SubjectAccessReview> = Api::all(client);
    let lines = table.may.iter().map(|line| (line, true));
    let lines = lines.chain(table.may_not.iter().map(|line| (line, false)));
    let mut wrong = Vec::new();
    for (line, expected) in lines {
        for (verb, on) in line
            .verbs
            .iter()
            .flat_map(|verb| line.on.iter().map(move |on| (verb, on)))
        {
            let asked = attributes(verb, on, line.namespace.as_deref(), system);
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: Some(format!("system:serviceaccount:{system}:{NAME}-{account}")),
                    groups: Some(vec![
                        "system:serviceaccounts".into(),
                        "system:authenticated".into(),
                    ]),
                    resource_attributes: Some(asked),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            let review = reviews.create(&PostParams::default(), &review).await?;
            let allowed = review.status.context("a review without an answer")?.allowed;
            if allowed != expected {
                wrong.push(format!(
                    "{account} {} {verb} {on} in {:?}",
                    if allowed { "may" } else { "may not" },
                    line.namespace
                ));
            }
        }
    }
    Ok(wrong)
}

#[tokio::test]
async fn controller_may_do_what_it_does_and_no_more() -> Result<()> {
    let table: Table = serde_norway::from_str(include_str!("rights_controller.yaml"))?;
    let wrong = differences("controller", &table).await?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn gateway_may_do_nothing() -> Result<()> {
    let table: Table = serde_norway::from_str(include_str!("rights_gateway.yaml"))?;
    let wrong = differences("gateway", &table).await?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
