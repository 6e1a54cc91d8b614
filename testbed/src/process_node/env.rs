//! A container's environment and command line: values from everywhere, `$(VAR)`, and paths that
//! are moved to where the pod's volumes lie on the host.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::downward::{self, Addresses};
use super::objects::{Key, Kind, Lookup};

/// Names with their values, in order; a later value of a name replaces the earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let entry = self.0.iter().find(|(n, _)| n == name);
        entry.map(|(_, value)| value.as_str())
    }

    /// The same with each value changed.
    pub fn map_values(self, change: impl Fn(String) -> String) -> Vec<(String, String)> {
        let values = self.0.into_iter();
        values.map(|(name, value)| (name, change(value))).collect()
    }
}

/// The environment of `container` on top of `base`, before paths are moved.
///
/// # Errors
/// A Secret, ConfigMap or key that is not there and not optional; a field that is not known.
pub fn environment(
    container: &Container,
    pod: &Pod,
    addresses: Addresses,
    objects: &impl Lookup,
    base: Environment,
) -> Result<Environment> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut env = base;
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&source.secret_ref, &source.config_map_ref) {
            (Some(r), _) => (Kind::Secret, &r.name, r.optional),
            (_, Some(r)) => (Kind::ConfigMap, &r.name, r.optional),
            _ => continue,
        };
        match objects.data(&Key::new(kind, namespace, name)) {
            Some(data) => {
                for (key, value) in data.iter() {
                    env.set(format!("{prefix}{key}"), text(value, key)?);
                }
            }
            None if optional == Some(true) => {}
            None => bail!("{} {name:?} not found", kind.noun()),
        }
    }
    for var in container.env.iter().flatten() {
        if let Some(value) = &var.value {
            let value = expand(value, &env);
            env.set(&var.name, value);
        } else if let Some(source) = &var.value_from {
            if let Some(value) = value_from(source, pod, namespace, addresses, objects)
                .with_context(|| format!("environment variable {}", var.name))?
            {
                env.set(&var.name, value);
            }
        } else {
            env.set(&var.name, "");
        }
    }
    Ok(env)
}

/// `None` for an optional key that is not there.
fn value_from(
    source: &EnvVarSource,
    pod: &Pod,
    namespace: &str,
    addresses: Addresses,
    objects: &impl Lookup,
) -> Result<Option<String>> {
    let (kind, name, key, optional) = match source {
        EnvVarSource {
            field_ref: Some(r), ..
        } => return downward::field(pod, addresses, &r.field_path).map(Some),
        EnvVarSource {
            secret_key_ref: Some(r),
            ..
        } => (Kind::Secret, &r.name, &r.key, r.optional),
        EnvVarSource {
            config_map_key_ref: Some(r),
            ..
        } => (Kind::ConfigMap, &r.name, &r.key, r.optional),
        _ => bail!("process nodes know fieldRef, secretKeyRef and configMapKeyRef only"),
    };
    let data = objects.data(&Key::new(kind, namespace, name));
    let optional = optional == Some(true);
    let Some(data) = data else {
        if optional {
            return Ok(None);
        }
        bail!("{} {name:?} not found", kind.noun());
    };
    match data.get(key) {
        Some(value) => text(value, key).map(Some),
        None if optional => Ok(None),
        None => bail!("couldn't find key {key} in {} {name}", kind.noun()),
    }
}

fn text(value: &[u8], key: &str) -> Result<String> {
    let text = String::from_utf8(value.to_vec());
    text.with_context(|| format!("the value of {key} is not UTF-8"))
}

/// Replaces `$(NAME)` by the value of a known name; `$$` stands for `$`, all else stays.
pub fn expand(text: &str, env: &Environment) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Where the paths and addresses of a container are on the host.
#[derive(Debug, Clone)]
pub struct Places {
    /// mountPath and host path; the longest mountPath first.
    mounts: Vec<(String, PathBuf)>,
    pod_ip: Ipv4Addr,
}

impl Places {
    pub fn new(mounts: impl IntoIterator<Item = (String, PathBuf)>, pod_ip: Ipv4Addr) -> Self {
        let mut mounts: Vec<_> = mounts
            .into_iter()
            .map(|(path, host)| (path.trim_end_matches('/').to_owned(), host))
            .collect();
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self { mounts, pod_ip }
    }

    /// The host path of a path inside the container, if it lies in a mount.
    pub fn host_path(&self, path: &str) -> Option<PathBuf> {
        self.mounts.iter().find_map(|(mount, host)| {
            let inside = path.strip_prefix(mount.as_str())?;
            match inside.strip_prefix('/') {
                Some("") => Some(host.clone()),
                Some(inside) => Some(host.join(inside)),
                None => inside.is_empty().then(|| host.clone()),
            }
        })
    }

    /// A value as the process has to see it: one that begins with a mountPath begins with the host's
    /// folder instead, one that is `0.0.0.0`, with a port or without, listens on the pod's address alone,
    /// and what another container of the pod serves at `http://127.0.0.1:` is found there.
    pub fn rewrite(&self, value: &str) -> String {
        if value == "0.0.0.0" {
            return self.pod_ip.to_string();
        }
        for (all, there) in [("0.0.0.0:", ""), ("http://127.0.0.1:", "http://")] {
            if let Some(port) = value.strip_prefix(all) {
                return format!("{there}{}:{port}", self.pod_ip);
            }
        }
        match self.host_path(value) {
            Some(path) => path.to_string_lossy().into_owned(),
            None => value.to_owned(),
        }
    }

    /// As [`Self::rewrite`]; of `--name=value` the value is rewritten.
    pub fn rewrite_arg(&self, arg: &str) -> String {
        match arg.split_once('=') {
            Some((name, value)) if name.starts_with('-') => {
                format!("{name}={}", self.rewrite(value))
            }
            _ => self.rewrite(arg),
        }
    }
}

/// The host program and arguments of `container`: `binary` stands for the image's entrypoint and
/// for `command[0]`.
pub fn command_line(
    container: &Container,
    binary: &Path,
    env: &Environment,
    places: &Places,
) -> (PathBuf, Vec<String>) {
    let command = container.command.iter().flatten().skip(1);
    let args = command.chain(container.args.iter().flatten());
    let args = args.map(|arg| places.rewrite_arg(&expand(arg, env)));
    (binary.to_owned(), args.collect())
}

#[cfg(test)]
mod tests;
