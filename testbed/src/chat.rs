//! Asks personas as any OpenAI client does.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// A client of a gateway. One a runtime: its connections do not outlive that.
#[derive(Debug, Clone)]
pub struct Chat {
    url: String,
    key: String,
    http: reqwest::Client,
}

impl Chat {
    /// `url` is the gateway's, without a slash at the end.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(url: &str, key: &str) -> Result<Self> {
        crate::install_crypto();
        Ok(Self {
            url: format!("{url}/v1/chat/completions"),
            key: key.to_owned(),
            http: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    /// Asks `persona`, which is `namespace/name`; `more` is merged into the request's body.
    ///
    /// # Errors
    /// The gateway cannot be reached. Its refusals are answers.
    pub async fn ask(&self, persona: &str, text: &str, more: Value) -> Result<reqwest::Response> {
        let mut body = json!({
            "model": persona,
            "messages": [{"role": "user", "content": text}],
        });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let request = self.http.post(&self.url).bearer_auth(&self.key);
        request
            .json(&body)
            .send()
            .await
            .context("the gateway cannot be reached")
    }

    /// The text of a whole answer.
    ///
    /// # Errors
    /// The gateway cannot be reached, or refuses; what it said.
    pub async fn answer(&self, persona: &str, text: &str) -> Result<String> {
        let response = self.ask(persona, text, json!({})).await?;
        let status = response.status();
        let body: Value = response.json().await?;
        let answer = body["choices"][0]["message"]["content"].as_str();
        let answer = answer.with_context(|| format!("{persona} answered {status}: {body}"))?;
        Ok(answer.to_owned())
    }

    /// The text of a streamed answer; each piece goes to `piece` as it comes.
    ///
    /// # Errors
    /// The gateway refuses, or the stream ends in an error or without its end.
    pub async fn stream(
        &self,
        persona: &str,
        text: &str,
        mut piece: impl FnMut(&str),
    ) -> Result<String> {
        let mut response = self.ask(persona, text, json!({"stream": true})).await?;
        let status = response.status();
        if !status.is_success() {
            bail!("{persona} answered {status}: {}", response.text().await?);
        }
        let (mut bytes, mut answer, mut ended) = (Vec::new(), String::new(), false);
        while let Some(more) = response.chunk().await? {
            bytes.extend_from_slice(&more);
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = bytes.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let Some(data) = line.trim_end().strip_prefix("data: ") else {
                    continue;
                };
                if data == "[DONE]" {
                    ended = true;
                    continue;
                }
                let event: Value =
                    serde_json::from_str(data).context("an event that is no JSON")?;
                ensure!(event.get("error").is_none(), "the stream ended in {event}");
                let delta = event["choices"][0]["delta"]["content"].as_str();
                if let Some(text) = delta.filter(|text| !text.is_empty()) {
                    piece(text);
                    answer.push_str(text);
                }
            }
        }
        ensure!(ended, "the stream broke off after {answer:?}");
        Ok(answer)
    }
}
