//! Text for people and shells.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use testbed::stack::Facts;
use testbed::{MODEL_NAME, image};

/// Writes to stdout. A reader that has enough (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The lines to use a testbed with; a shell can read all of them. `bin` is a folder with kubectl.
pub fn environment(facts: &Facts, bin: &Path) -> String {
    let mut lines = vec![
        format!("export KUBECONFIG={}", quoted(&facts.kubeconfig)),
        format!("export PATH={}:$PATH", quoted(bin)),
        format!("export PERSONA_QUEUE_URL={}", facts.redis),
    ];
    lines.extend(
        facts
            .redis_in_pods
            .iter()
            .map(|url| format!("#   for pods: {url}")),
    );
    if let Some(model) = &facts.model {
        lines.push(format!("# Model {MODEL_NAME}: {model}"));
    }
    lines.extend(
        facts
            .model_in_pods
            .iter()
            .map(|url| format!("#   for pods: {url}")),
    );
    if let Some(operator) = &facts.operator {
        let operator = operator.display();
        lines.push(format!("# Image {} is {operator}", image::OPERATOR));
    }
    lines.push(String::new());
    lines.join("\n")
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

/// `3 min`, as people say it.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
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

    #[test]
    fn ages_have_one_unit() {
        let of = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(
            [of(0), of(119), of(120), of(7300), of(172_800)],
            ["0 s", "119 s", "2 min", "2 h", "2 days"]
        );
    }
}
