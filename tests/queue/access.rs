//! Tenants apart: what each ACL user may and may not do.

use std::time::Duration;

use persona_operator::queue::access::{MasterKey, gateway_user, namespace_user};
use persona_operator::queue::listen::{ControlMessage, ResultMessage, Ring};
use persona_operator::queue::submit::{ClaimAnswer, Enqueue, EnqueueAnswer};
use persona_operator::queue::task::Chunk;
use persona_operator::queue::work::{Fenced, ReleaseReason};
use persona_operator::queue::{NamespaceQueue, Queue, QueueError, QueueOptions};
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use testbed::{Redis, RedisOptions};

use crate::support::{Fixture, PAYLOAD, fixture, on, persona, soon, until};

fn master() -> MasterKey {
    MasterKey::new("a master key\n")
}

fn options(q: &Fixture, user: &str, password: &str) -> QueueOptions {
    let mut options = QueueOptions::new(q.url.clone());
    options.prefix = q.queue.prefix().to_owned();
    options.username = Some(user.to_owned());
    options.password = Some(password.to_owned());
    options.timeout = Duration::from_secs(20);
    options
}

fn as_user(q: &Fixture, user: &str, password: &str) -> Queue {
    Queue::connect(options(q, user, password)).expect("options")
}

/// A namespace with a persona, and the connection of its user.
async fn tenant(q: &Fixture) -> (Queue, NamespaceQueue) {
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.queue
        .ensure_namespace_user("team", &master(), &[1])
        .await
        .expect("a user");
    let user = namespace_user(q.queue.prefix(), "team");
    let queue = as_user(q, &user, &master().namespace_password("team", 1));
    let ns = queue.namespace("team").expect("a name");
    (queue, ns)
}

/// A connection of a user, for commands that the queue has no verb for.
async fn raw(q: &Fixture, user: &str, password: &str) -> MultiplexedConnection {
    let url = q.url.replace("redis://:", &format!("redis://{user}:"));
    let (head, address) = url.rsplit_once('@').expect("a password");
    let head = head.rsplit_once(':').expect("a user").0;
    let connection = testbed::redis::connection(format!("{head}:{password}@{address}"));
    connection.await.expect("a connection")
}

fn denied<T: std::fmt::Debug>(answer: Result<T, QueueError>) {
    let error = answer.expect_err("it must be refused");
    assert!(matches!(error, QueueError::Denied(_)), "{error}");
}

/// All that worker and gateway do in a namespace.
async fn works(queue: &Queue, ns: &NamespaceQueue) {
    queue.ping().await.expect("pong");
    let mut control = ns.control("w").await.expect("listening");
    let submit = async |task: &str| {
        let task = Enqueue {
            stream: true,
            gateway: Some("gw-1"),
            ..Enqueue::new("p", task, PAYLOAD)
        };
        let answer = ns.enqueue(&task).await.expect("an answer");
        assert!(matches!(answer, EnqueueAnswer::Queued { .. }), "{answer:?}");
    };
    let worker = crate::worker::Worker {
        ns: ns.clone(),
        uid: "w".into(),
        instance: format!("w-{}", rand::random::<u32>()),
        pool: "pool".into(),
        slots: 4,
        lanes: vec!["-".into()],
        steal_from: vec!["other".into()],
        lease: Duration::from_secs(15),
        loaded: Vec::new(),
        load_failures: Vec::new(),
        recycle: None,
    };
    worker.register().await;
    for task in ["t0", "t1", "t2", "t3"] {
        submit(task).await;
    }
    let mut bell = ns.bell("pool", &worker.lanes);
    assert!(bell.wait(Duration::from_secs(20)).await.expect("rung"));
    let tasks = worker.takes(3, &["t0", "t1", "t2"]).await;
    let emitted = ns.emit("t0", &tasks[0].fence, &[Chunk::text("x")]).await;
    assert_eq!(emitted.expect("an answer"), Fenced::Accepted);
    worker.renew(&[&tasks[0]]).await.expect("renewed");
    worker.finish(&tasks[0]).await;
    let later = Duration::from_millis(1);
    worker
        .release(&tasks[1], ReleaseReason::RateLimited, later)
        .await;
    ns.cancel("t2").await.expect("cancelled");
    let message = soon(control.next()).await;
    assert_eq!(message, ControlMessage::Cancel { task: "t2".into() });
    until(async || {
        let claim = ns.claim("t1", "w").await.expect("an answer");
        matches!(claim, ClaimAnswer::Claimed(_))
    })
    .await;
    let output = ns.output("t0", None).await.expect("an answer");
    assert_eq!(output.expect("known").entries.len(), 1);
    assert!(ns.config("p").await.expect("an answer").is_some());
    ns.registration("p").await.expect("an answer");
    ns.dead_letters().await.expect("an answer");
    ns.personas().await.expect("an answer");
    let pools = [(ns.clone(), "pool".to_owned())];
    let stats = queue.stats(&pools).await.expect("stats").remove(0);
    assert_eq!(stats.expect("sound data").workers.len(), 1);
    ns.reap_worker("w").await.expect("reaped");
    ns.cancel("t1").await.expect("cancelled");
    ns.cancel("t3").await.expect("cancelled");
    ns.deregister("pool", "w").await.expect("deregistered");
}

