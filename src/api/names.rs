//! Labels, annotations, object names and the paths that pods share: one place for each.

use sha2::{Digest, Sha256};

/// Label on pods and pools: the worker pool.
pub const LABEL_POOL: &str = "persona.dev/pool";
/// Label on pools that the topology made: the phase they belong to.
pub const LABEL_PHASE: &str = "persona.dev/phase";
/// Label on pods: the hash of the template they were made from.
pub const LABEL_TEMPLATE: &str = "persona.dev/template";
/// Label of objects that the operator manages, with value [`MANAGER`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGER: &str = "persona-operator";
/// Annotation on any of our kinds: `"true"` stops the operator from touching the object.
pub const ANNOTATION_PAUSED: &str = "persona.dev/paused";
/// The one PersonaTopology of a namespace.
pub const TOPOLOGY_NAME: &str = "default";
/// The Secret with a namespace's access to the queue, written by the controller.
pub const QUEUE_ACCESS_SECRET: &str = "persona-queue-access";
/// Name of the worker container in a pool's pods.
pub const WORKER_CONTAINER: &str = "worker";
/// Where a pool's pods mount the queue access Secret.
pub const QUEUE_ACCESS_DIR: &str = "/var/run/persona/queue";
/// Where a pool's pods mount the provider credentials: `<dir>/<secret>/<key>`.
pub const CREDENTIALS_DIR: &str = "/var/run/persona/credentials";
/// Longest readable part of a generated name; with `-` and 8 hex it stays a valid label value,
/// and leaves room for the pod suffix.
const READABLE: usize = 30;

/// A name that people can read and that cannot collide: `<readable, shortened>-<8 hex of the hash
/// of all parts>`. Parts are length-prefixed before hashing, so `["a","bc"]` and `["ab","c"]` differ.
pub fn hashed(readable: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hex::encode(&hash.finalize()[..4]);
    let mut name: String = readable
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(READABLE)
        .collect();
    name = name.trim_matches('-').to_owned();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "p-");
    }
    format!("{}-{digest}", name.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_valid_and_distinct() {
        let long = "X".repeat(200);
        for readable in ["CodeReview", "9lives", "--", "", "Ünï-cödé", long.as_str()] {
            let name = hashed(readable, &["a", readable]);
            assert!(
                name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()),
                "{name}"
            );
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{name}"
            );
        }
        assert_ne!(hashed("x", &["a", "bc"]), hashed("x", &["ab", "c"]));
        assert_ne!(hashed("Helper", &["Helper"]), hashed("helper", &["helper"]));
    }
}
