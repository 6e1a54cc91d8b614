//! The queue's users, and the one Secret a namespace that workers reach the queue with.
//!
//! Users live in Redis' memory: a restart, a failover, `ACL LOAD` or `ACL DELUSER` take them away, so
//! what Redis has is compared with what it was given. The Secret cannot be read, so it is written again
//! every now and then.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use super::{Context, Error};
use crate::api::names::{LABEL_MANAGED_BY, MANAGER, QUEUE_ACCESS_SECRET};
use crate::lock::lock;
use crate::queue::access::{MasterKey, gateway_user, namespace_of_user, namespace_user};

/// Version of the passwords that workers get.
const VERSION: u32 = 1;
/// After this long, or a little less, users and Secrets are written again, whoever changed them.
const AGAIN: Duration = Duration::from_secs(600);

/// What was written, by name, and until when that is believed.
type Written = Mutex<HashMap<String, Instant>>;

/// Which namespaces have their user and Secret.
pub struct Access {
    master: MasterKey,
    /// By name of the user.
    users: Written,
    /// By namespace.
    secrets: Written,
}

impl Access {
    /// Passwords derive from this key.
    pub fn new(master: MasterKey) -> Self {
        Self {
            master,
            users: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    /// The queue has these users, and no others.
    pub fn found_users(&self, found: &BTreeSet<String>) {
        let mut users = lock(&self.users);
        let before = users.len();
        users.retain(|user, _| found.contains(user));
        let missing = before - users.len();
        if missing > 0 {
            tracing::warn!(missing, "the queue has lost users, they are set again");
        }
    }

    /// The queue has forgotten its users.
    pub fn forget_users(&self) {
        lock(&self.users).clear();
    }

    /// Namespaces that this process, or an earlier one as the queue's users show, gave access to.
    pub fn namespaces(&self, cx: &Context, users: &BTreeSet<String>) -> BTreeSet<String> {
        let prefix = cx.queue.prefix();
        let served = users.iter().filter_map(|u| namespace_of_user(prefix, u));
        let mut namespaces: BTreeSet<String> = served.map(str::to_owned).collect();
        namespaces.extend(lock(&self.secrets).keys().cloned());
        namespaces
    }

    /// Takes a namespace's access back.
    ///
    /// # Errors
    /// When the queue or the API server gives no answer.
    pub async fn withdraw(&self, cx: &Context, namespace: &str) -> Result<(), Error> {
        let secrets: Api<Secret> = Api::namespaced(cx.client.clone(), namespace);
        match secrets
            .delete(QUEUE_ACCESS_SECRET, &DeleteParams::default())
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            // Roles of an earlier release do not allow it; the password in it is worth nothing soon.
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::warn!(namespace, reason = status.message, "a Secret stays behind");
            }
            Err(error) => return Err(error.into()),
        }
        cx.queue.remove_namespace_user(namespace).await?;
        lock(&self.users).remove(&namespace_user(cx.queue.prefix(), namespace));
        lock(&self.secrets).remove(namespace);
        tracing::info!(namespace, "nobody there needs the queue any more");
        Ok(())
    }

    /// Sees to it that the namespace's workers can reach the queue.
    ///
    /// # Errors
    /// When the queue or the API server refuses.
    pub async fn ensure(&self, cx: &Context, namespace: &str) -> Result<(), Error> {
        self.ensure_user(cx, namespace).await?;
        self.ensure_secret(cx, namespace).await
    }

    /// Sets the user of a namespace where that is due.
    ///
    /// # Errors
    /// When the queue refuses.
    pub async fn ensure_user(&self, cx: &Context, namespace: &str) -> Result<(), Error> {
        let user = namespace_user(cx.queue.prefix(), namespace);
        if is_written(&self.users, &user) {
            return Ok(());
        }
        cx.queue
            .ensure_namespace_user(namespace, &self.master, &[VERSION])
            .await?;
        note(&self.users, user);
        Ok(())
    }

    /// Writes the Secret of a namespace where that is due.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn ensure_secret(&self, cx: &Context, namespace: &str) -> Result<(), Error> {
        if is_written(&self.secrets, namespace) {
            return Ok(());
        }
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
        note(&self.secrets, namespace.to_owned());
        Ok(())
    }

    /// Sets the gateway's user where that is due.
    ///
    /// # Errors
    /// When the queue refuses.
    pub async fn ensure_gateway(&self, cx: &Context) -> Result<(), Error> {
        let user = gateway_user(cx.queue.prefix());
        if is_written(&self.users, &user) {
            return Ok(());
        }
        cx.queue
            .ensure_gateway_user(&self.master, &[VERSION])
            .await?;
        note(&self.users, user);
        Ok(())
    }
}

fn is_written(written: &Written, name: &str) -> bool {
    lock(written)
        .get(name)
        .is_some_and(|at| *at > Instant::now())
}

fn note(written: &Written, name: String) {
    // Not all at the same moment.
    let until = Instant::now() + AGAIN.mul_f64(rand::random_range(0.75..1.0));
    lock(written).insert(name, until);
}
