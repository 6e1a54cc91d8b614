//! A model server in the pool's own pods: a real llama.cpp beside a real worker.

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use persona_operator::api::{Persona, WorkerPool};
use serde_json::json;
use testbed::image::{LLAMA, LLAMA_ADAPTERS, LLAMA_WEIGHTS};

use crate::harness::{Stage, eventually, manifest};

fn server(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == "model-server")
}

fn ready(pool: &WorkerPool) -> Option<(&str, &str, &str)> {
    let conditions = pool.status.as_ref()?.conditions.iter();
    let mut ready = conditions.filter(|c| c.type_ == "Ready");
    let ready = ready.next()?;
    Some((&ready.status, &ready.reason, &ready.message))
}

#[tokio::test]
async fn a_model_beside_its_worker_answers_and_a_crash_is_seen_and_mended() -> Result<()> {
    let Some(stage) = Stage::enter("servers").await? else {
        return Ok(());
    };
    stage.node.import_llama().await?;
    let model = json!({
        "provider": "OpenAICompatible",
        "name": LLAMA_WEIGHTS,
        "server": {"kind": "LlamaCpp", "image": LLAMA},
        "requirements": {"contextTokens": 512},
    });
    let spec = json!({"model": model, "timeout": "60s", "generation": {"maxTokens": 8}});
    stage
        .create::<Persona>(manifest("Persona", "local", spec))
        .await?;
    stage.wait_ready("persona/local").await?;
    let text = stage.answer("local").await?;
    assert!(!text.trim().is_empty(), "{text:?}");

    let pods = stage.workers().await?;
    let pod = pods.first().context("no worker")?;
    let pool = pod.labels()["persona.dev/pool"].clone();
    let killed = server(pod).context("no model server")?;
    let id = killed.container_id.clone().context("it has no container")?;
    let said =
        stage.until::<WorkerPool>(&pool, "down and says why", |found: Option<&WorkerPool>| {
            found.and_then(ready).is_some_and(|(status, _, message)| {
                status == "False" && message.contains("its model server ended 1 times")
            })
        });
    // Requests from just before the crash, and while the server is away: none of them fails.
    let ask = async || try_join_all((0..6).map(|_| stage.answer("local"))).await;
    let after = async {
        stage.node.kill_container(&id).await?;
        ask().await
    };
    let (said, before, after) = tokio::join!(said, ask(), after);
    said?;
    for text in before?.into_iter().chain(after?) {
        assert!(!text.trim().is_empty(), "{text:?}");
    }
    stage.wait_ready(&format!("workerpool/{pool}")).await?;
    let pods = stage.workers().await?;
    let same = pods.iter().find(|p| p.uid() == pod.uid());
    let restarts = same.and_then(server).map(|status| status.restart_count);
    assert_eq!(restarts, Some(1), "the worker's pod lives on");
    stage.leave().await
}

/// Two personas of one model, each with an adapter of its own, and one without: one pool, one server.
#[tokio::test]
async fn personas_with_adapters_share_a_model_server_and_answer_each_in_its_own_way() -> Result<()>
{
    let Some(stage) = Stage::enter("adapters").await? else {
        return Ok(());
    };
    stage.node.import_llama().await?;
    // With one worker at a time, so that the answers are of the same.
    let pool = json!({"minReplicas": 1, "maxReplicas": 1});
    stage
        .create::<WorkerPool>(manifest("WorkerPool", "letters", pool))
        .await?;
    let [one, two] = LLAMA_ADAPTERS;
    for (name, source) in [("plain", None), ("one", Some(one)), ("two", Some(two))] {
        let mut spec = json!({
            "model": {
                "provider": "OpenAICompatible",
                "name": LLAMA_WEIGHTS,
                "server": {"kind": "LlamaCpp", "image": LLAMA},
                "requirements": {"contextTokens": 512},
            },
            "poolRef": {"name": "letters"},
            "timeout": "60s",
            "generation": {"maxTokens": 8, "temperature": 0.0},
        });
        if let Some(source) = source {
            spec["adapter"] = json!({"name": name, "source": source});
        }
        stage
            .create::<Persona>(manifest("Persona", name, spec))
            .await?;
    }
    for name in ["one", "two"] {
        let loaded = |found: Option<&Persona>| {
            found.is_some_and(|persona| {
                let conditions = persona.status.iter().flat_map(|s| &s.conditions);
                let mut adapter = conditions.filter(|c| c.type_ == "AdapterLoaded");
                adapter.any(|c| c.status == "True" && c.reason == "Loaded")
            })
        };
        stage.until::<Persona>(name, "loaded", loaded).await?;
    }
    let names = ["plain", "one", "two"];
    let mut texts = Vec::new();
    for name in names {
        stage.wait_ready(&format!("persona/{name}")).await?;
        texts.push(stage.answer(name).await?);
    }
    let mut different = texts.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 3, "{texts:?}");
    // Side by side in the slots of one server each is like its persona's alone, and not like another's. What is
    // computed beside an answer can turn over a token further on.
    let all = (0..12).map(|at| names[at % names.len()]);
    let together = try_join_all(all.map(|name| stage.answer(name))).await?;
    for (at, text) in together.iter().enumerate() {
        let same = |alone: &String| {
            let pairs = text.chars().zip(alone.chars());
            pairs.take_while(|(one, other)| one == other).count()
        };
        let own = same(&texts[at % texts.len()]);
        let others = texts.iter().map(same).max().unwrap_or_default();
        assert!(
            own == others && own > 0,
            "{text:?}, number {at} of {texts:?}"
        );
    }
    // The worker with fewer adapters goes when its task has ended and its successor is ready.
    eventually("one worker for the three", async || {
        Ok((stage.workers().await?.len() == 1).then_some(()))
    })
    .await?;
    stage.leave().await
}
