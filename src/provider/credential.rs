//! API keys from mounted Secrets: `<folder>/<secret>/<key>`, read at each use, so that rotation needs
//! no restart.

use std::{fmt, fs, io, path::PathBuf};

use thiserror::Error;

use crate::api::{SecretKeyRef, runtime::PLAIN_LANE};

/// An API key. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl Credential {
    /// Wraps a key; white space around it, such as a file's last line end, is no part of it.
    pub fn new(key: &str) -> Self {
        Self(key.trim().to_owned())
    }

    /// The key itself, for the header of a request.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Why there is no API key to send.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// No such file: the Secret or the key is missing, or this pod does not mount it (yet).
    #[error("this worker has no key `{key}` of Secret `{secret}`; check that both exist")]
    Missing {
        /// Name of the Secret.
        secret: String,
        /// Key in it.
        key: String,
    },
    /// The file is there and of no use.
    #[error("key `{key}` of Secret `{secret}` cannot be used: {reason}")]
    Unusable {
        /// Name of the Secret.
        secret: String,
        /// Key in it.
        key: String,
        /// What is wrong with it; never its content.
        reason: String,
    },
}

/// The folder with all mounted credentials.
#[derive(Clone, Debug)]
pub struct Credentials {
    folder: PathBuf,
}

impl Credentials {
    /// Credentials below `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`CredentialError`], without the content.
    pub fn read(&self, reference: &SecretKeyRef) -> Result<Credential, CredentialError> {
        let unusable = |reason: String| CredentialError::Unusable {
            secret: reference.name.clone(),
            key: reference.key.clone(),
            reason,
        };
        // Both come from a persona's author, who must not reach other files of the pod with them.
        if !is_name(&reference.name) || !is_name(&reference.key) {
            return Err(unusable("it is no name of a Secret and key".to_owned()));
        }
        let path = self.folder.join(&reference.name).join(&reference.key);
        match fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Err(unusable("it is empty".to_owned())),
            Ok(text) => Ok(Credential::new(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(CredentialError::Missing {
                    secret: reference.name.clone(),
                    key: reference.key.clone(),
                })
            }
            Err(error) => Err(unusable(error.to_string())),
        }
    }

    /// The lanes that this folder lets a worker serve, sorted: `-`, and `<secret>/<key>` for each file.
    pub fn lanes(&self) -> Vec<String> {
        let mut lanes = vec![PLAIN_LANE.to_owned()];
        for secret in names_in(&self.folder) {
            for key in names_in(&self.folder.join(&secret)) {
                lanes.push(format!("{secret}/{key}"));
            }
        }
        lanes.sort_unstable();
        lanes
    }
}

/// Entries of a folder; none when it cannot be read (a Secret may vanish between two looks).
fn names_in(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_name(name))
        .collect()
}

/// Valid names of Secrets and keys. The kubelet's own `..data` and dated folders are none.
fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name != "." && !name.starts_with("..") && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn reference(name: &str, key: &str) -> SecretKeyRef {
        SecretKeyRef {
            name: name.into(),
            key: key.into(),
        }
    }

    /// A folder as the kubelet makes it: entries are links into `..data`, a link to a dated folder.
    fn mounted() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let dated = folder.path().join("..2026_11_24");
        fs::create_dir_all(dated.join("openai")).expect("a folder");
        fs::write(dated.join("openai/api-key"), "sk-1\n").expect("a file");
        fs::write(dated.join("openai/empty"), "\n").expect("a file");
        symlink("..2026_11_24", folder.path().join("..data")).expect("a link");
        symlink("..data/openai", folder.path().join("openai")).expect("a link");
        fs::write(folder.path().join("..outside"), "not yours").expect("a file");
        folder
    }

    #[test]
    fn keys_are_read_at_each_use() {
        let folder = mounted();
        let credentials = Credentials::new(folder.path());
        let key = reference("openai", "api-key");
        assert_eq!(credentials.read(&key).expect("there").expose(), "sk-1");
        fs::write(folder.path().join("openai/api-key"), "sk-2").expect("a file");
        assert_eq!(credentials.read(&key).expect("there").expose(), "sk-2");
    }

    #[test]
    fn lanes_are_the_plain_one_and_each_key() {
        let folder = mounted();
        let lanes = Credentials::new(folder.path()).lanes();
        assert_eq!(lanes, ["-", "openai/api-key", "openai/empty"]);
        assert_eq!(Credentials::new("/nowhere").lanes(), ["-"]);
    }

    #[test]
    fn a_reference_cannot_leave_the_folder() {
        let folder = mounted();
        let credentials = Credentials::new(folder.path().join("openai"));
        for (name, key) in [
            ("..", "..outside"),
            ("../", "x"),
            (".", "api-key"),
            ("/etc", "passwd"),
            ("a", "../../x"),
            ("", ""),
        ] {
            let error = credentials.read(&reference(name, key)).expect_err(key);
            assert!(matches!(error, CredentialError::Unusable { .. }), "{error}");
        }
    }

    #[test]
    fn missing_and_empty_keys_are_told_apart_and_nothing_is_printed() {
        let folder = mounted();
        let credentials = Credentials::new(folder.path());
        let missing = credentials.read(&reference("openai", "other"));
        assert!(matches!(missing, Err(CredentialError::Missing { .. })));
        let empty = credentials.read(&reference("openai", "empty"));
        assert!(matches!(empty, Err(CredentialError::Unusable { .. })));
        let key = credentials.read(&reference("openai", "api-key"));
        assert!(!format!("{key:?}").contains("sk-1"));
    }
}
