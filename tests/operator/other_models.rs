//! A persona gets another model while it is asked all the time: it moves to the pool of that model's class,
//! and is served by the one before until that is ready.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::ListParams;
use persona_operator::api::{Persona, WorkerPool};
use persona_operator::queue::NamespaceQueue;
use persona_operator::queue::submit::{Enqueue, EnqueueAnswer};
use persona_operator::queue::task::OutcomeKind;
use serde_json::{Value, json};
use testbed::upstream::{Step, Upstream, says};
use tokio_util::sync::CancellationToken;

use crate::harness::{Operator, PATIENCE, condition, reason};

/// Requests that wait or run at any time: the persona runs one after the other.
const OPEN: usize = 5;
/// Requests that must be answered by the old model while the new one is not ready.
const MEANWHILE: usize = 20;

/// What the models note, each request a line.
#[derive(Clone)]
struct Log(PathBuf);

/// Server, model that it was asked for, number of the request.
type Line = (String, String, usize);

impl Log {
    fn lines(&self) -> Result<Vec<Line>> {
        let text = match std::fs::read_to_string(self.0.join("log")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let line = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let [server, model, number] = words[..] else {
                anyhow::bail!("not a line: {line}");
            };
            Ok((server.to_owned(), model.to_owned(), number.parse()?))
        };
        text.lines().map(line).collect()
    }

