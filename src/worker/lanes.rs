//! The lanes that the mounted credentials and the models in its pod let this worker serve.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::api::runtime::model_lane;
use crate::lock::lock;
use crate::provider::Credentials;

/// How long a look into the folder is good for.
const FRESH: Duration = Duration::from_secs(1);

/// Lanes, looked up at most once a second.
pub struct Lanes {
    credentials: Credentials,
    /// Those of the models in the pod.
    models: Vec<String>,
    seen: Mutex<Option<(Instant, Arc<[String]>)>>,
}

impl Lanes {
    /// Lanes of these credentials and models.
    pub fn new(credentials: Credentials, models: &[String]) -> Self {
        Self {
            credentials,
            models: models.iter().map(|model| model_lane(model)).collect(),
            seen: Mutex::new(None),
        }
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
        found.extend(self.models.iter().cloned());
        found.sort_unstable();
        let lanes = known
            .filter(|known| **known == *found)
            .unwrap_or_else(|| found.into());
        *seen = Some((Instant::now(), lanes.clone()));
        lanes
    }

    /// A credential was not where it should be: looks again the next time.
    pub fn forget(&self) {
        *lock(&self.seen) = None;
    }
}
