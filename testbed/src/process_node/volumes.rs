//! What a pod's volumes contain. Pure: from the pod and the objects it names to files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume,
};

use super::downward::{self, Addresses};
use super::objects::{Key, Kind, Lookup};

/// Relative path and content of each file.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Written anew when it changes.
    Files(Files),
    /// The pod's own, empty at first.
    Empty,
    /// A folder of the host, as it is.
    Host(PathBuf),
}

/// A service account token that a volume wants; the same request gets the same token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    pub audience: Option<String>,
    pub seconds: i64,
}

impl TokenRequest {
    fn of(projection: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: projection.audience.clone().filter(|a| !a.is_empty()),
            seconds: projection.expiration_seconds.unwrap_or(3600),
        }
    }
}

/// What volumes are made from.
#[derive(Debug)]
pub struct Sources<'a, L> {
    pub pod: &'a Pod,
    pub addresses: Addresses,
    pub objects: &'a L,
    pub tokens: &'a BTreeMap<TokenRequest, String>,
}

/// Every Secret and ConfigMap that the pod's volumes and environments name.
pub fn keys(pod: &Pod) -> BTreeSet<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    let mut names: Vec<(Kind, Option<&String>)> = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        names.extend(
            volume
                .secret
                .iter()
                .map(|s| (Kind::Secret, s.secret_name.as_ref())),
        );
        names.extend(
            volume
                .config_map
                .iter()
                .map(|c| (Kind::ConfigMap, Some(&c.name))),
        );
        let projected = volume.projected.iter().flat_map(|p| &p.sources).flatten();
        for source in projected {
            names.extend(source.secret.iter().map(|s| (Kind::Secret, Some(&s.name))));
            names.extend(
                source
                    .config_map
                    .iter()
                    .map(|c| (Kind::ConfigMap, Some(&c.name))),
            );
        }
    }
    let init = spec.init_containers.iter().flatten();
    for container in init.chain(&spec.containers) {
        for source in container.env_from.iter().flatten() {
            names.extend(
                source
                    .secret_ref
                    .iter()
                    .map(|r| (Kind::Secret, Some(&r.name))),
            );
            let maps = source.config_map_ref.iter();
            names.extend(maps.map(|r| (Kind::ConfigMap, Some(&r.name))));
        }
        let sources = container.env.iter().flatten();
        for source in sources.filter_map(|e| e.value_from.as_ref()) {
            let secrets = source.secret_key_ref.iter();
            names.extend(secrets.map(|r| (Kind::Secret, Some(&r.name))));
            let maps = source.config_map_key_ref.iter();
            names.extend(maps.map(|r| (Kind::ConfigMap, Some(&r.name))));
        }
    }
    let names = names
        .into_iter()
        .filter_map(|(kind, name)| Some((kind, name?)));
    names
        .map(|(kind, name)| Key::new(kind, namespace, name))
        .collect()
}

/// Every service account token that the pod's volumes want.
pub fn token_requests(pod: &Pod) -> BTreeSet<TokenRequest> {
    let volumes = pod.spec.iter().flat_map(|s| &s.volumes).flatten();
    let projected = volumes.filter_map(|v| v.projected.as_ref());
    let sources = projected.flat_map(|p| &p.sources).flatten();
    let tokens = sources.filter_map(|s| s.service_account_token.as_ref());
    tokens.map(TokenRequest::of).collect()
}

/// The content of `volume`.
///
/// # Errors
/// A Secret, ConfigMap or key that is not there and not optional; a volume type that process nodes
/// do not know; a path that leaves the volume.
pub fn content<L: Lookup>(volume: &Volume, sources: &Sources<'_, L>) -> Result<Content> {
    let mut files = Files::new();
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let source = (Kind::Secret, name, secret.optional);
        sources.object(source, secret.items.as_ref(), &mut files)?;
    } else if let Some(map) = &volume.config_map {
        let source = (Kind::ConfigMap, map.name.as_str(), map.optional);
        sources.object(source, map.items.as_ref(), &mut files)?;
    } else if let Some(api) = &volume.downward_api {
        sources.downward(api.items.as_ref(), &mut files)?;
    } else if let Some(projected) = &volume.projected {
        for source in projected.sources.iter().flatten() {
            if let Some(s) = &source.secret {
                let object = (Kind::Secret, s.name.as_str(), s.optional);
                sources.object(object, s.items.as_ref(), &mut files)?;
            } else if let Some(c) = &source.config_map {
                let object = (Kind::ConfigMap, c.name.as_str(), c.optional);
                sources.object(object, c.items.as_ref(), &mut files)?;
            } else if let Some(api) = &source.downward_api {
                sources.downward(api.items.as_ref(), &mut files)?;
            } else if let Some(token) = &source.service_account_token {
                let value = sources.tokens.get(&TokenRequest::of(token));
                let value = value.context("the service account token is not there yet")?;
                put(&mut files, &token.path, value.clone().into_bytes())?;
            } else {
                bail!(
                    "volume {}: a projected source that process nodes do not know",
                    volume.name
                );
            }
        }
    } else if volume.empty_dir.is_some() {
        return Ok(Content::Empty);
    } else if let Some(host) = &volume.host_path {
        return Ok(Content::Host(PathBuf::from(&host.path)));
    } else {
        bail!(
            "volume {}: process nodes know secret, configMap, projected, downwardAPI, emptyDir and hostPath only",
            volume.name
        );
    }
    Ok(Content::Files(files))
}

