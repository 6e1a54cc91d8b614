//! How a process node is set up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Taint;

use super::address::CAPACITY;

/// How a process node presents itself and what it can run.
#[derive(Debug, Clone)]
pub struct ProcessNodeOptions {
    /// Of the Node object; at most one node of a cluster has it.
    pub name: String,
    /// Beginning of an image name -> the program that stands for its entrypoint. The longest wins.
    pub images: BTreeMap<String, PathBuf>,
    /// Labels beside hostname, os, arch and [`LABEL`](super::LABEL).
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Allocatable pods, 253 at most: each has an address of a /24.
    pub pods: u16,
    /// Allocatable CPU and memory (Kubernetes quantities). They only count for the scheduler.
    pub cpu: String,
    pub memory: String,
    /// Other allocatable resources, e.g. `nvidia.com/gpu`: for the scheduler, too.
    pub resources: BTreeMap<String, String>,
    /// First delay of CrashLoopBackOff; it doubles up to five minutes.
    pub restart_backoff: Duration,
}

impl ProcessNodeOptions {
    /// Capacity for 250 pods, the kubelet's back-off of 10 s.
    pub fn new(
        name: impl Into<String>,
        images: impl IntoIterator<Item = (String, PathBuf)>,
    ) -> Self {
        Self {
            name: name.into(),
            images: images.into_iter().collect(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            pods: 250,
            cpu: "250".into(),
            memory: "250Gi".into(),
            resources: BTreeMap::new(),
            restart_backoff: Duration::from_secs(10),
        }
    }

    /// What stands for `image`.
    pub(super) fn binary(&self, image: &str) -> Option<&Path> {
        let matching = self.images.iter().filter(|(p, _)| image.starts_with(*p));
        let longest = matching.max_by_key(|(prefix, _)| prefix.len());
        longest.map(|(_, binary)| binary.as_path())
    }

    /// # Errors
    /// What of the options cannot work.
    pub(super) fn check(&self) -> Result<()> {
        if self.pods > CAPACITY {
            bail!("a process node has room for {CAPACITY} pods; start several");
        }
        for (image, binary) in &self.images {
            if !binary.is_absolute() || !binary.is_file() {
                let binary = binary.display();
                bail!("image {image}: {binary} is not the absolute path of a program");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_beginning_of_the_image_name_decides() {
        let images = [("a/", "/bin/cat"), ("a/b:", "/bin/sh"), ("c", "/bin/ls")];
        let images = images.map(|(image, path)| (image.to_owned(), PathBuf::from(path)));
        let options = ProcessNodeOptions::new("n", images);
        for (image, binary) in [
            ("a/b:1", Some("/bin/sh")),
            ("a/x:1", Some("/bin/cat")),
            ("b", None),
        ] {
            assert_eq!(options.binary(image), binary.map(Path::new), "{image}");
        }
    }

    #[test]
    fn program_that_is_not_there_is_named() {
        let images = [("a".to_owned(), PathBuf::from("/no/such/program"))];
        let error = ProcessNodeOptions::new("n", images).check().unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
