//! What the operator costs: CPU of a process, requests to the API server.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use kube::Client;

/// Ticks of a CPU a second, in /proc.
const TICKS: f64 = 100.0;
/// What the operator reads and writes; its lease is left out.
const OURS: [&str; 7] = [
    "workerpools",
    "personas",
    "personatopologies",
    "pods",
    "poddisruptionbudgets",
    "events",
    "secrets",
];

/// Seconds of CPU that a process has had.
pub fn cpu(pid: i32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may have spaces; numbers begin behind it.
    let numbers = stat.rsplit_once(')').context("no name")?.1;
    let fields: Vec<&str> = numbers.split_whitespace().collect();
    let ticks = |place: usize| -> Result<f64> {
        let ticks = fields.get(place).context("no ticks")?;
        Ok(ticks.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Requests so far as the API server counts them, by verb and resource (`POST pods`, `POST
/// pods/binding`), of everybody.
pub async fn requests(client: &Client) -> Result<BTreeMap<String, f64>> {
    let request = axum::http::Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await?;
    let mut requests = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("apiserver_request_total{") else {
            continue;
        };
        let (labels, value) = rest.rsplit_once('}').context("no value")?;
        let label = |name: &str| {
            let parts = labels.split(',');
            let mut values = parts.filter_map(|part| part.strip_prefix(name)?.strip_prefix("=\""));
            values.next().map(|value| value.trim_end_matches('"'))
        };
        let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else {
            continue;
        };
        if OURS.contains(&resource) {
            let what = match label("subresource") {
                None | Some("") => format!("{verb} {resource}"),
                Some(part) => format!("{verb} {resource}/{part}"),
            };
            let value: f64 = value.trim().parse()?;
            *requests.entry(what).or_default() += value;
        }
    }
    Ok(requests)
}