    /// Waits until there are `more` lines than now; those.
    async fn more(&self, more: usize) -> Result<Vec<Line>> {
        let before = self.lines()?.len();
        let coming = async {
            loop {
                let lines = self.lines()?;
                if lines.len() >= before + more {
                    return anyhow::Ok(lines[before..].to_vec());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let come = tokio::time::timeout(PATIENCE, coming).await;
        come.context("the persona is not served")?
    }

    /// The server of a model gets ready.
    fn open(&self, model: &str) -> Result<()> {
        Ok(std::fs::write(self.0.join(format!("{model}.up")), "")?)
    }
}

/// The model that is called elsewhere; it notes what it is asked as those in pods do.
async fn far(folder: &Path) -> Upstream {
    let log = folder.join("log");
    Upstream::start(move |asked| {
        let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let messages = asked.body["messages"].as_array();
        let content = messages
            .and_then(|all| all.last())
            .map(|m| words(&m["content"]));
        let line = format!(
            "far {} {}\n",
            words(&asked.body["model"]),
            content.unwrap_or_default()
        );
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the log");
        let mut steps = vec![Step::Pause(Duration::from_millis(30))];
        steps.extend(says(&["far"]));
        steps
    })
    .await
}

/// Submits numbered requests until `stop`, a few ahead, and sees each completed; the models that answered.
async fn ask(queue: &NamespaceQueue, stop: &CancellationToken) -> Result<Vec<String>> {
    let mut open: VecDeque<String> = VecDeque::new();
    let mut answers = Vec::new();
    let mut number = 0;
    while !(stop.is_cancelled() && open.is_empty()) {
        while open.len() < OPEN && !stop.is_cancelled() {
            let task = format!("mover-{number}");
            let message = json!({"role": "user", "content": number.to_string()});
            let request = json!({"model": "mover", "messages": [message]});
            let payload = json!({"kind": "chat.completions", "request": request}).to_string();
            let answer = queue
                .enqueue(&Enqueue::new("mover", &task, &payload))
                .await?;
            ensure!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
            open.push_back(task);
            number += 1;
        }
        let task = open.front().context("nothing is open")?;
        let output = queue.output(task, None).await?;
        let output = output.with_context(|| format!("{task} is lost"))?;
        let Some(outcome) = output.outcome else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let completed = outcome.outcome == OutcomeKind::Completed;
        ensure!(
            completed && output.failed_attempts == 0,
            "{task}: {outcome:?}"
        );
        answers.push(outcome.content.unwrap_or_default());
        open.pop_front();
    }
    Ok(answers)
}

/// Where the persona is served.
async fn at(operator: &Operator) -> Result<String> {
    let persona = operator.all::<Persona>().get("mover").await?;
    persona.status.and_then(|s| s.pool).context("nowhere")
}

/// Uids of a pool's pods.
async fn pods(operator: &Operator, pool: &str) -> Result<Vec<String>> {
    let pods = operator.pods(pool).await?;
    let mut uids: Vec<_> = pods.iter().filter_map(ResourceExt::uid).collect();
    uids.sort();
    Ok(uids)
}

/// Waits until a pool has a worker whose model server is not ready.
async fn loading(operator: &Operator) -> Result<()> {
    let looking = async {
        loop {
            let pools = operator.all::<WorkerPool>();
            let pools = pools.list(&ListParams::default()).await?;
            let is = |pool: &WorkerPool| reason(pool, "Ready").as_deref() == Some("ModelLoading");
            if pools.iter().any(is) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let looked = tokio::time::timeout(PATIENCE, looking).await;
    looked.context("no pool loads a model")?
}

/// Waits until the persona is served in another pool than `before`, with its present manifest.
async fn moved(operator: &Operator, before: &str) -> Result<()> {
    let is = |p: Option<&Persona>| {
        p.is_some_and(|p| {
            let status = p.status.clone().unwrap_or_default();
            let elsewhere = status.pool.is_some_and(|pool| pool != before);
            let current = status.observed_generation == p.metadata.generation;
            elsewhere && current && condition(p, "Routed").as_deref() == Some("True")
        })
    };
    operator.until("mover", "moved", is).await?;
    Ok(())
}

/// The controller is killed, and the next one, which knows nothing of before, has looked at the persona.
async fn another_controller(operator: &Operator) -> Result<()> {
    operator.controller.kill().await?;
    operator.controller.restart().await?;
    let weight = json!({"queue": {"weight": 2}});
    operator.patch::<Persona>("mover", weight).await?;
    let seen = |p: Option<&Persona>| {
        let told = p.and_then(|p| p.status.as_ref()?.observed_generation);
        told.is_some() && told == p.and_then(|p| p.metadata.generation)
    };
    operator.until("mover", "seen anew", seen).await?;
    Ok(())
}

/// From the model that is elsewhere over two that each need a pool of their own, and back.
async fn course(operator: &Operator, log: &Log, endpoint: &str) -> Result<()> {
    let requirements = json!({"parameters": "100M"});
    let in_pods = |name: &str| {
        json!({"model": {
            "name": name, "endpoint": null, "apiKeySecretRef": null,
            "server": {"kind": "LlamaCpp"}, "requirements": requirements,
        }})
    };
    let mut before = "far";
    for name in ["one.gguf", "two.gguf"] {
        log.more(OPEN).await?;
        let pool = at(operator).await?;
        let workers = pods(operator, &pool).await?;
        ensure!(!workers.is_empty(), "{pool} has no pods");
        operator.patch::<Persona>("mover", in_pods(name)).await?;
        loading(operator).await?;
        let waits = |p: Option<&Persona>| {
            let status = p.and_then(|p| p.status.as_ref());
            let mut conditions = status.iter().flat_map(|s| &s.conditions);
            conditions.any(|c| {
                let words = "until then requests are answered as of generation";
                c.type_ == "Ready" && c.reason == "WaitingForPool" && c.message.contains(words)
            })
        };
        operator
            .until::<Persona>("mover", "served meanwhile", waits)
            .await?;
        if name == "two.gguf" {
            another_controller(operator).await?;
        }
        let lines = log.more(MEANWHILE).await?;
        let by_old = lines.iter().all(|(server, _, _)| server == before);
        ensure!(by_old, "before {name} is ready: {lines:?}");
        let same = pods(operator, &pool).await? == workers;
        ensure!(same, "the workers of {before} were replaced under it");
        log.open(name)?;
        moved(operator, &pool).await?;
        before = name;
    }
    log.more(OPEN).await?;
    let pool = at(operator).await?;
    let back = json!({"model": {
        "name": "far", "endpoint": endpoint, "apiKeySecretRef": {"name": "far", "key": "key"},
        "server": null, "requirements": null,
    }});
    operator.patch::<Persona>("mover", back).await?;
    moved(operator, &pool).await?;
    log.more(2 * OPEN).await?;
    let gone = |pool: Option<&WorkerPool>| pool.is_none();
    operator.until(&pool, "gone", gone).await?;
    Ok(())
}

#[tokio::test]
async fn a_persona_with_another_model_is_served_by_the_old_one_until_the_new_one_is_ready()
-> Result<()> {
    let operator = Operator::start("models").await?;
    let folder = tempfile::tempdir()?;
    let log = Log(folder.path().to_owned());
    let model = far(folder.path()).await;
    let stand_in = json!({
        "image": "llama.test/server:1",
        "env": [{"name": "SCRIPT_DIR", "value": folder.path()}],
    });
    let template = json!({"containers": {"model-server": stand_in}});
    operator
        .share(json!({"mode": "Generic", "pool": {"maxReplicas": 1, "template": template}}))
        .await?;
    operator
        .create::<Secret>(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "far"},
            "stringData": {"key": "secret"},
        }))
        .await?;
    let keyed = json!({
        "model": {"name": "far", "apiKeySecretRef": {"name": "far", "key": "key"}},
        "queue": {"maxConcurrency": 1},
    });
    operator.persona("mover", &model.base_url(), keyed).await?;
    // Its pool stays when the other one goes.
    let other = Upstream::always(says(&["here"])).await;
    operator
        .persona("stays", &other.base_url(), json!({}))
        .await?;
    operator.ready::<Persona>("mover").await?;
    operator.ready::<Persona>("stays").await?;

    let queue = operator.queue()?;
    let stop = CancellationToken::new();
    let endpoint = model.base_url();
    let moving = async {
        let done = course(&operator, &log, &endpoint).await;
        stop.cancel();
        done
    };
    let (done, answers) = tokio::join!(moving, ask(&queue, &stop));
    done?;
    let answers = answers?;
    let lines = log.lines()?;
    let servers: Vec<&String> = lines.iter().map(|(server, _, _)| server).collect();
    assert_eq!(servers, answers.iter().collect::<Vec<_>>(), "each once");
    for (place, (server, model, number)) in lines.iter().enumerate() {
        assert_eq!(*number, place, "in order");
        assert_eq!(server, model, "nobody is asked for another's model");
    }
    let mut order = servers;
    order.dedup();
    assert_eq!(order, ["far", "one.gguf", "two.gguf", "far"]);
    assert_eq!(operator.answer("stays").await?, "here");
    operator.stop().await
}
