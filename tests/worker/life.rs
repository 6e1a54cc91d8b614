//! Draining, stopping and replacing a worker in this process; its pages and metrics.

use std::time::Duration;

use persona_operator::api::ModelServerKind;
use persona_operator::queue::heartbeat::RecycleReason;
use persona_operator::queue::stats::WorkerStats;
use persona_operator::queue::submit::TaskState;
use persona_operator::queue::task::{Duties, OutcomeKind};
use persona_operator::worker::{Ended, Error, Reason};

use crate::fixture::{Fixture, POOL, eventually};
use crate::upstream::{Gate, Step, Upstream, says, says_at, stream_head, token};

#[tokio::test]
async fn a_drained_worker_gets_no_task_and_reports_it_at_once() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["Hello"])).await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let began = std::time::Instant::now();
    fixture.queue.drain("a", true).await.expect("drains");
    fixture
        .until_worker("a", "drained", |worker| worker.drained)
        .await;
    println!("drained after {:?}", began.elapsed());
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "it waited for its next heartbeat"
    );
    let task = fixture.ask("helper", false).await;
    // Longer than it would wait at the bell.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(fixture.state(&task).await, TaskState::Queued);

    fixture.queue.drain("a", false).await.expect("undrains");
    assert_eq!(fixture.outcome(&task).await.outcome, OutcomeKind::Completed);
    fixture
        .until_worker("a", "not draining", |worker| !worker.draining)
        .await;
}

#[tokio::test]
async fn a_busy_worker_is_drained_when_its_last_task_has_ended() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("x"),
        Step::Hang,
    ])
    .await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.requests == 1).await;
    fixture.queue.drain("a", true).await.expect("drains");
    fixture
        .until_worker("a", "a heartbeat with the task", |worker| {
            worker.reported_running == 1
        })
        .await;
    assert!(!fixture.worker_stats("a").await.expect("there").drained);
    let ended = std::time::Instant::now();
    fixture.queue.cancel(&task).await.expect("cancels");
    fixture
        .until_worker("a", "drained", |worker| worker.drained)
        .await;
    assert!(
        ended.elapsed() < Duration::from_secs(4),
        "it waited for its next heartbeat"
    );
}

#[tokio::test]
async fn another_worker_does_the_work_of_a_drained_one() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["Hello"])).await;
    fixture.persona("helper", model.base_url()).await;
    let drained = fixture.worker("a").await;
    let _other = fixture.worker("b").await;
    fixture.queue.drain("a", true).await.expect("drains");
    for _ in 0..20 {
        let task = fixture.ask("helper", false).await;
        fixture.outcome(&task).await;
    }
    fixture
        .until_worker("a", "drained", |worker| worker.drained)
        .await;
    let before = drained.metric("persona_tasks_total", &[]).await;
    for _ in 0..20 {
        let task = fixture.ask("helper", false).await;
        fixture.outcome(&task).await;
    }
    assert_eq!(drained.metric("persona_tasks_total", &[]).await, before);
}

#[tokio::test]
async fn a_stopped_worker_ends_its_task_and_leaves_the_pool() {
    let fixture = Fixture::new().await;
    let stops = Gate::default();
    let model = Upstream::always(says_at(&stops, ["Hel", "lo"])).await;
    fixture.persona("helper", model.base_url()).await;
    let worker = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.requests == 1).await;
    let waiting = fixture.ask("helper", false).await;
    model
        .until("both are asked", |counts| counts.requests == 2)
        .await;
    worker.stop.cancel();
    let late = fixture.ask("helper", false).await;
    stops.open();
    assert_eq!(worker.ended().await.expect("stops"), Ended::Stopped);
    for task in [task, waiting] {
        let outcome = fixture.outcome(&task).await;
        assert_eq!(outcome.content.as_deref(), Some("Hello"));
    }
    assert_eq!(fixture.state(&late).await, TaskState::Queued);
    assert_eq!(fixture.worker_stats("a").await, None);
}

#[tokio::test]
async fn what_runs_longer_than_the_drain_timeout_is_handed_back_without_a_loss() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(vec![
        stream_head("text/event-stream"),
        token("x"),
        Step::Hang,
    ])
    .await;
    fixture.persona("helper", model.base_url()).await;
    let mut options = fixture.options("a");
    options.drain_timeout = "100ms".parse().expect("a span");
    let worker = fixture.worker_with(options).await;
    let task = fixture.ask("helper", false).await;
    let streamed = fixture.ask("helper", true).await;
    eventually("the first token", async || {
        (!fixture.text(&streamed).await.is_empty()).then_some(())
    })
    .await;
    model
        .until("both are asked", |counts| counts.open == 2)
        .await;
    assert_eq!(worker.stopped().await.expect("stops"), Ended::Stopped);
    model.until("hung up", |counts| counts.given_up == 2).await;
    let output = fixture.output(&task).await.expect("there");
    assert_eq!(
        (output.state, output.failed_attempts),
        (TaskState::Queued, 0)
    );
    // A client has seen a part of this one: it ends, in one clean error.
    let error = fixture.outcome(&streamed).await.error.expect("an error");
    assert_eq!(error.code, "interrupted");
    assert_eq!(fixture.stats().await.running, 0);
}