#[tokio::test]
async fn a_namespaces_user_can_do_all_that_its_workers_need() {
    let q = fixture().await;
    let (queue, ns) = tenant(&q).await;
    works(&queue, &ns).await;
}

#[tokio::test]
async fn a_namespaces_user_has_no_way_into_another_namespace() {
    let q = fixture().await;
    let (queue, _) = tenant(&q).await;
    let theirs = q.queue.namespace("team-b").expect("a name");
    theirs.open("pool").await.expect("opened");
    theirs.route(&persona("p").route()).await.expect("routed");
    let other = queue.namespace("team-b").expect("a name");
    denied(other.enqueue(&Enqueue::new("p", "t", PAYLOAD)).await);
    denied(other.cancel("t").await);
    denied(other.output("t", None).await);
    denied(other.config("p").await);
    denied(other.claim("t", "w").await);
    let worker = crate::worker::Worker {
        ns: other.clone(),
        ..q.unregistered("w", "pool", 1)
    };
    denied(worker.try_take(1).await);
    let lanes = ["-".to_owned()];
    denied(
        other
            .bell("pool", &lanes)
            .wait(Duration::from_millis(9))
            .await,
    );
    denied(other.control("w").await.map(drop));
    denied(queue.results("gw-1").await.map(drop));
    denied(queue.doorbell().await.map(drop));
    denied(queue.namespaces().await);
    denied(queue.install("mine-now").await);

    let user = namespace_user(q.queue.prefix(), "team");
    let password = master().namespace_password("team", 1);
    let mut connection = raw(&q, &user, &password).await;
    let key = theirs.keys().persona("p");
    let channel = theirs.keys().control_channel("w");
    for command in [
        vec!["HGET", &key, "config"],
        vec!["HSET", &key, "uid", "mine"],
        vec!["DEL", &key],
        vec!["PUBLISH", &channel, "t"],
        vec!["SUBSCRIBE", &channel],
        vec!["PSUBSCRIBE", "*"],
    ] {
        refused(&mut connection, &command).await;
    }
}

async fn refused(connection: &mut MultiplexedConnection, command: &[&str]) {
    let mut cmd = redis::cmd(command[0]);
    cmd.arg(&command[1..]);
    let answer: Result<(), RedisError> = cmd.query_async(connection).await;
    let error = answer.expect_err("it must be refused");
    assert_eq!(error.code(), Some("NOPERM"), "{command:?}: {error}");
}

