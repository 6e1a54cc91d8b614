//! One GET for JSON, with limits.

use std::time::Duration;

use reqwest::redirect::Policy;
use serde_json::Value;

use super::credentials::Credentials;

/// How long an answer may take, connecting included.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of an answer.
const LARGEST: usize = 1 << 20;

/// Asks servers of metrics.
pub struct Client(reqwest::Client);

impl Client {
    /// Prepares it.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        Ok(Self(builder().build()?))
    }

    /// The JSON at `address`/`path`?`query`; each part of the path is escaped.
    ///
    /// # Errors
    /// A few words for a condition's message.
    pub async fn get(
        &self,
        credentials: &Credentials,
        address: &str,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Value, String> {
        let mut url = reqwest::Url::parse(address)
            .map_err(|error| format!("{address} is no URL ({error})"))?;
        url.path_segments_mut()
            .map_err(|()| format!("{address} is no URL of a server"))?
            .pop_if_empty()
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let own;
        let client = match credentials.authority(address)? {
            Some(client) => {
                own = client;
                &own
            }
            None => &self.0,
        };
        let request = credentials.sign(address, client.get(url));
        let mut answer = request
            .send()
            .await
            .map_err(|error| format!("{address} cannot be reached: {}", root_cause(&error)))?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(bytes) = answer
            .chunk()
            .await
            .map_err(|error| format!("{address} broke off: {}", root_cause(&error)))?
        {
            body.extend_from_slice(&bytes);
            if body.len() > LARGEST {
                return Err(format!("{address} answers with more than 1 MiB"));
            }
        }
        match serde_json::from_slice(&body) {
            // Prometheus explains a bad query in the body of a 400.
            Ok(json) if status.is_success() || status == 400 => Ok(json),
            Ok(_) | Err(_) if !status.is_success() => Err(format!("{address} answered {status}")),
            Ok(json) => Ok(json),
            Err(error) => Err(format!("{address} answers with no JSON ({error})")),
        }
    }
}

/// What all clients for servers of metrics have in common.
pub fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .timeout(PATIENCE)
        // A redirect would take the credential elsewhere.
        .redirect(Policy::none())
        .user_agent(concat!("persona-operator/", env!("CARGO_PKG_VERSION")))
}

/// The innermost error: reqwest's own words name the URL, which the message has already.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
