//! What the chart's notes tell one to type works when it is typed.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use testbed::net::Port;
use tokio::process::Command;

use crate::harness::{PATIENCE, Stage};
use testbed::upstream::{Upstream, answer};

/// The notes as a script: the port-forward in the background, on a port that is free.
fn script(notes: &str, port: u16) -> String {
    let mut lines = vec!["set -euo pipefail".to_owned()];
    for line in notes.lines().filter_map(|line| line.strip_prefix("   ")) {
        let line = line.replace("8080", &port.to_string());
        if line.starts_with("kubectl port-forward") {
            lines.push(format!("{line} >&2 & trap 'kill $!' EXIT"));
            lines.push(format!(
                "for i in $(seq 100); do curl -sf http://localhost:{port}/health >&2 && break; sleep 0.2; done"
            ));
        } else {
            lines.push(line);
        }
    }
    lines.join("\n")
}

#[tokio::test]
async fn what_the_notes_tell_to_type_gets_an_answer() -> Result<()> {
    let Some(stage) = Stage::enter("notes").await? else {
        return Ok(());
    };
    let line = |text: &str, done: bool| {
        let message = serde_json::json!({"role": "assistant", "content": text});
        format!(
            "{}\n",
            serde_json::json!({"message": message, "done": done})
        )
    };
    let body = line("Hello to you", false) + &line("", true);
    let ollama =
        Upstream::always(answer(200, "content-type: application/x-ndjson\r\n", &body)).await;
    let endpoint = stage.endpoint(&ollama)?;
    let address = endpoint
        .trim_start_matches("http://")
        .trim_end_matches("/v1");
    let outside = stage
        .cluster
        .serve_outside("default", "ollama", 11434, address.parse()?);
    outside.await?;

    let notes = stage.release.notes(stage.cluster).await?;
    let port = Port::free()?;
    let kubectl = stage.cluster.kubectl().await?;
    let folder = std::path::Path::new(kubectl.as_std().get_program()).parent();
    let folder = folder.context("kubectl is nowhere")?.display();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    bash.args(["-c", &script(&notes, port.number())])
        .env("PATH", path)
        .env("KUBECONFIG", stage.cluster.kubeconfig())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, bash.output()).await??;
    let words = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{printed}\n{words}");
    assert!(printed.contains("Hello to you"), "{printed}\n{words}");
    assert!(
        printed.contains("PerPersona"),
        "the table at the end: {printed}"
    );
    let args = [
        "delete",
        "-n",
        "default",
        "persona/helper",
        "service/ollama",
    ];
    testbed::release::run(stage.cluster.kubectl().await?, &args).await?;
    stage.leave().await
}
