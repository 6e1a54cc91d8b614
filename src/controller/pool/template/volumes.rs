//! The volumes of a worker. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource, Volume, VolumeMount,
    VolumeProjection,
};

use crate::api::SecretKeyRef;
use crate::api::names::{CREDENTIALS_DIR, QUEUE_ACCESS_DIR, QUEUE_ACCESS_SECRET};

/// Access to the queue, and one projected volume of all credentials. A Secret or key that is missing
/// keeps nobody's worker from starting: its personas wait, alone.
pub fn volumes(credentials: &BTreeSet<SecretKeyRef>) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut volumes = vec![Volume {
        name: "queue-access".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(QUEUE_ACCESS_SECRET.to_owned()),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }];
    let mut mounts = vec![mount("queue-access", QUEUE_ACCESS_DIR)];
    if !credentials.is_empty() {
        let mut keys: BTreeMap<&str, Vec<KeyToPath>> = BTreeMap::new();
        for SecretKeyRef { name, key } in credentials {
            keys.entry(name).or_default().push(KeyToPath {
                key: key.clone(),
                path: format!("{name}/{key}"),
                mode: None,
            });
        }
        // One source a key: a Secret that lacks one of its keys still gives the others.
        let sources = keys.into_iter().flat_map(|(name, keys)| {
            keys.into_iter().map(|key| VolumeProjection {
                secret: Some(SecretProjection {
                    name: name.to_owned(),
                    items: Some(vec![key]),
                    optional: Some(true),
                }),
                ..VolumeProjection::default()
            })
        });
        volumes.push(Volume {
            name: "credentials".to_owned(),
            projected: Some(ProjectedVolumeSource {
                sources: Some(sources.collect()),
                default_mode: Some(0o440),
            }),
            ..Volume::default()
        });
        mounts.push(mount("credentials", CREDENTIALS_DIR));
    }
    (volumes, mounts)
}
