//! A validating webhook that refuses all pods of one namespace, or the deletion of one pool, as policy
//! engines do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::certs::{Authority, Identity};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::harness::PATIENCE;

/// Between two questions whether it is in force.
const LOOK: Duration = Duration::from_millis(50);

/// The webhook, and its registration with the API server.
pub struct Webhook {
    /// Requests that were refused, but for dry runs.
    refused: Arc<AtomicUsize>,
    server: JoinHandle<()>,
    configurations: Api<ValidatingWebhookConfiguration>,
    name: String,
    _files: TempDir,
}

impl Webhook {
    /// Refuses all pods of `namespace` from now on, with these words.
    pub async fn refuse(client: &Client, namespace: &str, words: &'static str) -> Result<Self> {
        let pods = json!({
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
        });
        let webhook = Self::start(client, namespace, words, pods, "true").await?;
        let waiting = in_force(client, namespace, words);
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.context("the webhook is not asked")??;
        Ok(webhook)
    }

    /// Refuses to delete this pool of `namespace` from now on, with these words.
    pub async fn protect(
        client: &Client,
        (namespace, pool): (&str, &str),
        words: &'static str,
    ) -> Result<Self> {
        let pools = json!({
            "apiGroups": ["persona.dev"], "apiVersions": ["*"], "resources": ["workerpools"],
            "operations": ["DELETE"],
        });
        let this = format!("request.name == '{pool}'");
        Self::start(client, namespace, words, pools, &this).await
    }

    async fn start(
        client: &Client,
        namespace: &str,
        words: &'static str,
        rule: Value,
        condition: &str,
    ) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let authority = Authority::create(files.path())?;
        let identity = authority.server("webhook", "webhook", &["127.0.0.1".to_owned()])?;
        let acceptor = acceptor(&identity)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}/", listener.local_addr()?);
        let refused = Arc::new(AtomicUsize::default());
        let count = refused.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), count.clone());
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        // A caller that gives up is no failure of the webhook.
                        refuse(&mut stream, words, &count).await.ok();
                    }
                });
            }
        });
        let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
        let name = format!("refuses.{namespace}");
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "refuses.persona.test",
                "clientConfig": {"url": url, "caBundle": k8s_openapi::ByteString(
                    authority.ca().cert_pem.clone().into_bytes())},
                "rules": [rule],
                "matchConditions": [{"name": "these", "expression": condition}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }],
        });
        let configuration = serde_json::from_value(configuration)?;
        configurations
            .create(&PostParams::default(), &configuration)
            .await?;
        Ok(Self {
            refused,
            server,
            configurations,
            name,
            _files: files,
        })
    }

    /// Requests that were refused, but for dry runs.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Refuses no more.
    pub async fn remove(self) -> Result<()> {
        let params = DeleteParams::default();
        self.configurations.delete(&self.name, &params).await?;
        Ok(())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Waits until pods of `namespace` are refused: the API server hears of a webhook some time after it was
/// registered.
async fn in_force(client: &Client, namespace: &str, words: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "refused"},
        "spec": {"containers": [{"name": "none", "image": "none"}]},
    }))?;
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    loop {
        match pods.create(&params, &pod).await {
            Err(kube::Error::Api(status)) if status.message.contains(words) => return Ok(()),
            // Or refused by somebody else, like in a namespace that has no ServiceAccount yet.
            Ok(_) | Err(kube::Error::Api(_)) => tokio::time::sleep(LOOK).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Serves TLS with a certificate.
pub fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Answers the requests of one connection.
async fn refuse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    words: &str,
    count: &AtomicUsize,
) -> Result<()> {
    let mut bytes = Vec::new();
    loop {
        let head_end = loop {
            if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.context("no content-length")?.parse()?;
        while bytes.len() < head_end + length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let review: Value = serde_json::from_slice(&bytes[head_end..head_end + length])?;
        bytes.drain(..head_end + length);
        if review["request"]["dryRun"] != true {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let answer = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {
                "uid": review["request"]["uid"],
                "allowed": false,
                "status": {"code": 403, "message": words},
            },
        });
        let body = answer.to_string();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes()).await?;
    }
}
