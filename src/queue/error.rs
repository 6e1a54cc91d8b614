use thiserror::Error;

/// Why a call to the queue did not give an answer. Refusals (full, duplicate, lost fence, …) are
/// answers and part of each verb's own type.
#[derive(Debug, Error)]
pub enum QueueError {
    /// Redis could not be reached, or the connection broke. The call may or may not have happened.
    #[error("the queue is not reachable: {0}")]
    Unreachable(#[source] redis::RedisError),
    /// User name or password is wrong, or the user may not do this.
    #[error(
        "the queue refused this user: {0}; the controller sets its users again where they are missing"
    )]
    Denied(#[source] redis::RedisError),
    /// The functions are not loaded: Redis is new, was flushed, or failed over to an empty replica.
    #[error("the queue's functions are not loaded; the controller loads them at the next contact")]
    NotInstalled(#[source] redis::RedisError),
    /// Redis is above its `maxmemory`.
    #[error("the queue is out of memory: {0}; raise maxmemory or wait until tasks have ended")]
    OutOfMemory(#[source] redis::RedisError),
    /// Any other answer of Redis that is an error.
    #[error("the queue answered with an error: {0}")]
    Refused(#[source] redis::RedisError),
    /// The answer does not have the shape that this version expects.
    #[error("the queue's answer to `{verb}` is not understood: {what}")]
    Protocol {
        /// Verb that was called.
        verb: &'static str,
        /// What was wrong with the answer.
        what: String,
    },
    /// Another installation owns the prefix.
    #[error(
        "the prefix `{prefix}` belongs to the installation with cluster id {owner}; choose another queue prefix for this one"
    )]
    ForeignInstallation {
        /// Prefix that is taken.
        prefix: String,
        /// Cluster id that took it.
        owner: String,
    },
    /// A worker of another instance has taken over this pod's registration.
    #[error("a newer instance of this worker is registered; this one must stop")]
    Superseded,
    /// A name cannot be part of a key.
    #[error(
        "`{0}` is not allowed in the queue's keys: use letters, digits, `.`, `_`, `-`, `/` (at most 253)"
    )]
    BadName(String),
}

impl QueueError {
    /// Whether it says something of the queue as a whole: nobody else's call would go better. Otherwise
    /// it is about what was asked, such as the data of one namespace, which that namespace's workers may
    /// have spoilt.
    pub fn is_of_all(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Denied(_)
            | Self::NotInstalled(_)
            | Self::OutOfMemory(_)
            | Self::ForeignInstallation { .. } => true,
            Self::Refused(_) | Self::Protocol { .. } | Self::Superseded | Self::BadName(_) => false,
        }
    }

    /// A static word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Denied(_) => "denied",
            Self::NotInstalled(_) => "not_installed",
            Self::OutOfMemory(_) => "out_of_memory",
            Self::Refused(_) => "refused",
            Self::Protocol { .. } => "protocol",
            Self::ForeignInstallation { .. } => "foreign_installation",
            Self::Superseded => "superseded",
            Self::BadName(_) => "bad_name",
        }
    }
}

impl From<redis::RedisError> for QueueError {
    fn from(error: redis::RedisError) -> Self {
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
            return Self::Unreachable(error);
        }
        if error.kind() == redis::ErrorKind::AuthenticationFailed {
            return Self::Denied(error);
        }
        // The client names the codes that it knows in its own way, others as Redis sends them; of a
        // pipeline there is the text only.
        let text = error.to_string();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["NoPerm", "NOPERM", "WRONGPASS", "NOAUTH"]) {
            Self::Denied(error)
        } else if says(&["Function not found"]) {
            Self::NotInstalled(error)
        } else if says(&["OOM"]) {
            Self::OutOfMemory(error)
        } else if says(&["BusyLoading", "MasterDown", "ReadOnly", "BUSY"]) {
            Self::Unreachable(error)
        } else {
            Self::Refused(error)
        }
    }
}