#[tokio::test]
async fn a_worker_that_was_drained_for_its_drain_timeout_hands_back_as_soon_as_it_is_stopped() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(vec![Step::Hang]).await;
    fixture.persona("helper", model.base_url()).await;
    let drain_timeout = Duration::from_secs(3);
    let mut options = fixture.options("a");
    options.drain_timeout = "3s".parse().expect("a span");
    let worker = fixture.worker_with(options).await;
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.open == 1).await;
    fixture.queue.drain("a", true).await.expect("drains");
    tokio::time::sleep(drain_timeout).await;
    assert_eq!(fixture.state(&task).await, TaskState::Running);
    tokio::select! {
        ended = worker.stopped() => assert_eq!(ended.expect("stops"), Ended::Stopped),
        () = tokio::time::sleep(drain_timeout) => panic!("it has its drain timeout once more"),
    }
    assert_eq!(fixture.state(&task).await, TaskState::Queued);
}

#[tokio::test]
async fn a_worker_that_was_called_back_has_its_whole_drain_timeout_again() {
    let fixture = Fixture::new().await;
    let mut steps = vec![Step::Pause(Duration::from_millis(300))];
    steps.extend(says(&["Hello"]));
    let model = Upstream::always(steps).await;
    fixture.persona("helper", model.base_url()).await;
    let mut options = fixture.options("a");
    options.drain_timeout = "3s".parse().expect("a span");
    let worker = fixture.worker_with(options).await;
    fixture.queue.drain("a", true).await.expect("drains");
    tokio::time::sleep(Duration::from_secs(3)).await;
    fixture.queue.drain("a", false).await.expect("undrains");
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.requests == 1).await;
    assert_eq!(worker.stopped().await.expect("stops"), Ended::Stopped);
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.content.as_deref(), Some("Hello"));
}

#[tokio::test]
async fn a_task_that_was_taken_away_stops_and_its_next_attempt_does_not() {
    let fixture = Fixture::new().await;
    let model = Upstream::start(|received| match received.number {
        1 => vec![Step::Hang],
        _ => says(&["Hello"]),
    })
    .await;
    fixture.persona("helper", model.base_url()).await;
    let _worker = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.open == 1).await;
    let reaped = fixture.queue.reap_worker("a").await.expect("reaps");
    assert_eq!(reaped.len(), 1);
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.content.as_deref(), Some("Hello"));
    model.until("hung up", |counts| counts.given_up == 1).await;
    assert_eq!(model.counts().requests, 2);
}

#[tokio::test]
async fn an_instance_that_another_one_has_followed_stops_with_an_error() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(vec![Step::Hang]).await;
    fixture.persona("helper", model.base_url()).await;
    let old = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.open == 1).await;
    let new = fixture.worker("a").await;
    let error = old.ended().await.expect_err("superseded");
    assert!(matches!(error, Error::Superseded(_)), "{error}");
    model
        .until("asked again by the new one", |counts| {
            counts.requests == 2 && counts.open == 1
        })
        .await;
    assert_eq!(model.counts().given_up, 1);
    assert_eq!(fixture.state(&task).await, TaskState::Running);
    drop(new);
    model.until("hung up", |counts| counts.open == 0).await;
}

#[tokio::test]
async fn a_worker_asks_to_be_replaced_and_serves_until_it_is_drained() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["Hello"])).await;
    fixture.persona("helper", model.base_url()).await;
    let mut options = fixture.options("a");
    options.recycle_after_tasks = 3;
    let slots = options.slots;
    let worker = fixture.worker_with(options).await;
    for _ in 0..3 {
        let task = fixture.ask("helper", false).await;
        fixture.outcome(&task).await;
    }
    let asks = |worker: &WorkerStats| worker.recycle == Some(RecycleReason::Tasks);
    let stats = fixture.until_worker("a", "it asks", asks).await;
    assert_eq!((stats.slots, stats.draining), (slots, false));
    for _ in 0..4 {
        let task = fixture.ask("helper", false).await;
        let outcome = fixture.outcome(&task).await;
        assert_eq!(outcome.content.as_deref(), Some("Hello"));
    }
    fixture.queue.drain("a", true).await.expect("drains");
    fixture
        .until_worker("a", "drained", |worker| worker.drained)
        .await;
    assert_eq!(worker.stopped().await.expect("stops"), Ended::Stopped);
    assert_eq!(model.counts().requests, 7);
}

