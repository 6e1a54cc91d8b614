//! What clients of the gateway ask, and what Prometheus reads.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbed::Chat;

use super::{API_KEY, Operator, merge};

impl Operator {
    /// A client of the gateway.
    pub fn chat(&self) -> Result<Chat> {
        Chat::new(&self.url(""), API_KEY)
    }

    /// Asks a persona; the answer as it comes back.
    pub async fn ask(&self, persona: &str, more: Value) -> Result<reqwest::Response> {
        let mut body = json!({
            "model": format!("{}/{persona}", self.namespace),
            "messages": [{"role": "user", "content": "Hello"}],
        });
        merge(&mut body, more);
        let request = self.http.post(self.url("/v1/chat/completions"));
        Ok(request.bearer_auth(API_KEY).json(&body).send().await?)
    }

    /// The text of a whole answer.
    pub async fn answer(&self, persona: &str) -> Result<String> {
        let response = self.ask(persona, json!({})).await?;
        let status = response.status();
        let body: Value = response.json().await?;
        let text = body["choices"][0]["message"]["content"].as_str();
        text.map(str::to_owned)
            .with_context(|| format!("{status}: {body}"))
    }

    /// A metric of the controller, with its labels, like `persona_pool_workers{…}`.
    pub async fn metric(&self, series: &str) -> Result<Option<f64>> {
        self.metric_at(self.controller_port.number(), series).await
    }

    /// A metric of the process that serves at this port.
    pub async fn metric_at(&self, port: u16, series: &str) -> Result<Option<f64>> {
        let url = format!("http://127.0.0.1:{port}/metrics");
        let text = self.http.get(url).send().await?.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        Ok(line.map(str::trim).map(str::parse).transpose()?)
    }
}
