//! OpenAI's own Python SDK against the gateway.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use persona_operator::api::QueueLimits;
use persona_operator::queue::submit::Enqueue;
use persona_operator::queue::task::{Outcome, OutcomeKind, TaskError};
use persona_operator::queue::work::Fenced;
use tokio::process::Command;

use crate::publish::Persona;
use crate::stage::{KEY, NAMESPACE, Stage, eventually, soon};
use crate::worker::{Job, Worker};

/// Runs one function of `sdk.py`; its assertions are the test's.
async fn run(stage: &Stage, function: &str) {
    let python = testbed::openai_python().await.expect("the SDK");
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/sdk.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .arg(function)
        .arg(stage.url("/v1"))
        .arg(KEY);
    // A user's own settings are no part of the test.
    for variable in [
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "HTTP_PROXY",
        "http_proxy",
    ] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = soon("the script's end", command.output())
        .await
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{function}: {words}");
}

fn failed(status: u16, code: &str, retry_after_ms: Option<u64>) -> Outcome {
    let error = TaskError {
        code: code.to_owned(),
        message: "the provider's words".to_owned(),
        http_status: status,
        retry_after_ms,
    };
    Outcome::ended(OutcomeKind::Failed, error)
}

async fn fail(job: &Job, outcome: &Outcome) {
    assert_eq!(job.finish(outcome).await, Fenced::Accepted);
}

/// Acts while the script runs.
async fn with_worker(stage: &Stage, function: &str, act: impl AsyncFnOnce(&mut Worker)) {
    // Getting it for the first time takes longer than `act` waits for a task.
    testbed::openai_python().await.expect("the SDK");
    let mut worker = stage.worker().await;
    tokio::join!(run(stage, function), act(&mut worker));
}

#[tokio::test]
async fn sdk_reads_whole_answers_and_their_request_id() {
    let stage = Stage::start().await;
    with_worker(&stage, "whole", async |worker| {
        let job = worker.take().await;
        assert_eq!(job.request()["messages"][1]["content"], "hi");
        job.answer("Hello!").await;
    })
    .await;
}

#[tokio::test]
async fn sdk_reads_streams_with_usage_and_tool_calls() {
    let stage = Stage::start().await;
    with_worker(&stage, "streamed", async |worker| {
        let job = worker.take().await;
        for word in ["Once ", "upon ", "a time"] {
            job.say(word).await;
        }
        job.end().await;
        let job = worker.take().await;
        let call = serde_json::json!({"index": 0, "id": "c1", "type": "function",
            "function": {"name": "f", "arguments": "{\"a\":1}"}});
        let chunk = persona_operator::queue::task::Chunk {
            tool_calls: vec![call],
            ..Default::default()
        };
        assert_eq!(job.emit(&[chunk]).await, Fenced::Accepted);
        let outcome = Outcome::completed(None, "tool_calls", None);
        assert_eq!(job.finish(&outcome).await, Fenced::Accepted);
    })
    .await;
}

#[tokio::test]
async fn sdk_raises_an_error_that_comes_in_a_stream() {
    let stage = Stage::start().await;
    with_worker(&stage, "broken_stream", async |worker| {
        let job = worker.take().await;
        job.say("Hal").await;
        fail(&job, &failed(502, "upstream_broke", None)).await;
    })
    .await;
}

#[tokio::test]
async fn sdk_has_its_own_class_for_each_refusal() {
    let stage = Stage::start().await;
    let mut small = Persona::new(NAMESPACE, "small");
    small.limits = QueueLimits {
        max_length: 1,
        max_concurrency: 1,
        ..QueueLimits::default()
    };
    stage.publish(small).await;
    let first = Enqueue::new("small", "first", "{}");
    stage.namespace().enqueue(&first).await.expect("enqueues");
    run(&stage, "refusals").await;
}

#[tokio::test]
async fn sdk_tries_again_when_it_was_told_to_and_not_before() {
    let stage = Stage::start().await;
    with_worker(&stage, "retried", async |worker| {
        let outcome = failed(429, "provider_limit", Some(1500));
        fail(&worker.take().await, &outcome).await;
        worker.take().await.answer("second time").await;
    })
    .await;
}

#[tokio::test]
async fn sdk_does_not_repeat_what_is_hopeless() {
    let stage = Stage::start().await;
    let mut asleep = Persona::new(NAMESPACE, "asleep");
    asleep.suspended = true;
    stage.publish(asleep).await;
    run(&stage, "suspended").await;
    let route = "/v1/chat/completions";
    eventually("the count", async || stage.count(route, "503").await > 0.5).await;
    assert!(stage.count(route, "503").await < 1.5, "it was asked once");
}

#[tokio::test]
async fn sdk_that_is_closed_in_the_middle_of_a_stream_cancels_it() {
    let stage = Stage::start().await;
    with_worker(&stage, "closed", async |worker| {
        let job = worker.take().await;
        job.say("Hal").await;
        assert_eq!(worker.cancelled().await, job.taken.task);
    })
    .await;
}