#[tokio::test]
async fn beside_a_model_server_a_worker_starts_afresh_in_its_place_and_loses_no_task() {
    let fixture = Fixture::new().await;
    let mut steps = vec![Step::Pause(Duration::from_millis(100))];
    steps.extend(says(&["Hello"]));
    let model = Upstream::always(steps).await;
    fixture.persona("helper", model.base_url()).await;
    let mut options = fixture.options("a");
    options.recycle_after_tasks = 3;
    options.model_server = Some(ModelServerKind::LlamaCpp);
    let worker = fixture.worker_with(options).await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        tasks.push(fixture.ask("helper", false).await);
    }
    assert_eq!(
        worker.ended().await.expect("ends"),
        Ended::Recycle(Reason::Tasks)
    );
    let mut completed = 0;
    for task in &tasks {
        match fixture.state(task).await {
            TaskState::Ended => completed += 1,
            state => assert_eq!(state, TaskState::Queued),
        }
    }
    assert!((3..8).contains(&completed), "{completed}");
    let _next = fixture.worker("a").await;
    for task in &tasks {
        assert_eq!(
            fixture.outcome(task).await.content.as_deref(),
            Some("Hello")
        );
    }
    assert_eq!(model.counts().requests, 8);
}

#[tokio::test]
async fn age_and_memory_are_reasons_to_start_afresh_too() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["Hello"])).await;
    fixture.persona("helper", model.base_url()).await;
    let mut options = fixture.options("a");
    options.recycle_after_age = "50ms".parse().expect("a span");
    options.model_server = Some(ModelServerKind::LlamaCpp);
    let worker = fixture.worker_with(options).await;
    assert_eq!(
        worker.ended().await.expect("ends"),
        Ended::Recycle(Reason::Age)
    );
    // In another pool: here it would wait until the first is back.
    let fixture = Fixture::new().await;
    fixture.persona("helper", model.base_url()).await;
    let mut options = fixture.options("b");
    options.recycle_at_memory = "1Mi".parse().expect("a size");
    options.model_server = Some(ModelServerKind::LlamaCpp);
    let worker = fixture.worker_with(options).await;
    let task = fixture.ask("helper", false).await;
    fixture.outcome(&task).await;
    assert_eq!(
        worker.ended().await.expect("ends"),
        Ended::Recycle(Reason::Memory)
    );
}

#[tokio::test]
async fn pages_tell_the_truth_and_metrics_the_load() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(says(&["Hello"])).await;
    fixture.persona("helper", model.base_url()).await;
    let mut options = fixture.options("a");
    let duties = Duties {
        phase: "Hybrid".into(),
        ..Duties::default()
    };
    assert!(fixture.queue.assign(POOL, &duties).await.expect("assigns"));
    options.device = "gpu".into();
    let worker = fixture.worker_with(options).await;
    eventually("ready", async || {
        (worker.get("/readyz").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(worker.get("/livez").await, (200, "ok\n".into()));
    for stream in [false, true, true] {
        let task = fixture.ask("helper", stream).await;
        fixture.outcome(&task).await;
    }
    let labels = &[r#"namespace="team-a""#, r#"phase="Hybrid""#];
    eventually("all are counted", async || {
        let count = worker.metric("persona_tasks_total", labels).await;
        (count == 3.0).then_some(())
    })
    .await;
    let placed = &[
        r#"namespace="team-a""#,
        r#"phase="Hybrid""#,
        r#"device="gpu""#,
    ];
    for name in [
        "persona_task_wait_seconds_count",
        "persona_task_duration_seconds_count",
        "persona_first_token_seconds_count",
    ] {
        assert_eq!(worker.metric(name, placed).await, 3.0, "{name}");
    }
    let provider = r#"provider="OpenAICompatible""#;
    assert_eq!(
        worker
            .metric(
                "persona_attempts_total",
                &[provider, r#"result="completed""#]
            )
            .await,
        3.0
    );
    assert_eq!(
        worker
            .metric("persona_tokens_total", &[provider, r#"kind="input""#])
            .await,
        15.0
    );
    assert_eq!(
        worker
            .metric("persona_tokens_total", &[provider, r#"kind="output""#])
            .await,
        6.0
    );
    assert!(worker.metric("persona_worker_memory_bytes", &[]).await > 1e6);
    assert_eq!(
        worker.metric("persona_worker_recycles_total", &[]).await,
        0.0
    );
    worker.stop.cancel();
    let address = worker.worker.address();
    worker.ended().await.expect("stops");
    eventually("closed", async || {
        reqwest::get(format!("http://{address}/livez")).await.err()
    })
    .await;
}

#[tokio::test]
async fn a_stopping_worker_is_not_ready_while_its_task_ends() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(vec![Step::Hang]).await;
    fixture.persona("helper", model.base_url()).await;
    let worker = fixture.worker("a").await;
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.open == 1).await;
    worker.stop.cancel();
    let (code, text) = worker.get("/readyz").await;
    assert_eq!((code, text.as_str()), (503, "worker: stopping\n"));
    let free = |worker: &WorkerStats| worker.slots - worker.running;
    fixture
        .until_worker("a", "no free slot", |worker| free(worker) == 0)
        .await;
    fixture.queue.cancel(&task).await.expect("cancels");
    assert_eq!(worker.ended().await.expect("stops"), Ended::Stopped);
}
