//! What monitors and load balancers ask.

use jiff::Timestamp;
use serde_json::json;
use testbed::{Redis, RedisOptions};

use crate::publish::Persona;
use crate::stage::{
    NAMESPACE, PERSONA, Stage, answer_of, chat, eventually, spawn, streamed, whole,
};
use crate::stream::{Events, ends_well};
use crate::worker::{SLOTS, Worker};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn health_tells_the_slots_of_ready_workers() {
    let stage = Stage::start().await;
    let first = stage.worker().await;
    stage.worker().await;
    let before = Timestamp::now();
    // Anyone may ask: it names nothing.
    let response = answer_of(spawn(stage.client.get(stage.url("/health")))).await;
    assert_eq!(response.status(), 200);
    let mut body: serde_json::Value = response.json().await.expect("JSON");
    let at: Timestamp = body["timestamp"]
        .as_str()
        .expect("text")
        .parse()
        .expect("RFC 3339");
    assert!(at >= before && at <= Timestamp::now());
    body["timestamp"] = json!(null);
    let pool = json!({"threadCount": 2 * SLOTS, "isInitialized": true});
    assert_eq!(
        body,
        json!({"status": "ok", "timestamp": null, "workerPool": pool})
    );
    stage
        .namespace()
        .drain(first.uid(), true)
        .await
        .expect("drains");
    eventually("fewer slots", async || {
        stage.json("/health").await["workerPool"]["threadCount"] == SLOTS
    })
    .await;
}

#[tokio::test]
async fn health_says_what_is_wrong() {
    let stage = Stage::start().await;
    let waiting = stage.send(&whole());
    let reasons = async || stage.json("/health").await["reasons"].clone();
    let stuck = json!(["pools with waiting requests and no ready worker: 1"]);
    eventually("the reason", async || reasons().await == stuck).await;
    assert_eq!(stage.json("/health").await["status"], "degraded");
    stage.worker().await.take().await.answer("ok").await;
    assert_eq!(answer_of(waiting).await.status(), 200);
    eventually("health", async || {
        stage.json("/health").await["status"] == "ok"
    })
    .await;
    std::fs::remove_file(stage.keys.path().join("alice")).expect("removes");
    let keyless = json!(["there is no API key"]);
    eventually("the reason", async || reasons().await == keyless).await;
}

#[tokio::test]
async fn verbose_health_lists_the_pools_that_the_key_may_see() {
    let stage = Stage::start().await;
    stage.publish(Persona::new("team-b", "critic")).await;
    let other = stage.queue.namespace("team-b").expect("a name");
    Worker::start(&other).await;
    stage.worker().await;
    let body = stage.json("/health?verbose").await;
    assert_eq!(body["workerPool"]["threadCount"], 2 * SLOTS);
    let pools = json!([{
        "namespace": NAMESPACE, "pool": "pool", "threadCount": SLOTS, "isInitialized": true,
        "workers": 1, "queued": 0, "running": 0, "oldestWaitMs": 0,
    }]);
    assert_eq!(body["pools"], pools);
}

#[tokio::test]
async fn gateway_is_ready_once_it_has_reached_its_queue() {
    let redis = Redis::start(RedisOptions::default())
        .await
        .expect("a Redis");
    redis.stop().await.expect("stops");
    let stage = Stage::unready(&redis, &[]).await;
    let response = stage.get("/readyz").await;
    assert_eq!(response.status(), 503);
    assert_eq!(
        response.text().await.expect("text"),
        "queue: not reached yet\n"
    );
    assert_eq!(stage.get("/livez").await.status(), 200);
    redis.restart().await.expect("restarts");
    eventually("readiness", async || {
        stage.get("/readyz").await.status() == 200
    })
    .await;
    // An outage is sat out: requests are held, not sent elsewhere.
    redis.kill().await.expect("kills");
    eventually("degraded health", async || {
        stage.json("/health").await["status"] == "degraded"
    })
    .await;
    assert_eq!(stage.get("/readyz").await.status(), 200);
}

#[tokio::test]
async fn metrics_count_each_request_once_with_its_last_word() {
    let stage = Stage::start().await;
    let worker = stage.worker().await;
    for _ in 0..3 {
        let request = stage.send(&whole());
        worker.take().await.answer("ok").await;
        assert_eq!(answer_of(request).await.status(), 200);
    }
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("ok").await;
    let events = Events::of(answer_of(request).await);
    assert!(
        (stage.count(CHAT, "200").await - 3.0).abs() < 0.1,
        "it is still under way"
    );
    job.end().await;
    ends_well(events).await;
    for _ in 0..2 {
        answer_of(stage.send(&chat("nobody", json!({})))).await;
    }
    answer_of(spawn(stage.ask_as("sk-wrong", &whole()))).await;
    stage.get("/v1/models").await;
    stage.get(&format!("/v1/models/{PERSONA}")).await;
    stage.get("/v1/models/nobody").await;
    stage.get("/some/path").await;
    stage.get("/some/other/path").await;
    for (route, code, count) in [
        (CHAT, "200", 4.0),
        (CHAT, "404", 2.0),
        (CHAT, "401", 1.0),
        ("/v1/models", "200", 1.0),
        ("/v1/models/{id}", "200", 1.0),
        ("/v1/models/{id}", "404", 1.0),
        ("other", "404", 2.0),
    ] {
        let is = async || (stage.count(route, code).await - count).abs() < 0.1;
        eventually(&format!("{count} of {route} {code}"), is).await;
    }
    let text = stage.get("/metrics").await.text().await.expect("text");
    let seconds =
        format!("persona_gateway_request_seconds_count{{code=\"200\",route=\"{CHAT}\"}} 4");
    assert!(text.contains(&seconds), "{text}");
    assert!(
        !text.contains("nobody") && !text.contains(PERSONA),
        "no names in labels: {text}"
    );
}

#[tokio::test]
async fn metrics_and_probes_can_have_a_port_of_their_own() {
    let port = testbed::net::Port::free().expect("a port");
    let listen = format!("127.0.0.1:{}", port.number());
    let redis = Redis::shared().await.expect("a Redis");
    let stage = Stage::unready(redis, &["--metrics-listen", &listen]).await;
    eventually("readiness", async || {
        let asked = stage
            .client
            .get(format!("http://{listen}/readyz"))
            .send()
            .await;
        asked.is_ok_and(|response| response.status() == 200)
    })
    .await;
    assert_eq!(stage.get("/metrics").await.status(), 404);
    assert_eq!(stage.get("/health").await.status(), 200);
}
