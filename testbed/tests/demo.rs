//! The demo is true on a process node, which needs no root; e2e tests prove the same on real pods.

use std::process::{Command, Stdio};

#[test]
fn demo_tells_its_story_to_the_end() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--node", "process"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{words}");
    let mut rest = told.as_str();
    for part in [
        "pods are processes",
        "persona helper is Ready",
        "you:    What is a cat?",
        "streamed in ",
        "all 60 answered",
        "the pool grew from 1 to 6 workers",
        "to the minimum of 1",
        "10 personas are Ready, each on a pool of its own",
        "from PerPersona to Generic",
        "all 11 personas share one pool",
        "none is lost; the model counted as many answers",
        "personatopology.persona.dev/default",
        "kubectl describe persona helper",
        "curl -sS ",
    ] {
        let found = rest.split_once(part).map(|(_, after)| after);
        rest = found.unwrap_or_else(|| panic!("{part:?} is not said, or too early:\n{told}"));
    }
}
