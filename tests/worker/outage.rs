//! Redis goes away, hangs, forgets everything, or changes the password.

use std::fs;
use std::time::Duration;

use persona_operator::queue::access::{MasterKey, namespace_user};
use persona_operator::queue::submit::TaskState;
use persona_operator::queue::task::OutcomeKind;
use persona_operator::queue::work::LEASE;
use testbed::{Redis, RedisOptions};

use crate::fixture::{Fixture, NAMESPACE, answered, eventually};
use crate::upstream::{Gate, Step, Upstream, done, says, says_at, stream_head, token};

/// Twenty numbered words in two seconds.
fn slow_story() -> Vec<Step> {
    let mut steps = vec![stream_head("text/event-stream")];
    for number in 0..20 {
        steps.extend([
            token(&format!("{number} ")),
            Step::Pause(Duration::from_millis(100)),
        ]);
    }
    steps.push(done());
    steps
}

fn story() -> String {
    (0..20).map(|number| format!("{number} ")).collect()
}

async fn durable() -> Redis {
    let options = RedisOptions {
        append_only: true,
        ..RedisOptions::default()
    };
    Redis::start(options).await.expect("a Redis")
}

#[tokio::test]
async fn tasks_run_on_while_redis_is_away_and_their_answers_are_whole() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    let model = Upstream::always(slow_story()).await;
    fixture.persona("helper", model.base_url()).await;
    let worker = fixture.worker("a").await;
    let (streamed, whole) = (
        fixture.ask("helper", true).await,
        fixture.ask("helper", false).await,
    );
    eventually("the first words", async || {
        fixture.text(&streamed).await.contains("2 ").then_some(())
    })
    .await;
    redis.stop().await.expect("stops");
    eventually("not ready", async || {
        (worker.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    assert_eq!(worker.get("/livez").await.0, 200);
    // Both answers end while Redis is away.
    model.until("answered", |counts| counts.open == 0).await;
    redis.restart().await.expect("starts");
    assert_eq!(
        fixture.outcome(&streamed).await.outcome,
        OutcomeKind::Completed
    );
    assert_eq!(fixture.text(&streamed).await, story());
    assert_eq!(fixture.outcome(&whole).await.content, Some(story()));
    assert_eq!(model.counts().requests, 2);
    // And new work is done.
    eventually("ready", async || {
        (worker.get("/readyz").await.0 == 200).then_some(())
    })
    .await;
    let next = fixture.ask("helper", false).await;
    assert_eq!(fixture.outcome(&next).await.outcome, OutcomeKind::Completed);
}

#[tokio::test]
async fn an_answer_that_ends_in_a_long_outage_is_handed_in_after_it() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    let model = Upstream::always(slow_story()).await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let (streamed, whole) = (
        fixture.ask("helper", true).await,
        fixture.ask("helper", false).await,
    );
    model.until("asked", |counts| counts.requests == 2).await;
    redis.stop().await.expect("stops");
    model.until("answered", |counts| counts.open == 0).await;
    // Longer than a lease.
    tokio::time::sleep(LEASE + Duration::from_secs(3)).await;
    redis.restart().await.expect("starts");
    for task in [&streamed, &whole] {
        let outcome = fixture.outcome(task).await;
        assert_eq!(outcome.outcome, OutcomeKind::Completed, "{outcome:?}");
    }
    assert_eq!(fixture.text(&streamed).await, story());
    assert_eq!(fixture.outcome(&whole).await.content, Some(story()));
    assert_eq!(model.counts().requests, 2);
}

#[tokio::test]
async fn chunks_whose_answer_was_lost_are_sent_again_and_not_doubled() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    let model = Upstream::always(slow_story()).await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", true).await;
    eventually("the first words", async || {
        fixture.text(&task).await.contains("2 ").then_some(())
    })
    .await;
    // Longer than a call waits for its answer: what was sent meanwhile is done in the end all the same.
    redis.pause().expect("pauses");
    tokio::time::sleep(Duration::from_millis(6500)).await;
    redis.resume().expect("resumes");
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    assert_eq!(fixture.text(&task).await, story());
}

#[tokio::test]
async fn a_stream_that_redis_cannot_take_is_held_up_and_not_held_in_memory() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    // More on the wire than sockets hold, most of it comments: an answer may have 4 MiB.
    let piece = "x".repeat(64 << 10);
    let comment = format!(": {}\n\n", "x".repeat(400 << 10));
    let mut steps = vec![stream_head("text/event-stream")];
    for _ in 0..60 {
        steps.extend([token(&piece), Step::Send(comment.clone())]);
    }
    steps.push(done());
    let model = Upstream::always(steps).await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    redis.pause().expect("pauses");
    let asking = fixture.ask("helper", true);
    let resuming = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        redis.resume().expect("resumes");
        model.until("asked", |counts| counts.open == 1).await;
        redis.pause().expect("pauses");
        tokio::time::sleep(Duration::from_secs(1)).await;
        // It has not been read to its end.
        assert_eq!(model.counts().open, 1);
        redis.resume().expect("resumes");
    };
    let (task, ()) = tokio::join!(asking, resuming);
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    assert_eq!(fixture.text(&task).await.len(), 60 * (64 << 10));
}

