//! API keys: who asks, and for which personas.
//!
//! A key is known by its SHA-256 alone. The folder is a mounted Secret: one file a key, its name is
//! the principal, its content says `hash: sha256:<hex>`, `namespaces: [...]` and `personas: [...]`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::ApiError;

/// What a key may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Only(BTreeSet<String>),
}

impl Scope {
    fn of(names: Vec<String>) -> Self {
        if names.iter().any(|name| name == "*") {
            Self::All
        } else {
            Self::Only(names.into_iter().collect())
        }
    }

    fn holds(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Name of the key's file.
    pub name: String,
    namespaces: Scope,
    personas: Scope,
}

impl Principal {
    /// Whether the key reaches this persona. `personas` may name it alone or with its namespace.
    pub fn may_ask(&self, namespace: &str, persona: &str) -> bool {
        self.namespaces.holds(namespace)
            && (self.personas.holds(persona)
                || self.personas.holds(&format!("{namespace}/{persona}")))
    }

    /// Whether the key reaches anything in this namespace.
    pub fn may_see(&self, namespace: &str) -> bool {
        self.namespaces.holds(namespace)
    }

    /// The namespaces it is limited to; none where it reaches all.
    pub fn namespaces(&self) -> Option<&BTreeSet<String>> {
        match &self.namespaces {
            Scope::All => None,
            Scope::Only(names) => Some(names),
        }
    }

    /// The only namespace it reaches, which `model` then need not name.
    pub fn sole_namespace(&self) -> Option<&str> {
        match &self.namespaces {
            Scope::Only(names) if names.len() == 1 => names.first().map(String::as_str),
            _ => None,
        }
    }
}

/// A key's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    hash: String,
    namespaces: Vec<String>,
    #[serde(default = "everything")]
    personas: Vec<String>,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Why a key's file is left out.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// The file is not what it should be.
    #[error("{0}; write: hash: sha256:<hex>, namespaces: [team-a] or [\"*\"], personas: [\"*\"]")]
    Malformed(#[from] serde_norway::Error),
    /// The hash is not one.
    #[error("`hash` must be sha256: and 64 hex digits, as `printf %s KEY | sha256sum` prints them")]
    NoHash,
}

/// All keys that are valid now.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    entries: Vec<([u8; 32], Arc<Principal>)>,
}

impl Keys {
    /// Reads the folder. A file that is wrong is left out and named; the others count.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn read(folder: &Path) -> io::Result<(Self, Vec<(String, KeyError)>)> {
        let mut entries = Vec::new();
        let mut faults = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(folder)? {
            // A mounted Secret keeps its versions in hidden folders, and links to them.
            match entry?.file_name().into_string() {
                Ok(name) if !name.starts_with('.') => names.push(name),
                _ => {}
            }
        }
        names.sort();
        for name in names {
            match read_key(&folder.join(&name), &name) {
                Ok((hash, principal)) => entries.push((hash, Arc::new(principal))),
                Err(error) => faults.push((name, error)),
            }
        }
        Ok((Self { entries }, faults))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody can ask.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Who holds this key. The time it takes does not depend on the key.
    pub fn principal(&self, key: &str) -> Option<Arc<Principal>> {
        let presented = Sha256::digest(key.as_bytes());
        let mut found = None;
        for (hash, principal) in &self.entries {
            if bool::from(hash.as_slice().ct_eq(presented.as_slice())) {
                found = Some(principal);
            }
        }
        found.cloned()
    }

    /// Who sent this `Authorization` header.
    ///
    /// # Errors
    /// 401 with what is wrong with it.
    pub fn authenticate(&self, authorization: Option<&str>) -> Result<Arc<Principal>, ApiError> {
        let Some(value) = authorization else {
            return Err(ApiError::unauthenticated(
                "no API key: send it in the header `Authorization: Bearer <key>`",
            ));
        };
        let key = value
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim());
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            return Err(ApiError::unauthenticated(
                "the `Authorization` header must read `Bearer <key>`",
            ));
        };
        self.principal(key).ok_or_else(|| {
            ApiError::unauthenticated(
                "incorrect API key: it is not, or no longer, one of this gateway's",
            )
        })
    }
}

fn read_key(path: &Path, name: &str) -> Result<([u8; 32], Principal), KeyError> {
    let file: KeyFile = serde_norway::from_str(&fs::read_to_string(path)?)?;
    let digits = file.hash.trim().strip_prefix("sha256:");
    let mut hash = [0; 32];
    digits
        .and_then(|digits| hex::decode_to_slice(digits, &mut hash).ok())
        .ok_or(KeyError::NoHash)?;
    let principal = Principal {
        name: name.to_owned(),
        namespaces: Scope::of(file.namespaces),
        personas: Scope::of(file.personas),
    };
    Ok((hash, principal))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn principal(namespaces: &[&str], personas: &[&str]) -> Principal {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Principal {
            name: "test".to_owned(),
            namespaces: Scope::of(owned(namespaces)),
            personas: Scope::of(owned(personas)),
        }
    }

    fn sha(key: &str) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(key)))
    }

    #[test]
    fn keys_are_known_by_hash_and_broken_files_are_named() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text);
        write("a", format!("hash: {}\nnamespaces: [team-a]\n", sha("k-a"))).expect("write");
        write(
            "b",
            format!(
                r#"{{"hash":"{}","namespaces":["*"],"personas":["helper"]}}"#,
                sha("k-b")
            ),
        )
        .expect("write");
        write("c", "hash: k-c\nnamespaces: [\"*\"]\n".to_owned()).expect("write");
        write("d", format!("hash: {}\n", sha("k-d"))).expect("write");
        write("..data", "x".to_owned()).expect("write");
        let (keys, faults) = Keys::read(folder.path()).expect("lists");
        assert_eq!(keys.len(), 2);
        let names: Vec<_> = faults.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["c", "d"]);
        let a = keys.principal("k-a").expect("known");
        assert_eq!((a.name.as_str(), a.sole_namespace()), ("a", Some("team-a")));
        assert!(a.may_ask("team-a", "x") && !a.may_ask("team-b", "x"));
        let b = keys.principal("k-b").expect("known");
        assert!(b.may_ask("any", "helper") && !b.may_ask("any", "teacher"));
        for unknown in ["k-d", "", "a", &sha("k-a")] {
            assert_eq!(keys.principal(unknown), None);
        }
    }

    #[test]
    fn a_scope_may_name_a_persona_with_its_namespace() {
        let one = principal(&["a", "b"], &["a/helper"]);
        assert!(one.may_ask("a", "helper"));
        assert!(!one.may_ask("b", "helper"));
        assert!(!principal(&[], &["*"]).may_ask("a", "helper"));
    }

    #[test]
    fn only_a_bearer_key_is_an_authorization() {
        let keys = Keys::default();
        for header in [
            None,
            Some("Basic x"),
            Some("Bearer"),
            Some("Bearer  "),
            Some("Bearer x"),
        ] {
            let error = keys.authenticate(header).expect_err("refused");
            assert_eq!(
                (error.status, error.code.as_str()),
                (401, "invalid_api_key")
            );
        }
    }
}
