//! The file tree of an image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tar::{Builder, EntryType, Header};

#[derive(Debug)]
enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// Files by their path in the image, without a leading slash. All belong to root and have no date, so
/// that the same files give the same bytes.
#[derive(Debug, Default)]
pub struct Layer {
    entries: BTreeMap<String, (Content, u32)>,
}

impl Layer {
    /// Adds the host's file `source`; links are followed.
    pub fn file(&mut self, path: &str, source: &Path, mode: u32) {
        self.entries
            .insert(path.into(), (Content::File(source.into()), mode));
    }

    /// Adds a file with these contents.
    pub fn bytes(&mut self, path: &str, contents: Vec<u8>, mode: u32) {
        self.entries
            .insert(path.into(), (Content::Bytes(contents), mode));
    }

    /// Adds the host's dynamically linked program `source`, with its loader and its libraries each where
    /// the loader looks for it.
    ///
    /// # Errors
    /// The loader does not find all of them.
    pub fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(source).output();
        let output = output.context("cannot run ldd")?;
        let text = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("ldd {}: {}", source.display(), words.trim());
        }
        self.file(path, source, 0o755);
        // Lines: `libssl.so.3 => /lib/…/libssl.so.3 (0x…)`, and the loader: `/lib64/ld-linux… (0x…)`.
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            self.file(library.trim_start_matches('/'), Path::new(library), 0o755);
        }
        Ok(())
    }

    /// The layer as an uncompressed tar.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for (path, (content, mode)) in &self.entries {
            match content {
                Content::Bytes(bytes) => append(&mut builder, path, *mode, bytes)?,
                Content::File(source) => {
                    let bytes = fs::read(source);
                    let bytes =
                        bytes.with_context(|| format!("cannot read {}", source.display()))?;
                    append(&mut builder, path, *mode, &bytes)?;
                }
            }
        }
        Ok(builder.into_inner()?)
    }
}

/// Adds a file that depends on nothing but its path, mode and contents.
pub fn append(builder: &mut Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(data.len().try_into()?);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, path, data)?;
    Ok(())
}
