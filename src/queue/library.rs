//! The functions, and what is checked before the queue is used.

use super::{Queue, QueueError};

/// Something about Redis that puts tasks at risk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A word for conditions and metrics.
    pub reason: &'static str,
    /// A sentence with the mend.
    pub message: String,
    /// The queue cannot be used like this.
    pub fatal: bool,
}

/// What [`Queue::install`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// What is wrong or risky.
    pub findings: Vec<Finding>,
    /// Identity of the server's data: changes with a restart or a failover, after which leases
    /// are not reaped for one full lease.
    pub run_id: String,
}

impl Queue {
    /// Loads the functions, claims the prefix for the cluster (uid of kube-system) and checks
    /// version, eviction policy and persistence. Idempotent; called at each new contact.
    ///
    /// # Errors
    /// [`QueueError::ForeignInstallation`] when the prefix is another cluster's.
    pub async fn install(&self, cluster_id: &str) -> Result<Installed, QueueError> {
        let _ = cluster_id;
        Err(QueueError::not_implemented("install"))
    }

    /// Namespaces that have personas registered.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn namespaces(&self) -> Result<Vec<String>, QueueError> {
        Err(QueueError::not_implemented("namespaces"))
    }
}
