//! The connection to the queue: as whom, and how it does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tokio::sync::watch;

use super::Options;
use crate::lock::lock;
use crate::queue::{NamespaceQueue, Queue, QueueError, QueueOptions};

/// User and password from the mounted Secret.
#[derive(Clone, PartialEq, Eq)]
struct Access {
    username: String,
    password: String,
}

/// Where the queue is.
struct Place {
    url: String,
    prefix: String,
    namespace: String,
    access_dir: PathBuf,
}

/// The queue as this worker reaches it.
pub struct Link {
    place: Place,
    queue: watch::Sender<NamespaceQueue>,
    access: Mutex<Option<Access>>,
    /// How the last call went.
    contact: Mutex<Result<(), String>>,
}

impl Link {
    /// Prepares the connection; Redis need not be there yet.
    ///
    /// # Errors
    /// A URL, prefix or namespace that cannot be one.
    pub fn open(options: &Options) -> Result<Self, QueueError> {
        let place = Place {
            url: options.queue_url.clone(),
            prefix: options.queue_prefix.clone(),
            namespace: options.namespace.clone(),
            access_dir: options.queue_access_dir.clone(),
        };
        let access = read_access(&place.access_dir);
        Ok(Self {
            queue: watch::Sender::new(connect(&place, access.as_ref())?),
            place,
            access: Mutex::new(access),
            contact: Mutex::new(Err("not reached yet".to_owned())),
        })
    }

    /// The queue at present.
    pub fn queue(&self) -> NamespaceQueue {
        self.queue.borrow().clone()
    }

    /// Tells when the queue is reached in another way.
    pub fn watch(&self) -> watch::Receiver<NamespaceQueue> {
        self.queue.subscribe()
    }

    /// Notes how a call went. A refused user has the files read again: the password was changed.
    pub fn note<T>(&self, result: &Result<T, QueueError>) {
        let mut contact = lock(&self.contact);
        match result {
            Ok(_) => {
                if let Err(before) = std::mem::replace(&mut *contact, Ok(())) {
                    tracing::info!(before, "in contact with the queue");
                }
            }
            Err(error) => {
                if contact.is_ok() {
                    tracing::warn!(%error, "lost contact with the queue, trying again");
                }
                *contact = Err(error.to_string());
                drop(contact);
                if matches!(error, QueueError::Denied(_)) {
                    self.read_again();
                }
            }
        }
    }

    /// Whether the last call was answered, or why not.
    pub fn in_contact(&self) -> Result<(), String> {
        lock(&self.contact).clone()
    }

    fn read_again(&self) {
        let mut known = lock(&self.access);
        let access = read_access(&self.place.access_dir);
        if access == *known {
            return;
        }
        match connect(&self.place, access.as_ref()) {
            Ok(queue) => {
                tracing::info!("the password for the queue has changed, connecting again");
                *known = access;
                self.queue.send_replace(queue);
            }
            Err(error) => tracing::error!(%error, "cannot connect with the new password"),
        }
    }
}

fn connect(place: &Place, access: Option<&Access>) -> Result<NamespaceQueue, QueueError> {
    let queue = Queue::connect(QueueOptions {
        prefix: place.prefix.clone(),
        username: access.map(|access| access.username.clone()),
        password: access.map(|access| access.password.clone()),
        ..QueueOptions::new(place.url.as_str())
    })?;
    queue.namespace(&place.namespace)
}

/// The files of the mounted Secret; none where they are not there (yet).
fn read_access(dir: &Path) -> Option<Access> {
    let read = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    Some(Access {
        username: read("username")?,
        password: read("password")?,
    })
}
