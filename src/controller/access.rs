//! The queue's users, and the one Secret a namespace that workers reach the queue with.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use super::{Context, Error};
use crate::api::names::{LABEL_MANAGED_BY, MANAGER, QUEUE_ACCESS_SECRET};
use crate::lock::lock;
use crate::queue::access::{MasterKey, namespace_user};

/// Version of the passwords that workers get.
const VERSION: u32 = 1;
/// How often a Secret is written again, in case somebody changed it: it cannot be read.
const AGAIN: Duration = Duration::from_secs(600);

/// Which namespaces have their user and Secret.
pub struct Access {
    master: MasterKey,
    given: Mutex<HashMap<String, Instant>>,
}

impl Access {
    /// Passwords derive from this key.
    pub fn new(master: MasterKey) -> Self {
        Self {
            master,
            given: Mutex::default(),
        }
    }

    /// The queue has forgotten its users.
    pub fn forget_all(&self) {
        lock(&self.given).clear();
    }

    fn is_given(&self, namespace: &str) -> bool {
        let given = lock(&self.given);
        given.get(namespace).is_some_and(|at| at.elapsed() < AGAIN)
    }

    fn note(&self, namespace: &str) {
        let mut given = lock(&self.given);
        given.insert(namespace.to_owned(), Instant::now());
    }

    /// Namespaces that were given access.
    pub fn namespaces(&self) -> Vec<String> {
        let given = lock(&self.given);
        given.keys().cloned().collect()
    }

    /// Takes a namespace's access back.
    ///
    /// # Errors
    /// When the queue gives no answer.
    pub async fn withdraw(&self, cx: &Context, namespace: &str) -> Result<(), Error> {
        cx.queue.remove_namespace_user(namespace).await?;
        let mut given = lock(&self.given);
        given.remove(namespace);
        Ok(())
    }

    /// Sees to it that the namespace's workers can reach the queue.
    ///
    /// # Errors
    /// When the queue or the API server refuses.
    pub async fn ensure(&self, cx: &Context, namespace: &str) -> Result<(), Error> {
        if self.is_given(namespace) {
            return Ok(());
        }
        cx.queue
            .ensure_namespace_user(namespace, &self.master, &[VERSION])
            .await?;
        let secrets: Api<Secret> = Api::namespaced(cx.client.clone(), namespace);
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": QUEUE_ACCESS_SECRET,
                "labels": {LABEL_MANAGED_BY: MANAGER},
            },
            "stringData": {
                "username": namespace_user(cx.queue.prefix(), namespace),
                "password": self.master.namespace_password(namespace, VERSION),
            },
        });
        let params = PatchParams::apply(MANAGER).force();
        secrets
            .patch(QUEUE_ACCESS_SECRET, &params, &Patch::Apply(&secret))
            .await?;
        self.note(namespace);
        Ok(())
    }

    /// Sets the gateway's user.
    ///
    /// # Errors
    /// When the queue refuses.
    pub async fn ensure_gateway(&self, cx: &Context) -> Result<(), Error> {
        cx.queue
            .ensure_gateway_user(&self.master, &[VERSION])
            .await?;
        Ok(())
    }
}
