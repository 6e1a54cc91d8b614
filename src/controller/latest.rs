//! What this process itself wrote last, so that no decision is made on a cache that has not heard of
//! it yet.

use crate::lock::lock;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use kube::Resource;
use kube::runtime::reflector::ObjectRef;

/// Objects as the API server answered our writes, until the cache has caught up.
pub struct Latest<K: Resource>
where
    K::DynamicType: Hash + Eq,
{
    written: Mutex<HashMap<ObjectRef<K>, Arc<K>>>,
}

impl<K: Resource> Default for Latest<K>
where
    K::DynamicType: Hash + Eq,
{
    fn default() -> Self {
        Self {
            written: Mutex::default(),
        }
    }
}

impl<K> Latest<K>
where
    K: Resource<DynamicType = ()>,
{
    /// Remembers the answer to a write.
    pub fn wrote(&self, object: K) {
        let mut written = lock(&self.written);
        let object = Arc::new(object);
        let entry = written
            .entry(ObjectRef::from(&*object))
            .or_insert_with(|| object.clone());
        if version(&*object) > version(&**entry) {
            *entry = object;
        }
    }

    /// The newer of what the cache has and what was written; forgets what the cache has too.
    pub fn of(&self, cached: Arc<K>) -> Arc<K> {
        let mut written = lock(&self.written);
        let key = ObjectRef::from(&*cached);
        match written.get(&key) {
            Some(ours) if newer(&**ours, &*cached) => ours.clone(),
            Some(_) => {
                written.remove(&key);
                cached
            }
            None => cached,
        }
    }

    /// The object is gone.
    pub fn forget(&self, object: &K) {
        let mut written = lock(&self.written);
        written.remove(&ObjectRef::from(object));
    }
}

fn newer<K: Resource>(ours: &K, cached: &K) -> bool {
    ours.meta().uid == cached.meta().uid && version(ours) > version(cached)
}

/// The resourceVersion as a number: comparable within one resource since Kubernetes 1.35, and with
/// every etcd before that. 0 where it is none: then the cache wins.
pub fn version<K: Resource>(object: &K) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkerPool;

    fn pool(uid: &str, version: &str, replicas: i32) -> WorkerPool {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": "p", "namespace": "n", "uid": uid, "resourceVersion": version},
            "spec": {},
            "status": {"replicas": replicas},
        }))
        .expect("a pool")
    }

    fn replicas(latest: &Latest<WorkerPool>, cached: WorkerPool) -> i32 {
        latest
            .of(Arc::new(cached))
            .status
            .clone()
            .expect("a status")
            .replicas
    }

    #[test]
    fn our_write_counts_until_the_cache_has_caught_up() {
        let latest = Latest::default();
        latest.wrote(pool("a", "12", 2));
        assert_eq!(replicas(&latest, pool("a", "9", 1)), 2);
        assert_eq!(replicas(&latest, pool("a", "13", 3)), 3);
        assert_eq!(replicas(&latest, pool("a", "9", 1)), 1, "it is forgotten");
    }

    #[test]
    fn a_write_to_an_object_that_was_made_anew_does_not_count() {
        let latest = Latest::default();
        latest.wrote(pool("a", "12", 2));
        assert_eq!(replicas(&latest, pool("b", "11", 1)), 1);
    }
}
