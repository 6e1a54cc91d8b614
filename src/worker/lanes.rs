//! The lanes that the mounted credentials, and the models and adapters in its pod, let this worker serve.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::api::runtime::{adapter_lane, model_lane};
use crate::lock::lock;
use crate::provider::Credentials;

/// How long a look into the folder is good for.
const FRESH: Duration = Duration::from_secs(1);

/// Lanes, looked up at most once a second.
pub struct Lanes {
    credentials: Credentials,
    /// Models in the pod.
    models: Vec<String>,
    /// Those of the models in the pod, with the adapters that their server was started with and without.
    of_pod: Mutex<Vec<String>>,
    seen: Mutex<Option<(Instant, Arc<[String]>)>>,
}

impl Lanes {
    /// Lanes of these credentials and models.
    pub fn new(credentials: Credentials, models: &[String]) -> Self {
        Self {
            credentials,
            models: models.to_vec(),
            of_pod: Mutex::new(models.iter().map(|model| model_lane(model)).collect()),
            seen: Mutex::new(None),
        }
    }

    /// The server in the pod was started with these adapters' files.
    pub fn hold(&self, files: &[String]) {
        let models = self.models.iter();
        let adapters = models.flat_map(|model| files.iter().map(|file| adapter_lane(model, file)));
        lock(&self.of_pod).extend(adapters);
        self.forget();
    }

    /// The lanes at present, sorted. The same `Arc` while they do not change.
    pub fn now(&self) -> Arc<[String]> {
        let mut seen = lock(&self.seen);
        let known = match &*seen {
            Some((at, lanes)) if at.elapsed() < FRESH => return lanes.clone(),
            Some((_, lanes)) => Some(lanes.clone()),
            None => None,
        };
        let mut found = self.credentials.lanes();
        found.extend(lock(&self.of_pod).iter().cloned());
        found.sort_unstable();
        let lanes = known
            .filter(|known| **known == *found)
            .unwrap_or_else(|| found.into());
        *seen = Some((Instant::now(), lanes.clone()));
        lanes
    }

    /// What was seen may not be so any more: looks again the next time.
    pub fn forget(&self) {
        *lock(&self.seen) = None;
    }
}
