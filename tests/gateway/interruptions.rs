//! Workers and clients that go away in the middle.

use persona_operator::queue::task::{Outcome, OutcomeKind};
use persona_operator::queue::work::Fenced;

use crate::stage::{PERSONA, Stage, answer_of, eventually, spawn, streamed, whole};
use crate::stream::{Events, ends_in_error, ends_well};

/// How a task ended, once it did.
async fn outcome(stage: &Stage, task: &str) -> Option<Outcome> {
    let output = stage.namespace().output(task, None).await.expect("output");
    output.and_then(|output| output.outcome)
}

#[tokio::test]
async fn worker_lost_after_the_first_token_ends_the_stream_in_one_error() {
    let stage = Stage::start().await;
    let (first, second) = (stage.worker().await, stage.worker().await);
    let request = stage.send(&streamed());
    let job = first.take().await;
    job.say("Hal").await;
    let mut events = Events::of(answer_of(request).await);
    events.data().await;
    // The kubelet said that the container has ended.
    stage
        .namespace()
        .reap_worker(first.uid())
        .await
        .expect("reaps");
    assert_eq!(ends_in_error(events, "interrupted").await, "Hal");
    // Nobody runs it a second time.
    let next = stage.send(&whole());
    let other = second.take().await;
    assert_ne!(other.taken.task, job.taken.task);
    other.answer("ok").await;
    assert_eq!(answer_of(next).await.status(), 200);
}

#[tokio::test]
async fn worker_lost_before_the_first_token_is_invisible() {
    let stage = Stage::start().await;
    for request in [streamed(), whole()] {
        let (first, second) = (stage.worker().await, stage.worker().await);
        let streams = request == streamed();
        let request = stage.send(&request);
        let lost = first.take().await;
        stage
            .namespace()
            .reap_worker(first.uid())
            .await
            .expect("reaps");
        let job = second.take().await;
        assert_eq!(job.taken.task, lost.taken.task);
        // The first one was only slow: it is not heard.
        let late = Outcome::completed(Some("late".into()), "stop", None);
        assert_eq!(lost.finish(&late).await, Fenced::Lost);
        if streams {
            job.say("second").await;
            job.end().await;
            let text = ends_well(Events::of(answer_of(request).await)).await;
            assert_eq!(text, "second");
        } else {
            job.answer("second").await;
            let body: serde_json::Value = answer_of(request).await.json().await.expect("JSON");
            assert_eq!(body["choices"][0]["message"]["content"], "second");
        }
    }
}

#[tokio::test]
async fn worker_that_stops_hands_a_whole_answer_to_another() {
    let stage = Stage::start().await;
    let (first, second) = (stage.worker().await, stage.worker().await);
    let request = stage.send(&whole());
    let job = first.take().await;
    job.say("part of an answer that is not streamed").await;
    job.hand_back().await;
    second.take().await.answer("all of it").await;
    let body: serde_json::Value = answer_of(request).await.json().await.expect("JSON");
    assert_eq!(body["choices"][0]["message"]["content"], "all of it");
}

#[tokio::test]
async fn worker_hears_when_the_client_of_a_stream_leaves() {
    let stage = Stage::start().await;
    let mut worker = stage.worker().await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("Hal").await;
    drop(answer_of(request).await);
    assert_eq!(worker.cancelled().await, job.taken.task);
    let ended = outcome(&stage, &job.taken.task).await.expect("an outcome");
    assert_eq!(ended.outcome, OutcomeKind::Cancelled);
    eventually("the count", async || {
        stage.count("/v1/chat/completions", "499").await > 0.5
    })
    .await;
}

#[tokio::test]
async fn worker_hears_when_a_client_leaves_before_there_is_a_word() {
    let stage = Stage::start().await;
    let mut worker = stage.worker().await;
    for body in [whole(), streamed()] {
        let request = stage.send(&body);
        let job = worker.take().await;
        request.abort();
        assert_eq!(worker.cancelled().await, job.taken.task);
    }
}

#[tokio::test]
async fn waiting_request_of_a_client_that_left_takes_no_place() {
    let stage = Stage::start().await;
    let (namespace, personas) = (stage.namespace(), [PERSONA.to_owned()]);
    let queued = async || namespace.persona_stats(&personas).await.expect("stats")[0].queued;
    let request = stage.send(&whole());
    eventually("a waiting request", async || queued().await == 1).await;
    request.abort();
    eventually("its end", async || queued().await == 0).await;
}

#[tokio::test]
async fn request_with_an_idempotency_key_outlives_its_client() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    let keyed = || stage.ask(&whole()).header("idempotency-key", "k");
    let request = spawn(keyed());
    let job = worker.take().await;
    request.abort();
    eventually("the client's end", async || {
        stage.count("/v1/chat/completions", "499").await > 0.5
    })
    .await;
    job.answer("still there").await;
    let body: serde_json::Value = answer_of(spawn(keyed())).await.json().await.expect("JSON");
    assert_eq!(body["choices"][0]["message"]["content"], "still there");
}
