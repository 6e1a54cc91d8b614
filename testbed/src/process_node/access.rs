//! How the processes of pods reach the API server.
//!
//! In a container, client libraries find it by KUBERNETES_SERVICE_HOST and the files under
//! /var/run/secrets/kubernetes.io/serviceaccount. That folder cannot be moved by an environment
//! variable, but KUBECONFIG comes first in kube-rs' `Config::infer`: so a container that mounts its
//! token there gets KUBECONFIG, the path of a file that names the server and the token's file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as Request, TokenRequestSpec,
};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::volumes::TokenRequest;

/// Where Kubernetes mounts a pod's token by itself.
pub const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const RETRY: Duration = Duration::from_secs(1);

/// The cluster of a kubeconfig, for others than its user.
#[derive(Debug, Clone)]
pub struct ApiAccess {
    cluster: serde_json::Value,
    host: String,
    port: u16,
}

impl ApiAccess {
    /// Reads `kubeconfig`: the node's own access, and what its pods may know of it.
    ///
    /// # Errors
    /// The file cannot be read, or its current context is not complete.
    pub async fn read(kubeconfig: &Path) -> Result<(Self, Config)> {
        let file = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("cannot read {}", kubeconfig.display()))?;
        let current = file.current_context.as_deref();
        let context = file.contexts.iter().find(|c| Some(&*c.name) == current);
        let context = context.and_then(|c| c.context.as_ref());
        let cluster = context.map(|c| &c.cluster).and_then(|name| {
            let entry = file.clusters.iter().find(|c| c.name == *name)?;
            entry.cluster.as_ref()
        });
        let cluster =
            serde_json::to_value(cluster.context("its current context names no cluster")?)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        let url = &config.cluster_url;
        let access = Self {
            cluster,
            host: url
                .host()
                .context("the server's URL has no host")?
                .to_owned(),
            port: url.port_u16().unwrap_or(443),
        };
        Ok((access, config))
    }

    /// What the kubelet sets for the `kubernetes` Service; here the server itself.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("KUBERNETES_SERVICE_HOST", self.host.clone()),
            ("KUBERNETES_SERVICE_PORT", self.port.to_string()),
        ]
    }

    /// A kubeconfig (JSON) for who holds the token in `token_file`, which is read again when it changes.
    pub fn kubeconfig(&self, token_file: &Path, namespace: &str) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": self.cluster}],
            "users": [{"name": "pod", "user": {"tokenFile": token_file}}],
            "contexts": [{"name": "pod", "context": {"cluster": "cluster", "user": "pod", "namespace": namespace}}],
            "current-context": "pod",
        });
        config.to_string()
    }
}

/// The tokens of one pod, each renewed when 80 % of its life are over, as the kubelet does.
#[derive(Debug, Default)]
pub struct Tokens(BTreeMap<TokenRequest, Token>);

#[derive(Debug)]
struct Token {
    value: watch::Receiver<Option<String>>,
    keeper: AbortHandle,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Tokens {
    /// Asks for each of `requests`, and again in time, until dropped.
    pub fn keep(
        client: &Client,
        pod: &Pod,
        requests: impl IntoIterator<Item = TokenRequest>,
    ) -> Self {
        let tokens = requests.into_iter().map(|request| {
            let (sender, value) = watch::channel(None);
            let keeper = tokio::spawn(keep(client.clone(), pod.clone(), request.clone(), sender));
            let keeper = keeper.abort_handle();
            (request, Token { value, keeper })
        });
        Self(tokens.collect())
    }

    /// Those that are there.
    pub fn values(&self) -> BTreeMap<TokenRequest, String> {
        let tokens = self.0.iter();
        tokens
            .filter_map(|(request, token)| Some((request.clone(), token.value.borrow().clone()?)))
            .collect()
    }

    /// Waits until one of them is there or is another.
    pub async fn changed(&mut self) {
        let changes = self.0.values_mut().map(|t| Box::pin(t.value.changed()));
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        let (result, _, _) = futures::future::select_all(changes).await;
        if result.is_err() {
            std::future::pending().await
        }
    }
}

async fn keep(
    client: Client,
    pod: Pod,
    request: TokenRequest,
    sender: watch::Sender<Option<String>>,
) {
    loop {
        match fetch(&client, &pod, &request).await {
            Ok((token, expires)) => {
                sender.send_replace(Some(token));
                let life = expires.duration_since(Timestamp::now());
                let life = Duration::try_from(life).unwrap_or_default();
                sleep(life.mul_f64(0.8).max(RETRY)).await;
            }
            Err(error) => {
                tracing::warn!("service account token: {error:#}");
                sleep(RETRY).await;
            }
        }
    }
}

async fn fetch(client: &Client, pod: &Pod, request: &TokenRequest) -> Result<(String, Timestamp)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.as_deref());
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let spec = TokenRequestSpec {
        audiences: request.audience.clone().map(|audience| vec![audience]),
        expiration_seconds: Some(request.seconds),
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
    };
    let body = Request {
        spec: Some(spec),
        ..Request::default()
    };
    let name = account.unwrap_or("default");
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &body)
        .await;
    let status = answer?.status.unwrap_or_default();
    let token = status.token.context("the server gave no token")?;
    let expires = status.expiration_timestamp.map_or(Timestamp::MAX, |t| t.0);
    Ok((token, expires))
}
