//! One GET for JSON, with limits.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::redirect::Policy;
use rustls::CertificateError;
use serde_json::Value;

use super::credentials::Credentials;

/// How long an answer may take, connecting included.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of an answer.
const LARGEST: usize = 1 << 20;

/// Where the operator's owner says how a server is to be asked.
const CREDENTIAL: &str = "the operator's credential for this address \
    (chart: controller.metricCredentialsSecret, else PERSONA_METRIC_CREDENTIALS_DIR)";

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
        let mut answer = request.send().await.map_err(|error| {
            let cause = root_cause(&error);
            let advice = untrusted(&error).unwrap_or_default();
            format!("{address} cannot be reached: {cause}{advice}")
        })?;
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
            Ok(_) | Err(_) if !status.is_success() => {
                let advice = unauthorized(status).unwrap_or_default();
                Err(format!("{address} answered {status}{advice}"))
            }
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

/// What to do about a certificate that nobody known has signed.
fn untrusted(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An authority that has the right name and another key is told BadSignature.
        if let Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) = error.downcast_ref()
        {
            return Some(format!(": set caCertificate in {CREDENTIAL}"));
        }
        // An I/O error passes its own content over as a source.
        cause = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// What to do about a refusal.
fn unauthorized(status: StatusCode) -> Option<String> {
    let is_refusal = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    is_refusal.then(|| {
        format!(": set bearerToken, or username and password, that it accepts in {CREDENTIAL}")
    })
}

/// The innermost error: reqwest's own words name the URL, which the message has already.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
