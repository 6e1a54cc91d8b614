//! Labels, annotations, object names and the paths that pods share: one place for each.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

/// Label on pods and pools: the worker pool.
pub const LABEL_POOL: &str = "persona.dev/pool";
/// Label on pools that the topology made: the phase they belong to.
pub const LABEL_PHASE: &str = "persona.dev/phase";
/// Label on pools that a topology made, with the topology's name: the mark by which it knows its
/// own. A pool without it is never adopted, changed or removed by the topology.
pub const LABEL_TOPOLOGY: &str = "persona.dev/topology";
/// Label on pools that the topology made: their resource class.
pub const LABEL_CLASS: &str = "persona.dev/class";
/// Label on pools that the topology made for a type of personas ([`label_value`] of the type).
pub const LABEL_TYPE: &str = "persona.dev/type";
/// Label on pools that the topology made for one persona: its name.
pub const LABEL_PERSONA: &str = "persona.dev/persona";
/// Annotation on pools that the topology made: the pool's name, and a hash of what was last applied
/// ([`applied`]). By the name it knows a copy, by the hash that it wants less than before. Fields that
/// it does not set are left to others.
pub const ANNOTATION_APPLIED: &str = "persona.dev/applied";
/// Label on pods: the hash of the template they were made from.
pub const LABEL_TEMPLATE: &str = "persona.dev/template";
/// Label of objects that the operator manages, with value [`MANAGER`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGER: &str = "persona-operator";
/// Annotation on any of our kinds: `"true"` stops the operator from touching the object.
pub const ANNOTATION_PAUSED: &str = "persona.dev/paused";
/// When a managed pool was last opened in the queue after it had been closed there: its object is another
/// one than who closed it has seen.
pub const ANNOTATION_OPENED: &str = "persona.dev/opened-at";
/// The one PersonaTopology of a namespace.
pub const TOPOLOGY_NAME: &str = "default";
/// The Secret with a namespace's access to the queue, written by the controller.
pub const QUEUE_ACCESS_SECRET: &str = "persona-queue-access";
/// Name of the worker container in a pool's pods.
pub const WORKER_CONTAINER: &str = "worker";
/// Name of the model server's container in a pool's pods.
pub const SERVER_CONTAINER: &str = "model-server";
/// LoRA adapters that a model server holds at most, unless its persona says otherwise.
pub const MAX_ADAPTERS: u32 = 8;
/// Where model files are in a model server's container.
pub const MODELS_DIR: &str = "/models";
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

/// A text as a label's value: itself where Kubernetes allows that, else a name made from it.
pub fn label_value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let valid = text.len() <= 63
        && text.chars().all(|c| plain(c) || "-_.".contains(c))
        && text.starts_with(plain)
        && text.ends_with(plain);
    if valid {
        text.to_owned()
    } else {
        hashed(text, &[text])
    }
}

/// Value of [`ANNOTATION_APPLIED`] of a pool by its name, and what is applied to it.
pub fn applied(pool: &str, what: &str) -> String {
    format!("{pool}/{}", hashed("v", &[what]))
}

/// Whether the topology made this pool, and not somebody who copied one of its pools.
pub fn of_topology(meta: &ObjectMeta) -> bool {
    let label = |key| meta.labels.as_ref().and_then(|labels| labels.get(key));
    let annotations = meta.annotations.as_ref();
    let mark = annotations.and_then(|annotations| annotations.get(ANNOTATION_APPLIED));
    // Marks of earlier versions name no pool.
    let applied_to = mark.and_then(|mark| mark.split_once('/'));
    label(LABEL_TOPOLOGY).is_some_and(|name| name == TOPOLOGY_NAME)
        && label(LABEL_MANAGED_BY).is_some_and(|by| by == MANAGER)
        && applied_to.is_none_or(|(pool, _)| meta.name.as_deref() == Some(pool))
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

    #[test]
    fn label_values_are_valid_and_keep_what_is() {
        assert_eq!(label_value("CodeReview"), "CodeReview");
        for odd in ["Code Review", "Ünï", "-x", "", &"x".repeat(64)] {
            let value = label_value(odd);
            assert!(value.len() <= 63 && value != odd, "{value}");
            assert_eq!(label_value(&value), value);
        }
        assert_ne!(label_value("Code Review"), label_value("Code+Review"));
    }
}
