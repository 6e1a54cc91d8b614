//! `cargo testbed status`

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use testbed::kwok::NODE_KIND;
use testbed::probe::Probe;
use testbed::process::is_alive;
use testbed::registry::{self, Entry};
use testbed::stack::Facts;
use testbed::{MODEL_NAME, kubeconfig};

use super::output;

/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub struct Status {
    /// Only this one; fails when it is not up.
    #[arg(long)]
    name: Option<String>,
}

impl Status {
    pub async fn run(&self) -> Result<()> {
        let mut entries = registry::list()?;
        if let Some(name) = &self.name {
            entries.retain(|entry| entry.name == *name);
        }
        if entries.is_empty() && self.name.is_none() {
            return output::print("no testbed is running; start one: cargo testbed up\n");
        }
        let mut texts = Vec::new();
        for entry in &entries {
            texts.push(describe(entry).await);
        }
        output::print(&texts.join("\n"))?;
        match &self.name {
            Some(name) if !entries.iter().any(is_up) => bail!("testbed {name:?} is not up"),
            _ => Ok(()),
        }
    }
}

fn is_up(entry: &Entry) -> bool {
    entry.is_running() && entry.record.facts.is_some()
}

async fn describe(entry: &Entry) -> String {
    let name = &entry.name;
    let (age, pid) = (output::age(entry.age()), entry.record.pid);
    let logs = ("logs", entry.logs().display().to_string());
    if !entry.is_running() {
        let how = format!("`cargo testbed down --name {name}` removes what is left");
        return block(
            &format!("{name}: not running, it was killed; {how}"),
            &[logs],
        );
    }
    let Some(facts) = &entry.record.facts else {
        return block(&format!("{name}: coming up for {age}, pid {pid}"), &[logs]);
    };
    let mut rows = vec![
        ("API server", server(facts).await),
        ("nodes", said(nodes(facts).await)),
        ("Redis", answers(&facts.redis, redis(&facts.redis).await)),
    ];
    if let Some(model) = &facts.model {
        let probe = Probe::Http(format!("{model}/models"));
        let answer = answers(model, probe.check().await);
        rows.push(("model", format!("{answer} ({MODEL_NAME})")));
    }
    rows.push(("processes", processes(facts)));
    rows.push(("kubeconfig", facts.kubeconfig.display().to_string()));
    rows.push(logs);
    block(&format!("{name}: up for {age}, pid {pid}"), &rows)
}

fn block(title: &str, rows: &[(&str, String)]) -> String {
    let rows = rows
        .iter()
        .map(|(name, value)| format!("  {name:<12}{value}\n"));
    format!("{title}\n{}", rows.collect::<String>())
}

fn said(result: Result<String>) -> String {
    result.unwrap_or_else(|error| format!("unknown: {error:#}"))
}

fn answers(address: &str, result: Result<()>) -> String {
    match result {
        Ok(()) => format!("{address} answers"),
        Err(error) => format!("{address} does not answer: {error:#}"),
    }
}

async fn server(facts: &Facts) -> String {
    let version = async {
        let client = kubeconfig::client(&facts.kubeconfig).await?;
        anyhow::Ok(client.apiserver_version().await?.git_version)
    };
    match in_time(version).await {
        Ok(version) => format!("{} answers, {version}", facts.api_server),
        Err(error) => format!("{} does not answer: {error:#}", facts.api_server),
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.with_context(|| format!("nothing came within {PATIENCE:?}"))?
}

/// Where the Redis of `url` listens.
async fn redis(url: &str) -> Result<()> {
    let address = url
        .rsplit_once('@')
        .map(|(_, rest)| rest.trim_end_matches('/'));
    let address = address.context("no address in it")?.parse()?;
    Probe::Redis(address).check().await
}

/// `real Ready, 5 fake (4 Ready)`
async fn nodes(facts: &Facts) -> Result<String> {
    let list = in_time(async {
        let client = kubeconfig::client(&facts.kubeconfig).await?;
        Ok(Api::<Node>::all(client)
            .list(&ListParams::default())
            .await?)
    });
    let mut kinds = BTreeMap::<String, Vec<bool>>::new();
    for node in list.await?.items {
        let labels = node.metadata.labels.as_ref();
        let kind = labels.and_then(|labels| labels.get(NODE_KIND));
        let kind = kind.map_or("other", String::as_str).to_owned();
        kinds.entry(kind).or_default().push(is_ready(&node));
    }
    Ok(summary(&kinds))
}

fn summary(kinds: &BTreeMap<String, Vec<bool>>) -> String {
    if kinds.is_empty() {
        return "none".to_owned();
    }
    let group = |(kind, ready): (&String, &Vec<bool>)| match (
        ready.len(),
        ready.iter().filter(|ready| **ready).count(),
    ) {
        (1, 1) => format!("{kind} Ready"),
        (1, _) => format!("{kind} not Ready"),
        (all, up) if all == up => format!("{all} {kind} Ready"),
        (all, up) => format!("{all} {kind} ({up} Ready)"),
    };
    kinds.iter().map(group).collect::<Vec<_>>().join(", ")
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// `9 run`, or which do not.
fn processes(facts: &Facts) -> String {
    let (alive, dead): (Vec<_>, Vec<_>) =
        facts.processes.iter().partition(|(_, pid)| is_alive(*pid));
    let dead: Vec<&str> = dead.into_iter().map(|(name, _)| name.as_str()).collect();
    if dead.is_empty() {
        format!("{} run", alive.len())
    } else {
        format!("{} run, ended: {}", alive.len(), dead.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_by_kind_and_those_not_ready_are_seen() {
        let kinds = [("fake", vec![true, false, true]), ("process", vec![true])];
        let kinds = kinds.map(|(kind, ready)| (kind.to_owned(), ready)).into();
        assert_eq!(summary(&kinds), "3 fake (2 Ready), process Ready");
        assert_eq!(summary(&BTreeMap::new()), "none");
    }
}
