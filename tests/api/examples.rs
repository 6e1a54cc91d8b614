//! Every manifest of `examples/` is taken as it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cluster::{kubectl, root, with_crds};

fn manifests(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            manifests(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_example_applies_as_it_is() -> Result<()> {
    let cluster = with_crds().await?;
    let mut found = Vec::new();
    manifests(&root().join("examples"), &mut found)?;
    assert!(found.len() >= 4, "only {} examples", found.len());
    for path in found {
        // One namespace each: some may be alternatives of one another.
        let namespace = cluster.namespace("examples").await?;
        let path = path.to_string_lossy();
        let said = kubectl(&["apply", "-n", &namespace, "-f", &path]).await?;
        assert!(said.contains("persona.dev/"), "{path}: {said}");
    }
    Ok(())
}