#[tokio::test]
async fn neither_user_may_look_around_or_administer() {
    let q = fixture().await;
    tenant(&q).await;
    let users = gateway(&q).await;
    let tenant = (
        namespace_user(q.queue.prefix(), "team"),
        master().namespace_password("team", 1),
    );
    let key = q.ns.keys().persona("p");
    for (user, password) in [tenant, users] {
        let mut connection = raw(&q, &user, &password).await;
        for command in [
            vec!["EVAL", "return 1", "0"],
            vec!["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
            vec!["SCRIPT", "LOAD", "return 1"],
            vec!["SCAN", "0"],
            vec!["KEYS", "*"],
            vec!["RANDOMKEY"],
            vec!["DBSIZE"],
            vec!["FUNCTION", "LIST"],
            vec!["FUNCTION", "FLUSH"],
            vec!["CONFIG", "GET", "requirepass"],
            vec!["CONFIG", "SET", "maxmemory", "1"],
            vec!["ACL", "LIST"],
            vec!["ACL", "SETUSER", "me", "on", "nopass", "+@all", "~*"],
            vec!["CLIENT", "LIST"],
            vec!["CLIENT", "KILL", "TYPE", "normal"],
            vec!["INFO"],
            vec!["INFO", "server"],
            vec!["MONITOR"],
            vec!["FLUSHALL"],
            vec!["FLUSHDB"],
            vec!["SHUTDOWN", "NOSAVE"],
            vec!["REPLICAOF", "NO", "ONE"],
            vec!["SWAPDB", "0", "1"],
            vec!["MOVE", &key, "1"],
            vec!["PUBSUB", "CHANNELS"],
            vec!["MIGRATE", "127.0.0.1", "1", &key, "0", "1"],
        ] {
            refused(&mut connection, &command).await;
        }
    }
}

/// Sets the gateway's user; answers its name and password.
async fn gateway(q: &Fixture) -> (String, String) {
    q.queue
        .ensure_gateway_user(&master(), &[1])
        .await
        .expect("a user");
    (gateway_user(q.queue.prefix()), master().gateway_password(1))
}

#[tokio::test]
async fn the_gateways_user_works_in_all_namespaces_of_its_prefix() {
    let q = fixture().await;
    let (user, password) = gateway(&q).await;
    let queue = as_user(&q, &user, &password);
    let mut results = queue.results("gw-1").await.expect("listening");
    for name in ["team", "team-b"] {
        let admin = q.queue.namespace(name).expect("a name");
        admin.open("pool").await.expect("opened");
        admin.route(&persona("p").route()).await.expect("routed");
        let ns = queue.namespace(name).expect("a name");
        works(&queue, &ns).await;
        let message = soon(results.next()).await;
        let ResultMessage::Chunks { namespace, .. } = message else {
            panic!("{message:?}");
        };
        assert_eq!(namespace, name);
        loop {
            let message = soon(results.next()).await;
            if matches!(&message, ResultMessage::Ended { task, .. } if task == "t3") {
                break;
            }
        }
    }
    let mut namespaces = queue.namespaces().await.expect("a list");
    namespaces.sort();
    assert_eq!(namespaces, ["team", "team-b"]);
}

#[tokio::test]
async fn the_gateways_user_has_no_way_out_of_its_prefix() {
    let q = fixture().await;
    let (user, password) = gateway(&q).await;
    let longer = format!("{}x", q.queue.prefix());
    let mut connection = raw(&q, &user, &password).await;
    for key in [
        "persona:{team}:p:p".to_owned(),
        format!("{longer}:{{team}}:p:p"),
        format!("{}:installation", q.queue.prefix()),
        "anything".to_owned(),
    ] {
        refused(&mut connection, &["HGET", &key, "config"]).await;
        refused(&mut connection, &["DEL", &key]).await;
        refused(&mut connection, &["PUBLISH", &key, "x"]).await;
    }
    let namespaces = format!("{}:namespaces", q.queue.prefix());
    refused(&mut connection, &["SADD", &namespaces, "forged"]).await;
    let mut elsewhere = options(&q, &user, &password);
    elsewhere.prefix = longer;
    let elsewhere = Queue::connect(elsewhere).expect("options");
    denied(elsewhere.results("gw-1").await.map(drop));
    let ns = elsewhere.namespace("team").expect("a name");
    denied(ns.enqueue(&Enqueue::new("p", "t", PAYLOAD)).await);
    denied(elsewhere.namespaces().await);
}

#[tokio::test]
async fn two_passwords_are_valid_during_a_rotation_and_the_old_one_is_not_after_it() {
    let q = fixture().await;
    let user = namespace_user(q.queue.prefix(), "team");
    let set = async |versions: &[u32]| {
        q.queue
            .ensure_namespace_user("team", &master(), versions)
            .await
            .expect("a user");
    };
    let enters = async |version| {
        let password = master().namespace_password("team", version);
        let answer = as_user(&q, &user, &password).ping().await;
        if let Err(error) = &answer {
            assert!(matches!(error, QueueError::Denied(_)), "{error}");
        }
        answer.is_ok()
    };
    set(&[1]).await;
    assert_eq!((enters(1).await, enters(2).await), (true, false));
    set(&[1, 2]).await;
    assert_eq!((enters(1).await, enters(2).await), (true, true));
    set(&[2]).await;
    assert_eq!((enters(1).await, enters(2).await), (false, true));
    q.queue
        .remove_namespace_user("team")
        .await
        .expect("removed");
    assert!(!enters(2).await);
}

#[tokio::test]
async fn a_password_opens_its_own_namespace_only() {
    let key = master();
    let passwords = [
        key.namespace_password("a", 1),
        key.namespace_password("b", 1),
        key.namespace_password("a", 2),
        key.gateway_password(1),
        key.derive("direct-call", "a", 1),
        MasterKey::new("another").namespace_password("a", 1),
    ];
    for (place, password) in passwords.iter().enumerate() {
        assert_eq!(password.len(), 64);
        assert!(!passwords[..place].contains(password));
    }
    let trimmed = MasterKey::new("a master key").namespace_password("a", 1);
    assert_eq!(passwords[0], trimmed);
    assert_eq!(format!("{key:?}"), "MasterKey(…)");
}

#[tokio::test]
async fn users_are_gone_after_a_restart_and_can_be_set_again_under_a_live_client() {
    let redis = Redis::start(RedisOptions {
        append_only: true,
        ..RedisOptions::default()
    })
    .await
    .expect("a Redis");
    let q = on(&redis).await;
    let (queue, ns) = tenant(&q).await;
    works(&queue, &ns).await;
    redis.stop().await.expect("stopped");
    redis.restart().await.expect("restarted");
    let mut denials = 0;
    until(async || {
        match queue.ping().await {
            Err(QueueError::Denied(_)) => denials += 1,
            Err(QueueError::Unreachable(_)) => {}
            other => panic!("{other:?}"),
        }
        denials > 0
    })
    .await;
    until(async || q.queue.ping().await.is_ok()).await;
    q.queue
        .ensure_namespace_user("team", &master(), &[1])
        .await
        .expect("a user");
    until(async || queue.ping().await.is_ok()).await;
    let mut control = ns.control("w2").await.expect("listening");
    let task = Enqueue::new("p", "after", PAYLOAD);
    ns.enqueue(&task).await.expect("queued");
    let worker = crate::worker::Worker {
        ns: ns.clone(),
        ..q.unregistered("w2", "pool", 1)
    };
    worker.register().await;
    worker.takes(1, &["after"]).await;
    ns.cancel("after").await.expect("cancelled");
    let expected = ControlMessage::Cancel {
        task: "after".into(),
    };
    assert_eq!(soon(control.next()).await, expected);
}

#[tokio::test]
async fn the_doorbell_is_the_controllers() {
    let q = fixture().await;
    let (queue, _) = tenant(&q).await;
    let (user, password) = gateway(&q).await;
    denied(queue.doorbell().await.map(drop));
    denied(as_user(&q, &user, &password).doorbell().await.map(drop));
    let mut doorbell = q.queue.doorbell().await.expect("listening");
    q.enqueue("p", "t").await;
    assert!(matches!(soon(doorbell.next()).await, Ring::Pool { .. }));
}
