//! What the way through gateway, queue and worker adds to a call of the same upstream.
//!
//! `cargo bench --bench gateway`: requests are sent at a fixed rate, each on its own schedule, in turns
//! directly and through the gateway; everything shares this process and this machine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use persona_operator::api::runtime::{PLAIN_LANE, PersonaConfig};
use persona_operator::api::{Generation, Provider, QueueLimits};
use persona_operator::gateway::{Gateway, Options};
use persona_operator::queue::routing::{Route, Target};
use persona_operator::queue::task::{Outcome, Usage};
use persona_operator::queue::work::{LEASE, Take, Taken};
use persona_operator::queue::{NamespaceQueue, Queue, QueueOptions};
use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testbed::{Redis, RedisOptions};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Requests a second.
const RATES: [u32; 4] = [50, 200, 400, 1000];
/// Turns of each way at each rate, and how long one is.
const TURNS: u32 = 3;
const TURN: Duration = Duration::from_secs(4);
/// How long the upstream thinks.
const THINKING: Duration = Duration::from_millis(5);
/// Tasks that the worker runs at once.
const SLOTS: u32 = 256;
const KEY: &str = "key";

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs this too, for nothing but to see that it starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    testbed::install_crypto();
    let redis = Redis::start(RedisOptions::default()).await?;
    let queue = Queue::connect(QueueOptions::new(redis.url()))?;
    let namespace = queue.namespace("bench")?;
    register(&queue, &namespace).await?;
    let upstream = upstream().await?;
    let keys = tempfile::tempdir()?;
    let hash = hex::encode(Sha256::digest(KEY));
    let key = json!({"hash": format!("sha256:{hash}"), "namespaces": ["bench"]});
    std::fs::write(keys.path().join("bench"), key.to_string())?;
    let folder = keys.path().to_str().context("a folder in UTF-8")?;
    let url = redis.url();
    let gateway = ["gateway", "--listen", "127.0.0.1:0", "--queue-url", &url];
    let flags = Flags::try_parse_from(gateway.iter().chain(&["--api-keys-dir", folder]))?;
    let gateway = Gateway::bind(flags.options).await?;
    let through = format!("http://{}/v1/chat/completions", gateway.address());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(gateway.run(stop.clone()));
    let working = tokio::spawn(work(namespace, upstream.clone()));
    let client = Client::new();
    ask(&client, &through).await?;

    println!("ping of Redis: p50 {:.2} ms", ping(&queue).await?);
    println!("requests/s   direct p50/p99    gateway p50/p99   added p50/p99 (ms)");
    for rate in RATES {
        let (mut direct, mut gateway) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            direct.extend(load(&client, &upstream, rate).await?);
            gateway.extend(load(&client, &through, rate).await?);
        }
        let ([d50, d99], [g50, g99]) = (percentiles(direct), percentiles(gateway));
        println!(
            "{rate:>10} {d50:>10.2} / {d99:<6.2} {g50:>8.2} / {g99:<6.2} {:>8.2} / {:<6.2}",
            g50 - d50,
            g99 - d99
        );
    }
    working.abort();
    stop.cancel();
    serving.await??;
    Ok(())
}

/// A model that thinks for a moment and always says the same.
async fn upstream() -> Result<String> {
    let answer = async || {
        sleep(THINKING).await;
        let message = json!({"role": "assistant", "content": "Hello!"});
        Json(json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))
    };
    let router = Router::new().route("/v1/chat/completions", post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(format!("http://{address}/v1/chat/completions"))
}

async fn register(queue: &Queue, namespace: &NamespaceQueue) -> Result<()> {
    queue.install("bench").await?;
    namespace.open("pool").await?;
    let config = PersonaConfig {
        generation: 1,
        provider: Provider::OpenAICompatible,
        model: "tiny".to_owned(),
        endpoint: None,
        api_key: None,
        adapter: None,
        instructions: String::new(),
        generation_settings: Generation::default(),
        timeout_ms: 60_000,
        max_attempts: 3,
    };
    let limits = QueueLimits {
        max_length: 10_000,
        max_concurrency: SLOTS,
        ..QueueLimits::default()
    };
    let route = Route {
        persona: "helper",
        uid: "uid",
        target: Target::Pool("pool"),
        lane: PLAIN_LANE,
        epoch: 1,
        config: &config,
        limits: &limits,
        suspended: false,
        needs: "",
    };
    namespace.route(&route).await?;
    Ok(())
}

/// A worker: takes what there is, asks the upstream, hands in the answer.
async fn work(queue: NamespaceQueue, upstream: String) -> Result<()> {
    let client = Client::new();
    let slots = Arc::new(Semaphore::new(SLOTS as usize));
    let lanes = [PLAIN_LANE.to_owned()];
    let mut bell = queue.bell("pool", &lanes);
    loop {
        let take = Take {
            pool: "pool",
            lanes: &lanes,
            worker: "worker",
            instance: "instance",
            slots_free: u32::try_from(slots.available_permits())?,
            steal_from: &[],
            lease: LEASE,
            loaded: &[],
        };
        let tasks = queue.take(&take).await?.tasks;
        if tasks.is_empty() {
            bell.wait(Duration::from_secs(1)).await?;
        }
        for taken in tasks {
            let slot = slots.clone().acquire_owned().await?;
            let (queue, client, upstream) = (queue.clone(), client.clone(), upstream.clone());
            tokio::spawn(async move {
                let done = answer(&queue, &client, &upstream, &taken).await;
                drop(slot);
                done
            });
        }
    }
}

async fn answer(
    queue: &NamespaceQueue,
    client: &Client,
    upstream: &str,
    taken: &Taken,
) -> Result<()> {
    let request = taken.parse()?.request;
    let response = client.post(upstream).json(&request).send().await?;
    let answer: Value = response.error_for_status()?.json().await?;
    let content = answer["choices"][0]["message"]["content"].as_str();
    let usage = Usage {
        input_tokens: 1,
        output_tokens: 1,
    };
    let outcome = Outcome::completed(content.map(str::to_owned), "stop", Some(usage));
    queue.finish(&taken.task, &taken.fence, &outcome).await?;
    Ok(())
}

async fn ask(client: &Client, url: &str) -> Result<()> {
    let body = json!({"model": "helper", "messages": [{"role": "user", "content": "hi"}]});
    let response = client.post(url).bearer_auth(KEY).json(&body).send().await?;
    let answer: Value = response.error_for_status()?.json().await?;
    let content = &answer["choices"][0]["message"]["content"];
    anyhow::ensure!(content == "Hello!", "a wrong answer: {answer}");
    Ok(())
}

/// One turn. A request's time counts from when it was due, so that a stall is not left out.
async fn load(client: &Client, url: &str, rate: u32) -> Result<Vec<Duration>> {
    let begin = Instant::now() + Duration::from_millis(50);
    let mut requests = JoinSet::new();
    let count = rate * u32::try_from(TURN.as_secs())?;
    for number in 0..count {
        let due = begin + Duration::from_secs(1) * number / rate;
        sleep_until(due).await;
        let (client, url) = (client.clone(), url.to_owned());
        requests.spawn(async move { ask(&client, &url).await.map(|()| due.elapsed()) });
    }
    let mut times = Vec::new();
    while let Some(time) = requests.join_next().await {
        times.push(time??);
    }
    Ok(times)
}

async fn ping(queue: &Queue) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        queue.ping().await?;
        times.push(begin.elapsed());
    }
    Ok(percentiles(times)[0])
}

/// p50 and p99 in ms.
fn percentiles(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    [at(50), at(99)]
}
