//! Real worker processes: killed, terminated, replaced by themselves.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use persona_operator::queue::fleet::Fate;
use persona_operator::queue::submit::TaskState;
use persona_operator::queue::task::OutcomeKind;
use testbed::net::Port;
use testbed::process::Process;

use crate::fixture::{Fixture, NAMESPACE, POOL, eventually};
use crate::upstream::{Gate, Step, Upstream, says, says_at, stream_head, token};

/// A worker process and its log.
pub struct WorkerProcess {
    process: Process,
    port: Port,
    folder: tempfile::TempDir,
}

impl WorkerProcess {
    /// Starts one and waits until it is registered.
    pub async fn start(fixture: &Fixture, uid: &str, more: &[(&str, &str)]) -> Self {
        let port = Port::free().expect("a port");
        let folder = tempfile::tempdir().expect("a folder");
        let log = File::create(folder.path().join("log")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_persona-operator"));
        command
            .arg("worker")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .env_clear()
            .env("PERSONA_LISTEN", format!("127.0.0.1:{}", port.number()))
            .env("PERSONA_QUEUE_URL", &fixture.url)
            .env("PERSONA_QUEUE_PREFIX", &fixture.prefix)
            .env("PERSONA_NAMESPACE", NAMESPACE)
            .env("PERSONA_POOL", POOL)
            .env("POD_UID", uid)
            .env("POD_IP", "127.0.0.1")
            .env("PERSONA_SLOTS", "2")
            .envs(more.iter().copied());
        let process = Process::spawn(command).expect("starts");
        let worker = Self {
            process,
            port,
            folder,
        };
        fixture.until_worker(uid, "registration", |_| true).await;
        worker
    }

    fn terminate(&self) {
        let pid = self.process.pid().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("runs").success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    /// A page, when it answers well: a process that replaces itself does not listen for a moment.
    async fn page(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.port.number());
        eventually("the page", async || {
            let page = reqwest::get(&url).await.ok()?.error_for_status();
            page.ok()?.text().await.ok()
        })
        .await
    }

    /// Whether the words stand in the log in this order.
    fn logged_in_order(&self, words: &[&str]) -> bool {
        let log = self.log();
        let mut rest = log.as_str();
        words.iter().all(|word| match rest.split_once(word) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

#[tokio::test]
async fn the_task_of_a_killed_worker_is_completed_by_another_one_and_once() {
    let fixture = Fixture::new().await;
    let model = Upstream::start(|received| {
        // Whoever asks second gets an answer.
        let first = received.number == 1;
        if first {
            vec![stream_head("text/event-stream"), token("Hel"), Step::Hang]
        } else {
            says(&["Hello"])
        }
    })
    .await;
    fixture.persona("helper", model.base_url()).await;
    let killed = WorkerProcess::start(&fixture, "a", &[]).await;
    let task = fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.open == 1).await;
    killed.process.kill().await.expect("killed");
    model.until("hung up", |counts| counts.given_up == 1).await;
    assert_eq!(fixture.state(&task).await, TaskState::Running);

    let reaped = fixture.queue.reap_worker("a").await.expect("reaps");
    assert_eq!(reaped.len(), 1);
    assert_eq!(reaped[0].fate, Fate::Requeued);
    let _other = WorkerProcess::start(&fixture, "b", &[]).await;
    let outcome = fixture.outcome(&task).await;
    assert_eq!(outcome.content.as_deref(), Some("Hello"));
    assert_eq!(model.counts().requests, 2);
}

#[tokio::test]
async fn a_terminated_worker_stops_in_order_and_exits_with_success() {
    let fixture = Fixture::new().await;
    let stops = Gate::default();
    let model = Upstream::always(says_at(&stops, ["Hel", "lo"])).await;
    fixture.persona("helper", model.base_url()).await;
    let worker = WorkerProcess::start(&fixture, "a", &[]).await;
    let (whole, streamed) = (
        fixture.ask("helper", false).await,
        fixture.ask("helper", true).await,
    );
    model.until("asked", |counts| counts.open == 2).await;
    worker.terminate();
    let late = fixture.ask("helper", false).await;
    eventually("it waits for both", async || {
        worker.logged_in_order(&["shutdown 2 of 5"]).then_some(())
    })
    .await;
    stops.open();
    let status = worker.process.wait().await.expect("ends");
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    let steps = [
        "shutdown 1 of 5: taking no new requests",
        "shutdown 2 of 5: waiting for active tasks running=2",
        "shutdown 3 of 5: closing the pool handed_back=0",
        "shutdown 4 of 5: closing the connections to Redis",
        "shutdown 5 of 5: exiting",
    ];
    assert!(worker.logged_in_order(&steps), "{}", worker.log());
    assert_eq!(
        fixture.outcome(&whole).await.content.as_deref(),
        Some("Hello")
    );
    assert_eq!(
        fixture.outcome(&streamed).await.outcome,
        OutcomeKind::Completed
    );
    assert_eq!(fixture.text(&streamed).await, "Hello");
    assert_eq!(fixture.state(&late).await, TaskState::Queued);
    assert_eq!(fixture.worker_stats("a").await, None);
}

#[tokio::test]
async fn a_second_signal_ends_a_worker_at_once() {
    let fixture = Fixture::new().await;
    let model = Upstream::always(vec![Step::Hang]).await;
    fixture.persona("helper", model.base_url()).await;
    let worker = WorkerProcess::start(&fixture, "a", &[]).await;
    fixture.ask("helper", false).await;
    model.until("asked", |counts| counts.open == 1).await;
    worker.terminate();
    eventually("the first one is heard", async || {
        worker.logged_in_order(&["shutdown 2 of 5"]).then_some(())
    })
    .await;
    worker.terminate();
    let status = worker.process.wait().await.expect("ends");
    assert_eq!(status.code(), Some(1), "{}", worker.log());
}

#[tokio::test]
async fn beside_a_model_server_a_worker_starts_afresh_in_its_own_process_and_loses_no_task() {
    let fixture = Fixture::new().await;
    let mut steps = vec![Step::Pause(Duration::from_millis(20))];
    steps.extend(says(&["Hello"]));
    let model = Upstream::always(steps).await;
    fixture.persona("helper", model.base_url()).await;
    let settings = [
        ("PERSONA_RECYCLE_AFTER_TASKS", "5"),
        ("PERSONA_MODEL_SERVER", "Ollama"),
    ];
    let worker = WorkerProcess::start(&fixture, "a", &settings).await;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        tasks.push(fixture.ask("helper", false).await);
    }
    for task in &tasks {
        let outcome = fixture.outcome(task).await;
        assert_eq!(
            outcome.content.as_deref(),
            Some("Hello"),
            "{}",
            worker.log()
        );
        assert_eq!(
            fixture.output(task).await.expect("there").failed_attempts,
            0
        );
    }
    assert_eq!(model.counts().requests, 20);
    assert_eq!(
        worker.process.exited(),
        None,
        "the pid is the same all along"
    );
    let log = worker.log();
    let mut instances: Vec<_> = log
        .lines()
        .filter_map(|line| {
            line.split_once("registered instance=\"")?
                .1
                .split('"')
                .next()
        })
        .collect();
    let starts = instances.len();
    instances.sort_unstable();
    instances.dedup();
    assert!(starts >= 3, "{log}");
    assert_eq!(
        instances.len(),
        starts,
        "each start is an instance of its own"
    );
    // On the same port, and the count goes on.
    let metric = worker.page("/metrics").await;
    let count = |reason: &str| {
        let name = format!("persona_worker_recycles_total{{reason=\"{reason}\"}} ");
        let line = metric.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("a count").parse::<usize>().expect("a number")
    };
    assert!(
        count("tasks") + 1 >= starts.min(4) && count("tasks") < starts + 1,
        "{metric}"
    );
    assert_eq!(count("age"), 0);
    worker.page("/livez").await;
}

#[tokio::test]
async fn beside_model_servers_workers_start_afresh_one_at_a_time_and_lose_no_task() {
    let fixture = Fixture::new().await;
    let mut steps = vec![Step::Pause(Duration::from_millis(50))];
    steps.extend(says(&["Hello"]));
    let model = Upstream::always(steps).await;
    fixture.persona("helper", model.base_url()).await;
    let settings = [
        ("PERSONA_RECYCLE_AFTER_TASKS", "10"),
        ("PERSONA_MODEL_SERVER", "Ollama"),
    ];
    let mut workers = Vec::new();
    for uid in ["a", "b", "c"] {
        workers.push(WorkerProcess::start(&fixture, uid, &settings).await);
    }
    let mut tasks = Vec::new();
    for _ in 0..100 {
        tasks.push(fixture.ask("helper", false).await);
    }
    eventually("all have ended", async || {
        let stats = fixture.stats().await;
        // One that takes nothing more until it has started afresh says how much it still runs.
        let aside = stats.workers.iter().filter(|worker| worker.slots < 2);
        assert!(aside.count() <= 1, "{stats:?}");
        (stats.queued + stats.running == 0).then_some(())
    })
    .await;
    for task in &tasks {
        let output = fixture.output(task).await.expect("there");
        let content = output.outcome.expect("ended").content;
        assert_eq!(content.as_deref(), Some("Hello"));
        assert_eq!(output.failed_attempts, 0);
    }
    assert_eq!(model.counts().requests, 100, "none ran twice");
    // The last one may still wait for its turn when the tasks have ended.
    eventually("all have started afresh", async || {
        let logs = workers.iter().map(WorkerProcess::log);
        let starts = logs.map(|log| log.matches("registered instance").count());
        (starts.sum::<usize>() >= 3 + 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_setting_that_cannot_be_right_is_named_at_the_start() {
    let output = Command::new(env!("CARGO_BIN_EXE_persona-operator"))
        .args([
            "worker",
            "--queue-url=nonsense",
            "--namespace=a",
            "--pool=p",
        ])
        .args(["--pod-uid=u", "--pod-ip=127.0.0.1", "--listen=127.0.0.1:0"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("PERSONA_QUEUE_URL"), "{text}");
}