impl<L: Lookup> Sources<'_, L> {
    fn object(
        &self,
        (kind, name, optional): (Kind, &str, Option<bool>),
        items: Option<&Vec<KeyToPath>>,
        files: &mut Files,
    ) -> Result<()> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let optional = optional == Some(true);
        let Some(data) = self.objects.data(&Key::new(kind, namespace, name)) else {
            if optional {
                return Ok(());
            }
            bail!("{} {name:?} not found", kind.noun());
        };
        let Some(items) = items else {
            for (key, value) in data.iter() {
                put(files, key, value.clone())?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(value) => put(files, &item.path, value.clone())?,
                None if optional => {}
                None => bail!(
                    "{} {name:?} has no key {:?}, which a volume wants",
                    kind.noun(),
                    item.key
                ),
            }
        }
        Ok(())
    }

    fn downward(
        &self,
        items: Option<&Vec<DownwardAPIVolumeFile>>,
        files: &mut Files,
    ) -> Result<()> {
        for item in items.into_iter().flatten() {
            let field = item.field_ref.as_ref();
            let field = field.context("process nodes know no resourceFieldRef")?;
            let value = downward::field(self.pod, self.addresses, &field.field_path)?;
            put(files, &item.path, value.into_bytes())?;
        }
        Ok(())
    }
}

fn put(files: &mut Files, path: &str, content: Vec<u8>) -> Result<()> {
    let path = Path::new(path);
    let plain = |c: Component| matches!(c, Component::Normal(_));
    if !path.components().all(plain) {
        bail!("{} leaves its volume", path.display());
    }
    files.insert(path.to_owned(), content);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::process_node::objects::Data;
    use serde_json::json;

    struct Fixture(BTreeMap<Key, Arc<Data>>);

    impl Lookup for Fixture {
        fn data(&self, key: &Key) -> Option<Arc<Data>> {
            self.0.get(key).cloned()
        }
    }

    fn content_of(volume: serde_json::Value) -> Result<Content> {
        let secret = Data::from([("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())]);
        let secret = (Key::new(Kind::Secret, "n", "s"), Arc::new(secret));
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"l": "x"}}});
        let token = TokenRequest {
            audience: Some("gateway".into()),
            seconds: 600,
        };
        let sources = Sources {
            pod: &serde_json::from_value(pod).unwrap(),
            addresses: Addresses {
                pod: Ipv4Addr::LOCALHOST,
                host: Ipv4Addr::LOCALHOST,
            },
            objects: &Fixture(BTreeMap::from([secret])),
            tokens: &BTreeMap::from([(token, "t0k3n".to_owned())]),
        };
        content(&serde_json::from_value(volume).unwrap(), &sources)
    }

    fn files<const N: usize>(files: [(&str, &str); N]) -> Content {
        let files = files.map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()));
        Content::Files(files.into())
    }

    #[test]
    fn secret_becomes_one_file_a_key_or_those_that_items_name() {
        let whole = content_of(json!({"name": "v", "secret": {"secretName": "s"}})).unwrap();
        assert_eq!(whole, files([("a", "1"), ("b", "2")]));
        let items = json!([{"key": "b", "path": "sub/x"}]);
        let some = json!({"name": "v", "secret": {"secretName": "s", "items": items}});
        assert_eq!(content_of(some).unwrap(), files([("sub/x", "2")]));
    }

    #[test]
    fn projected_volume_joins_its_sources_and_leaves_out_absent_optional_ones() {
        let sources = json!([
            {"secret": {"name": "s", "items": [{"key": "a", "path": "s/a"}]}},
            {"secret": {"name": "gone", "optional": true}},
            {"secret": {"name": "s", "items": [{"key": "none", "path": "x"}], "optional": true}},
            {"downwardAPI": {"items": [{"path": "label", "fieldRef": {"fieldPath": "metadata.labels['l']"}}]}},
            {"serviceAccountToken": {"audience": "gateway", "expirationSeconds": 600, "path": "token"}},
        ]);
        let volume = json!({"name": "v", "projected": {"sources": sources}});
        let expected = files([("label", "x"), ("s/a", "1"), ("token", "t0k3n")]);
        assert_eq!(content_of(volume).unwrap(), expected);
    }

    #[test]
    fn what_is_missing_or_not_known_is_named() {
        for (volume, words) in [
            (
                json!({"secret": {"secretName": "gone"}}),
                "secret \"gone\" not found",
            ),
            (
                json!({"configMap": {"name": "gone"}}),
                "configmap \"gone\" not found",
            ),
            (
                json!({"secret": {"secretName": "s", "items": [{"key": "none", "path": "x"}]}}),
                "no key \"none\"",
            ),
            (
                json!({"secret": {"secretName": "s", "items": [{"key": "a", "path": "../x"}]}}),
                "leaves its volume",
            ),
            (
                json!({"nfs": {"server": "x", "path": "/"}}),
                "emptyDir and hostPath only",
            ),
        ] {
            let mut volume = volume;
            volume["name"] = json!("v");
            let error = content_of(volume).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn all_objects_that_a_pod_names_are_watched() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "volumes": [
                {"name": "1", "secret": {"secretName": "v"}},
                {"name": "2", "projected": {"sources": [{"configMap": {"name": "p"}}]}},
            ],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "f"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "e", "key": "k"}}}]}],
        }});
        let keys: Vec<String> = keys(&serde_json::from_value(pod).unwrap())
            .into_iter()
            .map(|k| format!("{}/{}", k.kind.noun(), k.name))
            .collect();
        assert_eq!(keys, ["secret/f", "secret/v", "configmap/e", "configmap/p"]);
    }
}
