//! Where the parts of a testbed are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image;
use crate::model::MODEL_NAME;

/// Addresses, files and processes, for people and for other processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    pub kubeconfig: PathBuf,
    /// A folder with kubectl, and helm where it is built.
    pub bin: PathBuf,
    pub api_server: String,
    pub redis: String,
    pub model: Option<String>,
    /// The same for pods of the real node.
    pub redis_in_pods: Option<String>,
    pub model_in_pods: Option<String>,
    /// What process nodes start for [`image::OPERATOR`].
    pub operator: Option<PathBuf>,
    /// Name and pid of every process of the testbed's own, pods excepted.
    pub processes: Vec<(String, i32)>,
}

impl Facts {
    /// The lines to use it with; a shell can read all of them.
    pub fn environment(&self) -> String {
        let for_pods = |url: &String| format!("#   for pods: {url}");
        let mut lines = vec![
            format!("export KUBECONFIG={}", quoted(&self.kubeconfig)),
            format!("export PATH={}:$PATH", quoted(&self.bin)),
            format!("export PERSONA_QUEUE_URL={}", self.redis),
        ];
        lines.extend(self.redis_in_pods.iter().map(for_pods));
        let model = self.model.iter();
        lines.extend(model.map(|url| format!("# Model {MODEL_NAME}: {url}")));
        lines.extend(self.model_in_pods.iter().map(for_pods));
        let operator = self.operator.iter();
        lines.extend(
            operator.map(|path| format!("# Image {} is {}", image::OPERATOR, path.display())),
        );
        lines.push(String::new());
        lines.join("\n")
    }
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(plain) {
        path
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_for_a_shell() {
        let of = |path: &str| quoted(Path::new(path));
        assert_eq!(of("/tmp/a-1/x.y"), "/tmp/a-1/x.y");
        assert_eq!(of("/tmp/my files"), "'/tmp/my files'");
        assert_eq!(of("it's"), r"'it'\''s'");
    }
}
