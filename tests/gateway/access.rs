//! Who may ask which persona.

use std::fs;
use std::time::{Duration, Instant};

use persona_operator::queue::access::{MasterKey, gateway_user};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testbed::Redis;

use crate::publish::Persona;
use crate::stage::{
    KEY, MASTER, NAMESPACE, PERSONA, Stage, answer_of, chat, error_of, eventually, hash_of, spawn,
    streamed, whole, write_key,
};
use crate::stream::{Events, ends_well};

/// Whether a key is known: a persona that nobody has is then not found.
async fn knows(stage: &Stage, key: &str) -> bool {
    let body = chat(&format!("{NAMESPACE}/nobody"), json!({}));
    let response = answer_of(spawn(stage.ask_as(key, &body))).await;
    match response.status() {
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => true,
        StatusCode::UNAUTHORIZED => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn without_a_known_key_nothing_is_told() {
    let stage = Stage::start().await;
    let bare = || {
        stage
            .client
            .post(stage.url("/v1/chat/completions"))
            .json(&whole())
    };
    let models = || stage.client.get(stage.url("/v1/models"));
    for request in [
        bare(),
        bare().bearer_auth("sk-wrong"),
        bare().bearer_auth(""),
        bare().basic_auth("alice", Some(KEY)),
        models(),
        models().bearer_auth("sk-wrong"),
        stage.client.get(stage.url("/health?verbose")),
    ] {
        let response = answer_of(spawn(request)).await;
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let error = error_of(response, 401, "invalid_api_key").await;
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn keys_are_added_changed_and_removed_while_it_runs() {
    let stage = Stage::start().await;
    let folder = stage.keys.path();
    assert!(!knows(&stage, "second").await);
    write_key(folder, "bob", "second", &["*"]);
    eventually("the new key", async || knows(&stage, "second").await).await;
    write_key(folder, "bob", "third", &["*"]);
    eventually("the changed key", async || knows(&stage, "third").await).await;
    assert!(!knows(&stage, "second").await);
    fs::remove_file(folder.join("bob")).expect("removes");
    eventually("the removal", async || !knows(&stage, "third").await).await;
    assert!(knows(&stage, KEY).await);
    // A file that is no key takes nothing from the others.
    fs::write(folder.join("carol"), "hash: none").expect("writes");
    write_key(folder, "dave", "fourth", &[NAMESPACE]);
    eventually("the key beside it", async || knows(&stage, "fourth").await).await;
    assert!(knows(&stage, KEY).await);
}

#[tokio::test]
async fn model_names_the_persona_with_or_without_its_namespace() {
    let stage = Stage::start().await;
    write_key(stage.keys.path(), "root", "all", &["*"]);
    eventually("the key", async || knows(&stage, "all").await).await;
    let worker = stage.worker().await;
    let full = format!("{NAMESPACE}/{PERSONA}");
    for (key, model, header) in [
        (KEY, PERSONA, None),
        (KEY, full.as_str(), None),
        ("all", full.as_str(), None),
        ("all", PERSONA, Some(NAMESPACE)),
    ] {
        let mut request = stage.ask_as(key, &chat(model, json!({})));
        if let Some(namespace) = header {
            request = request.header("x-persona-namespace", namespace);
        }
        let request = spawn(request);
        worker.take().await.answer("ok").await;
        let body: Value = answer_of(request).await.json().await.expect("JSON");
        assert_eq!(body["model"], model);
    }
    for (key, model, status, code) in [
        (KEY, "nobody", 404, "model_not_found"),
        (KEY, "No Name", 404, "model_not_found"),
        (KEY, "team-b/helper", 403, "permission_denied"),
        ("all", "team-b/helper", 404, "model_not_found"),
        ("all", PERSONA, 400, "namespace_required"),
    ] {
        let request = stage.ask_as(key, &chat(model, json!({})));
        let error = error_of(answer_of(spawn(request)).await, status, code).await;
        assert_eq!(error["param"], "model", "{model}");
    }
}

#[tokio::test]
async fn models_are_those_that_the_key_reaches() {
    let stage = Stage::start().await;
    stage.publish(Persona::new(NAMESPACE, "teacher")).await;
    stage.publish(Persona::new("team-b", "critic")).await;
    write_key(stage.keys.path(), "root", "all", &["*"]);
    let personas = json!(["critic", "team-a/teacher"]);
    let some = json!({"hash": hash_of("some"), "namespaces": ["*"], "personas": personas});
    fs::write(stage.keys.path().join("some"), some.to_string()).expect("writes");
    eventually("the keys", async || {
        knows(&stage, "all").await && knows(&stage, "some").await
    })
    .await;
    let get = async |key: &str, path: &str| {
        let request = stage.client.get(stage.url(path)).bearer_auth(key);
        answer_of(spawn(request)).await
    };
    for (key, expected) in [
        (KEY, vec!["helper", "teacher"]),
        (
            "all",
            vec!["team-a/helper", "team-a/teacher", "team-b/critic"],
        ),
        ("some", vec!["team-a/teacher", "team-b/critic"]),
    ] {
        let body: Value = get(key, "/v1/models").await.json().await.expect("JSON");
        assert_eq!(body["object"], "list");
        let list = body["data"].as_array().expect("a list");
        let ids: Vec<_> = list
            .iter()
            .map(|model| model["id"].as_str().expect("an id"))
            .collect();
        assert_eq!(ids, expected);
        for id in ids {
            let model: Value = get(key, &format!("/v1/models/{id}"))
                .await
                .json()
                .await
                .expect("JSON");
            assert_eq!(
                (&model["id"], &model["object"]),
                (&json!(id), &json!("model"))
            );
            assert!(list.contains(&model));
        }
    }
    error_of(get(KEY, "/v1/models/nobody").await, 404, "model_not_found").await;
    error_of(
        get(KEY, "/v1/models/team-b/critic").await,
        403,
        "permission_denied",
    )
    .await;
    error_of(
        get("some", "/v1/models/team-a%2Fhelper").await,
        403,
        "permission_denied",
    )
    .await;
    let encoded = get("all", "/v1/models/team-a%2Fhelper").await;
    assert_eq!(encoded.status(), 200, "SDKs encode the slash");
}

#[tokio::test]
async fn gateways_own_user_is_all_it_needs() {
    let redis = Redis::shared().await.expect("a Redis");
    let stage = Stage::as_own_user(redis).await;
    let mut worker = stage.worker().await;
    let request = stage.send(&whole());
    worker.take().await.answer("ok").await;
    assert_eq!(answer_of(request).await.status(), 200);
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("a").await;
    let mut events = Events::of(answer_of(request).await);
    events.data().await;
    // Well below the time after which it would look for itself: it was told.
    let told = Instant::now();
    job.say("b").await;
    assert_eq!(events.text().await, "a");
    assert_eq!(events.text().await, "b");
    let after = told.elapsed();
    assert!(after < Duration::from_millis(4500), "{after:?}");
    job.end().await;
    ends_well(events).await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("a").await;
    drop(answer_of(request).await);
    assert_eq!(worker.cancelled().await, job.taken.task);
    assert_eq!(stage.json("/v1/models").await["data"][0]["id"], PERSONA);
    let health = stage.json("/health?verbose").await;
    assert_eq!(health["status"], "ok", "{health}");
    assert_eq!(health["pools"][0]["workers"], 1);
}

#[tokio::test]
async fn gateways_own_user_speaks_on_its_prefix_only() {
    let redis = Redis::shared().await.expect("a Redis");
    let stage = Stage::as_own_user(redis).await;
    let user = gateway_user(stage.queue.prefix());
    let password = MasterKey::new(MASTER).gateway_password(1);
    let url = format!("redis://{user}:{password}@127.0.0.1:{}/", redis.port());
    let connection = testbed::redis::connection(url).await;
    let mut connection = connection.expect("connects");
    for refused in [
        &["PUBLISH", "other:{team-a}:ctl:w", "task"][..],
        &["GET", "other:{team-a}:epoch"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "*"],
        &["KEYS", "*"],
    ] {
        let mut command = redis::cmd(refused[0]);
        command.arg(&refused[1..]);
        let answer = command.exec_async(&mut connection).await;
        let words = answer.expect_err(refused[0]).to_string();
        assert!(words.contains("permission"), "{refused:?}: {words}");
    }
}