#[tokio::test]
async fn a_worker_that_starts_before_redis_registers_when_it_is_there() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    let model = Upstream::always(says(&["Hello"])).await;
    fixture.persona("helper", model.base_url()).await;
    let task = fixture.ask("helper", false).await;
    redis.stop().await.expect("stops");
    let worker = fixture.unregistered(fixture.options("a")).await;
    let (code, text) = worker.get("/readyz").await;
    assert_eq!(code, 503);
    assert!(text.contains("worker: not registered yet"), "{text}");
    redis.restart().await.expect("starts");
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    eventually("ready", async || {
        (worker.get("/readyz").await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_stops_in_time_while_redis_is_away() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    let model = Upstream::always(vec![Step::Hang]).await;
    fixture.persona("helper", model.base_url()).await;
    let mut options = fixture.options("a");
    options.drain_timeout = "200ms".parse().expect("a span");
    let worker = fixture.worker_with(options).await;
    fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.open == 1).await;
    redis.stop().await.expect("stops");
    let began = std::time::Instant::now();
    worker.stopped().await.expect("stops");
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    model.until("hung up", |counts| counts.open == 0).await;
}

#[tokio::test]
async fn after_all_data_was_lost_the_old_attempt_changes_nothing() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    let (old, new) = (Gate::default(), Gate::default());
    let gates = (old.clone(), new.clone());
    let model = Upstream::start(move |received| {
        if received.number == 1 {
            return says_at(&gates.0, ["old", "old"]);
        }
        let mut steps = vec![Step::Wait(gates.1.clone())];
        steps.extend(says(&["new"]));
        steps
    })
    .await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", true).await;
    eventually("the first token", async || {
        (!fixture.text(&task).await.is_empty()).then_some(())
    })
    .await;
    for words in [&["FLUSHALL"][..], &["FUNCTION", "FLUSH"]] {
        fixture.redis(redis::cmd(words[0]).arg(&words[1..])).await;
    }
    fixture.install().await;
    fixture.persona("helper", model.base_url()).await;
    // The gateway enqueues it again under the same id.
    fixture.ask_again(&task, "helper", true).await;
    // The old one goes on and ends while the new one runs.
    model
        .until("asked again", |counts| counts.requests == 2)
        .await;
    old.open();
    model
        .until("the old one ends", |counts| counts.open == 1)
        .await;
    new.open();
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    assert_eq!(fixture.text(&task).await, "new");
    assert_eq!(model.counts().requests, 2);
    let stats = fixture
        .until_worker("a", "it is registered again", |worker| {
            worker.heartbeat_at_ms > 0
        })
        .await;
    assert_eq!(stats.slots, 2);
}

#[tokio::test]
async fn the_attempt_that_counts_goes_on_while_one_of_the_same_task_is_lost() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    let model = Upstream::start(|received| {
        if received.number == 1 {
            return vec![Step::Hang];
        }
        let mut steps = vec![Step::Pause(Duration::from_secs(1))];
        steps.extend(says(&["new"]));
        steps
    })
    .await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.open == 1).await;
    fixture.redis(&redis::cmd("FLUSHALL")).await;
    fixture.install().await;
    fixture.persona("helper", model.base_url()).await;
    fixture.ask_again(&task, "helper", false).await;
    model
        .until("asked again", |counts| counts.requests == 2)
        .await;
    // A reason to renew: both attempts are named.
    fixture.queue.drain("a", true).await.expect("drains");
    model.until("hung up", |counts| counts.given_up == 1).await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.content.as_deref(), Some("new"));
    assert_eq!(model.counts().requests, 2);
}

#[tokio::test]
async fn a_changed_password_is_read_again_from_its_file() {
    let redis = durable().await;
    let fixture = Fixture::on(&redis).await;
    let model = Upstream::always(says(&["Hel", "lo"])).await;
    fixture.persona("helper", model.base_url()).await;
    let master = MasterKey::new("master");
    let folder = tempfile::tempdir().expect("a folder");
    let user = namespace_user(&fixture.prefix, NAMESPACE);
    let write = |version| {
        fs::write(folder.path().join("username"), &user).expect("a file");
        let password = master.namespace_password(NAMESPACE, version);
        fs::write(folder.path().join("password"), format!("{password}\n")).expect("a file");
    };
    let ensure = async |version| {
        let queue = fixture.queue.queue();
        answered(async || {
            queue
                .ensure_namespace_user(NAMESPACE, &master, &[version])
                .await
        })
        .await;
    };
    write(1);
    ensure(1).await;
    let mut options = fixture.options("a");
    options.queue_access_dir = folder.path().to_owned();
    options.queue_url = format!("redis://127.0.0.1:{}/", redis.port());
    let worker = fixture.worker_with(options).await;
    let streamed = fixture.ask("helper", true).await;
    assert_eq!(
        fixture.outcome(&streamed).await.outcome,
        OutcomeKind::Completed
    );
    assert_eq!(fixture.text(&streamed).await, "Hello");

    // Redis forgets users when it restarts; the controller sets them again, with the new password.
    redis.stop().await.expect("stops");
    redis.restart().await.expect("starts");
    ensure(2).await;
    let task = fixture.ask("helper", false).await;
    eventually("refused", async || {
        let (_, text) = worker.get("/readyz").await;
        text.contains("refused this user").then_some(())
    })
    .await;
    assert_eq!(fixture.state(&task).await, TaskState::Queued);
    write(2);
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    // Cancelled tasks and draining are heard as well.
    let began = std::time::Instant::now();
    fixture.queue.drain("a", true).await.expect("drains");
    fixture
        .until_worker("a", "drained", |worker| worker.drained)
        .await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}
