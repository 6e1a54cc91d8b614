//! The manifests of `examples/demo/`, and where their model is.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use testbed::release::workspace;
use testbed::run_dir::{DataDir, RunDir};

const FOLDER: &str = "examples/demo";

/// Another model than the manifests name.
#[derive(Debug, Clone)]
pub struct Model {
    pub endpoint: String,
    pub name: String,
}

/// The manifests as they are applied.
#[derive(Debug)]
pub struct Manifests {
    model: Option<Model>,
    data: DataDir,
}

impl Manifests {
    /// Those of the repository, as they are unless there is another model.
    ///
    /// # Errors
    /// The run folder cannot be written.
    pub fn new(model: Option<Model>) -> Result<Self> {
        let data = RunDir::current()?.data("manifests")?;
        Ok(Self { model, data })
    }

    /// Path of a manifest, as people call it.
    pub fn shown(name: &str) -> String {
        format!("{FOLDER}/{name}.yaml")
    }

    /// The file to apply.
    ///
    /// # Errors
    /// The manifest cannot be read, or its changed copy not be written.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let path = workspace().join(Self::shown(name));
        let Some(model) = &self.model else {
            return Ok(path);
        };
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        let copy = self.data.path().join(format!("{name}.yaml"));
        fs::write(&copy, replaced(&text, model))?;
        Ok(copy)
    }

    /// What of the manifests is not as it stands in the repository.
    pub fn difference(&self) -> Option<String> {
        let model = self.model.as_ref()?;
        Some(format!(
            "with endpoint {} and model {}",
            model.endpoint, model.name
        ))
    }
}

/// The model's fields with other values; they stand one a line, under `model:`.
fn replaced(text: &str, model: &Model) -> String {
    let mut lines = Vec::new();
    let mut in_model = false;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if indent <= 2 && !trimmed.is_empty() {
            in_model = trimmed == "model:";
        }
        let value = match trimmed.split_once(':') {
            Some(("endpoint", _)) if in_model => Some(("endpoint", &model.endpoint)),
            Some(("name", _)) if in_model => Some(("name", &model.name)),
            _ => None,
        };
        match value {
            Some((key, value)) => lines.push(format!("{}{key}: {value:?}", &line[..indent])),
            None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_model_is_replaced() {
        let text = "metadata:\n  name: a\nspec:\n  model:\n    name: b\n    endpoint: http://c\n  instructions: d\n";
        let model = Model {
            endpoint: "http://x".to_owned(),
            name: "y:1".to_owned(),
        };
        assert_eq!(
            replaced(text, &model),
            "metadata:\n  name: a\nspec:\n  model:\n    name: \"y:1\"\n    endpoint: \"http://x\"\n  instructions: d\n"
        );
    }
}
