//! The volumes of one pod on disk, kept as the API server has them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Client;

use super::access::Tokens;
use super::downward::Addresses;
use super::folder::AtomicFolder;
use super::objects::{Objects, Subscriptions};
use super::volumes::{self, Content, Sources};

/// A pod's volumes, each a folder under `<pod folder>/volumes`, or of the host.
#[derive(Debug)]
pub struct Mounts {
    folder: PathBuf,
    volumes: BTreeMap<String, Volume>,
    pub objects: Subscriptions,
    tokens: Tokens,
}

#[derive(Debug)]
enum Volume {
    Files(AtomicFolder),
    Folder(PathBuf),
}

impl Mounts {
    /// Begins to follow what `pod` uses.
    pub fn new(folder: &Path, pod: &Pod, client: &Client, objects: &Objects) -> Self {
        Self {
            folder: folder.join("volumes"),
            volumes: BTreeMap::new(),
            objects: objects.subscribe(volumes::keys(pod)),
            tokens: Tokens::keep(client, pod, volumes::token_requests(pod)),
        }
    }

    /// Whether the server has told of every object.
    pub fn is_known(&self) -> bool {
        self.objects.is_known()
    }

    /// Waits until there is reason to [`Self::sync`].
    pub async fn changed(&mut self) {
        tokio::select! {
            () = self.objects.changed() => {}
            () = self.tokens.changed() => {}
        }
    }

    /// Brings the folders up to date. Those of volumes with an error stay as they are.
    ///
    /// # Errors
    /// What is missing (the first of it), or a folder cannot be written.
    pub fn sync(&mut self, pod: &Pod, addresses: Addresses) -> Result<()> {
        let tokens = self.tokens.values();
        let sources = Sources {
            pod,
            addresses,
            objects: &self.objects,
            tokens: &tokens,
        };
        let mut problem = Ok(());
        for volume in pod.spec.iter().flat_map(|s| &s.volumes).flatten() {
            let path = self.folder.join(&volume.name);
            let entry = self.volumes.entry(volume.name.clone());
            let done = match volumes::content(volume, &sources) {
                Ok(Content::Files(files)) => {
                    match entry.or_insert_with(|| Volume::Files(AtomicFolder::new(path))) {
                        Volume::Files(folder) => folder.write(&files),
                        Volume::Folder(_) => Ok(()),
                    }
                }
                Ok(Content::Empty) => {
                    let made = fs::create_dir_all(&path);
                    let made = made.with_context(|| format!("cannot create {}", path.display()));
                    entry.or_insert(Volume::Folder(path));
                    made
                }
                Ok(Content::Host(path)) => {
                    entry.or_insert(Volume::Folder(path));
                    Ok(())
                }
                Err(error) => Err(error),
            };
            problem = problem.and(done);
        }
        problem
    }

    /// mountPath and host path of each mount of `container`.
    pub fn of(&self, container: &Container) -> Vec<(String, PathBuf)> {
        let mounts = container.volume_mounts.iter().flatten();
        let mounts = mounts.filter_map(|mount| {
            let path = match self.volumes.get(&mount.name)? {
                Volume::Files(folder) => folder.path(),
                Volume::Folder(path) => path,
            };
            let path = match &mount.sub_path {
                Some(inside) => path.join(inside),
                None => path.to_owned(),
            };
            Some((mount.mount_path.clone(), path))
        });
        mounts.collect()
    }
}
