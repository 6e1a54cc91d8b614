//! As whom servers of metrics are asked: files that the operator's owner mounts, each for one address.
//!
//! A file is YAML: `address`, and any of `bearerToken`, `username` with `password`, `caCertificate`
//! (PEM). It is read again at each round, so that rotation needs no restart.

use std::fs;
use std::path::Path;

use reqwest::RequestBuilder;
use serde::Deserialize;

use super::http::builder;

/// All credentials there are.
#[derive(Default)]
pub struct Credentials(Vec<Credential>);

/// One of them. It does not print itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Credential {
    address: String,
    #[serde(default)]
    bearer_token: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    ca_certificate: Option<String>,
}

impl Credentials {
    /// Reads the folder; what cannot be read is told and left out.
    pub fn read(folder: &Path) -> Self {
        let Ok(entries) = fs::read_dir(folder) else {
            return Self::default();
        };
        let mut credentials = Vec::new();
        for entry in entries.flatten() {
            // The kubelet's own links and dated folders.
            if entry.file_name().to_string_lossy().starts_with("..") {
                continue;
            }
            let file = entry.path();
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            match serde_norway::from_str(&text) {
                Ok(credential) => credentials.push(credential),
                // Without the parser's words, which may quote the secret.
                Err(_) => tracing::warn!(
                    file = %file.display(),
                    "is no credential: it needs address, and bearerToken, username and password, or caCertificate"
                ),
            }
        }
        Self(credentials)
    }

    /// A client that trusts the address's own authority, if it has one.
    ///
    /// # Errors
    /// Its certificate is none.
    pub fn authority(&self, address: &str) -> Result<Option<reqwest::Client>, String> {
        let Some(pem) = self.of(address).and_then(|c| c.ca_certificate.as_ref()) else {
            return Ok(None);
        };
        let unusable = |_| format!("the caCertificate for {address} is no PEM certificate");
        let certificate = reqwest::Certificate::from_pem(pem.as_bytes()).map_err(unusable)?;
        builder()
            .tls_certs_merge([certificate])
            .build()
            .map(Some)
            .map_err(unusable)
    }

    /// Adds what authorizes a request to the address.
    pub fn sign(&self, address: &str, request: RequestBuilder) -> RequestBuilder {
        let Some(credential) = self.of(address) else {
            return request;
        };
        if let Some(token) = &credential.bearer_token {
            return request.bearer_auth(token.trim());
        }
        match &credential.username {
            Some(username) => request.basic_auth(username, credential.password.as_deref()),
            None => request,
        }
    }

    fn of(&self, address: &str) -> Option<&Credential> {
        let same = |a: &str| a.trim_end_matches('/') == address.trim_end_matches('/');
        self.0.iter().find(|credential| same(&credential.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_goes_to_its_address_only() {
        testbed::install_crypto();
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("a file");
        };
        file("one", "address: http://p:9090\nbearerToken: abc\n");
        file(
            "two",
            "address: http://r:15672/\nusername: u\npassword: w\n",
        );
        file("broken", "bearerToken: [secret");
        let credentials = Credentials::read(folder.path());
        let client = reqwest::Client::new();
        let header = |address: &str| {
            let request = credentials.sign(address, client.get(address));
            let request = request.build().expect("a request");
            let value = request.headers().get("authorization").cloned();
            value.map(|value| value.to_str().expect("text").to_owned())
        };
        assert_eq!(header("http://p:9090").as_deref(), Some("Bearer abc"));
        assert_eq!(header("http://r:15672").as_deref(), Some("Basic dTp3"));
        for other in [
            "http://p:9091",
            "http://evil/http://p:9090",
            "https://p:9090",
        ] {
            assert_eq!(header(other), None, "{other}");
        }
    }
}
