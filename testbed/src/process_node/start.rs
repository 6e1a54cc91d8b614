//! From a container's spec to the process to start.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::Context;
use super::access::TOKEN_MOUNT;
use super::container::Launch;
use super::downward::Addresses;
use super::env::{self, Environment, Places};
use super::mounts::Mounts;

/// Why a container cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// No binary is mapped to its image; nothing will change that.
    Image(String),
    /// Its environment names what is not there, or a file cannot be written.
    Config(String),
}

/// The pod as far as starting its containers needs it.
pub struct Surroundings<'a> {
    pub cx: &'a Context,
    pub pod: &'a Pod,
    pub addresses: Addresses,
    pub mounts: &'a Mounts,
    pub folder: &'a Path,
}

impl Surroundings<'_> {
    /// How `container` is started on this host.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn launch(&self, container: &Container) -> Result<Launch, Obstacle> {
        let image = container.image.as_deref().unwrap_or_default();
        let binary = self
            .cx
            .options
            .binary(image)
            .ok_or_else(|| self.unmapped(image))?;
        let config = |error: anyhow::Error| Obstacle::Config(format!("{error:#}"));
        let objects = &self.mounts.objects;
        let env = env::environment(container, self.pod, self.addresses, objects, self.base());
        let mut env = env.map_err(config)?;
        let places = Places::new(self.mounts.of(container), self.addresses.pod);
        if let Some(token) = places.host_path(TOKEN_MOUNT)
            && env.get("KUBECONFIG").is_none()
        {
            let file = self.kubeconfig(&token.join("token")).map_err(config)?;
            env.set("KUBECONFIG", file.to_string_lossy());
        }
        let (program, args) = env::command_line(container, binary, &env, &places);
        let folder = container.working_dir.as_deref();
        Ok(Launch {
            program,
            alias: container.command.iter().flatten().next().cloned(),
            args,
            env: env.map_values(|value| places.rewrite(&value)),
            folder: folder
                .and_then(|f| places.host_path(f))
                .unwrap_or_else(|| self.folder.to_owned()),
            log: self.cx.log_file(self.pod, &container.name),
        })
    }

    /// What every process gets: none of the node's own environment but the PATH.
    fn base(&self) -> Environment {
        let mut env = Environment::default();
        env.set("PATH", std::env::var("PATH").unwrap_or_default());
        env.set("HOME", self.folder.to_string_lossy());
        env.set(
            "HOSTNAME",
            self.pod.metadata.name.as_deref().unwrap_or_default(),
        );
        for (name, value) in self.cx.access.environment() {
            env.set(name, value);
        }
        env
    }

    fn kubeconfig(&self, token: &Path) -> anyhow::Result<PathBuf> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let file = self.folder.join("kubeconfig");
        std::fs::write(&file, self.cx.access.kubeconfig(token, namespace))?;
        Ok(file)
    }

    fn unmapped(&self, image: &str) -> Obstacle {
        let known: Vec<&str> = self.cx.options.images.keys().map(String::as_str).collect();
        Obstacle::Image(format!(
            "no binary of this host is mapped to image {image:?}; process node {} maps: {}",
            self.cx.options.name,
            known.join(", ")
        ))
    }
}
