//! A mounted folder whose files change all at once, as the kubelet's: `name` is a link to
//! `..data/name`, and `..data` a link that is swapped by a rename.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::volumes::Files;

const DATA: &str = "..data";

#[derive(Debug)]
pub struct AtomicFolder {
    path: PathBuf,
    written: Option<Files>,
    version: u64,
}

impl AtomicFolder {
    /// Of `path`, which is made on the first write.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            written: None,
            version: 0,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder show `files` and nothing else. Nothing is written when they are there already.
    ///
    /// # Errors
    /// The folder cannot be written; readers still see the files of before.
    pub fn write(&mut self, files: &Files) -> Result<()> {
        if self.written.as_ref() != Some(files) {
            self.replace(files)
                .with_context(|| format!("cannot write {}", self.path.display()))?;
            self.written = Some(files.clone());
        }
        Ok(())
    }

    fn replace(&mut self, files: &Files) -> Result<()> {
        fs::create_dir_all(&self.path)?;
        self.version += 1;
        let data = self.path.join(format!("..{}", self.version));
        fs::create_dir(&data)?;
        for (name, content) in files {
            let file = data.join(name);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut options = OpenOptions::new();
            let options = options.create_new(true).write(true).mode(0o600);
            options.open(&file)?.write_all(content)?;
        }
        let old = fs::read_link(self.path.join(DATA)).ok();
        let next = self.path.join("..next");
        symlink(data.file_name().unwrap_or_default(), &next)?;
        fs::rename(&next, self.path.join(DATA))?;
        self.link(files)?;
        if let Some(old) = old {
            fs::remove_dir_all(self.path.join(old))?;
        }
        Ok(())
    }

    /// A link for each first part of a path, and no other.
    fn link(&self, files: &Files) -> Result<()> {
        let first = |path: &PathBuf| path.iter().next().map(OsStr::to_owned);
        let wanted: BTreeSet<_> = files.keys().filter_map(first).collect();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if !name.to_string_lossy().starts_with("..") && !wanted.contains(&name) {
                fs::remove_file(self.path.join(name))?;
            }
        }
        for name in wanted {
            match symlink(Path::new(DATA).join(&name), self.path.join(&name)) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        let entries = entries.iter();
        entries
            .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn files_are_replaced_all_at_once_and_old_ones_are_gone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("v");
        let mut folder = AtomicFolder::new(path.clone());
        folder.write(&files(&[("a", "1"), ("sub/b", "2")])).unwrap();
        assert_eq!(fs::read_to_string(path.join("sub/b")).unwrap(), "2");
        let before = fs::read_link(path.join(DATA)).unwrap();

        folder.write(&files(&[("a", "3"), ("c", "4")])).unwrap();
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(path.join("c")).unwrap(), "4");
        assert!(!path.join("sub").exists());
        assert_ne!(fs::read_link(path.join(DATA)).unwrap(), before);
        assert!(!path.join(before).exists());
    }

    #[test]
    fn same_files_are_not_written_again() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = AtomicFolder::new(root.path().join("v"));
        folder.write(&files(&[("a", "1")])).unwrap();
        let before = fs::read_link(root.path().join("v").join(DATA)).unwrap();
        folder.write(&files(&[("a", "1")])).unwrap();
        let after = fs::read_link(root.path().join("v").join(DATA)).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn folder_without_files_is_there() {
        let root = tempfile::tempdir().unwrap();
        AtomicFolder::new(root.path().join("v"))
            .write(&Files::new())
            .unwrap();
        assert!(root.path().join("v").is_dir());
    }
}
