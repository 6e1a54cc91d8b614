use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::process_node::objects::Data;

const ADDRESSES: Addresses = Addresses {
    pod: Ipv4Addr::new(198, 18, 0, 7),
    host: Ipv4Addr::new(198, 18, 0, 1),
};

struct Fixture(BTreeMap<Key, Arc<Data>>);

impl Lookup for Fixture {
    fn data(&self, key: &Key) -> Option<Arc<Data>> {
        self.0.get(key).cloned()
    }
}

fn objects() -> Fixture {
    let secret = [("password".to_owned(), b"hunter2".to_vec())];
    let settings = [("LEVEL".to_owned(), b"debug".to_vec())];
    Fixture(BTreeMap::from([
        (
            Key::new(Kind::Secret, "n", "queue"),
            Arc::new(secret.into()),
        ),
        (
            Key::new(Kind::ConfigMap, "n", "settings"),
            Arc::new(settings.into()),
        ),
    ]))
}

fn env_of(container: serde_json::Value) -> Result<Environment> {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}});
    let mut base = Environment::default();
    base.set("HOME", "/pod");
    environment(
        &serde_json::from_value(container).unwrap(),
        &serde_json::from_value(pod).unwrap(),
        ADDRESSES,
        &objects(),
        base,
    )
}

#[test]
fn values_come_from_fields_secrets_and_config_maps() {
    let env = env_of(json!({"name": "c",
        "envFrom": [{"prefix": "APP_", "configMapRef": {"name": "settings"}}],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LISTEN", "value": "$(POD_IP):8080"},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "queue", "key": "password"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "queue", "key": "x", "optional": true}}},
            {"name": "EMPTY"},
        ]}))
    .unwrap();
    assert_eq!(env.get("LISTEN"), Some("198.18.0.7:8080"));
    assert_eq!(env.get("PASSWORD"), Some("hunter2"));
    assert_eq!(env.get("APP_LEVEL"), Some("debug"));
    assert_eq!(env.get("NONE"), None);
    assert_eq!(env.get("EMPTY"), Some(""));
    assert_eq!(env.get("HOME"), Some("/pod"));
}

#[test]
fn missing_secret_or_key_is_named() {
    for (source, words) in [
        (
            json!({"name": "gone", "key": "k"}),
            "secret \"gone\" not found",
        ),
        (
            json!({"name": "queue", "key": "k"}),
            "couldn't find key k in secret queue",
        ),
    ] {
        let var = json!({"name": "X", "valueFrom": {"secretKeyRef": source}});
        let error = env_of(json!({"name": "c", "env": [var]})).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
}

#[test]
fn references_expand_as_in_the_kubelet() {
    let mut env = Environment::default();
    env.set("A", "1");
    for (text, expected) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$$(A)", "$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("$$$(A)", "$1"),
    ] {
        assert_eq!(expand(text, &env), expected, "{text}");
    }
}

#[test]
fn paths_in_mounts_are_moved_and_others_stay() {
    let places = Places::new(
        [
            ("/etc/app".to_owned(), PathBuf::from("/pods/1/app")),
            ("/etc/app/keys/".to_owned(), PathBuf::from("/pods/1/keys")),
        ],
        ADDRESSES.pod,
    );
    for (value, expected) in [
        ("/etc/app", "/pods/1/app"),
        ("/etc/app/", "/pods/1/app"),
        ("/etc/app/x.yaml", "/pods/1/app/x.yaml"),
        ("/etc/app/keys/k", "/pods/1/keys/k"),
        ("/etc/apples", "/etc/apples"),
        ("/etc", "/etc"),
        ("0.0.0.0:8080", "198.18.0.7:8080"),
        ("0.0.0.0", "198.18.0.7"),
        ("http://127.0.0.1:8000/v1", "http://198.18.0.7:8000/v1"),
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
        ("file=/etc/app", "file=/etc/app"),
    ] {
        assert_eq!(places.rewrite(value), expected);
    }
    assert_eq!(
        places.rewrite_arg("--config=/etc/app/x"),
        "--config=/pods/1/app/x"
    );
}

#[test]
fn binary_stands_for_the_first_word_of_the_command() {
    let container = json!({"name": "c", "command": ["/app", "run"], "args": ["$(A)"]});
    let mut env = Environment::default();
    env.set("A", "1");
    let (program, args) = command_line(
        &serde_json::from_value(container).unwrap(),
        Path::new("/host/app"),
        &env,
        &Places::new([], ADDRESSES.pod),
    );
    assert_eq!(
        (program, args),
        (PathBuf::from("/host/app"), vec!["run".into(), "1".into()])
    );
}
