use insta::assert_snapshot;

use super::*;

fn now() -> Timestamp {
    "2026-01-02T12:00:00Z".parse().expect("a time")
}

fn explained(text: &str) -> String {
    explain(text, now()).expect("an explanation")
}

#[test]
fn a_pool_says_how_many_workers_it_has_and_why() {
    assert_snapshot!(explained(
        r#"
apiVersion: persona.dev/v1alpha1
kind: WorkerPool
metadata: {name: helper, namespace: research, generation: 3}
spec: {minReplicas: 1, maxReplicas: 8}
status:
  sizing: Auto
  replicas: 4
  readyReplicas: 3
  desiredReplicas: 4
  busy: 2
  idle: 1
  draining: 1
  queued: 12
  running: 8
  oldestWait: 1s200ms
  history:
  - at: 2026-01-02T11:58:30Z
    from: 2
    to: 4
    reason: "queued 14, running 8, 2 tasks/s, S 1 s, lead 3 s, 4 slots, target wait 500ms: 14 slots for the backlog"
  - at: 2026-01-02T09:00:00Z
    from: 3
    to: 2
    reason: "queued 0, running 1; no more was needed for 30s"
  conditions:
  - type: Ready
    status: "True"
    reason: WorkersReady
    message: workers take requests
    lastTransitionTime: 2026-01-01T12:00:00Z
    observedGeneration: 2
"#
    ));
}

#[test]
fn a_pool_says_by_which_rules_it_grows_and_shrinks() {
    let rules = |scaling: &str| {
        let pool = format!(
            r#"{{"apiVersion": "persona.dev/v1alpha1", "kind": "WorkerPool",
             "metadata": {{"name": "p"}}, "spec": {{"scaling": {scaling}}},
             "status": {{"sizing": "Auto", "desiredReplicas": 1}}}}"#
        );
        let text = explained(&pool);
        let rules = text
            .lines()
            .find(|line| line.contains("; ") && line.contains("shrink"));
        rules.expect("its rules").trim().to_owned()
    };
    let own = r#"{"behavior": {"scaleUp": {"stabilizationWindowSeconds": 10},
        "scaleDown": {"stabilizationWindowSeconds": 90}}}"#;
    assert_eq!(
        rules(own),
        "grows as soon as a request would wait longer than 500ms, to what was needed throughout 10s; \
         shrinks to what was needed within 1m30s"
    );
    let frozen = r#"{"behavior": {"scaleUp": {"selectPolicy": "Disabled"},
        "scaleDown": {"selectPolicy": "Disabled"}}}"#;
    assert_eq!(
        rules(frozen),
        "does not grow (behavior.scaleUp); does not shrink (behavior.scaleDown)"
    );
    let elsewhere = r#"{"metrics": [{"type": "RabbitMQ", "rabbitmq": {
        "managementAddress": "http://rabbit:15672", "queue": "jobs", "target": 5}}]}"#;
    assert_eq!(
        rules(elsewhere),
        "grows with its metrics; shrinks to what was needed within 30s"
    );
}

#[test]
fn of_a_list_each_object_that_is_known_is_explained() {
    assert_snapshot!(explained(
        r#"{"kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}},
            {"apiVersion": "persona.dev/v1alpha1", "kind": "WorkerPool",
             "metadata": {"name": "pinned"}, "spec": {"replicas": 5},
             "status": {"sizing": "Pinned", "desiredReplicas": 5}},
            {"apiVersion": "persona.dev/v1alpha1", "kind": "Persona",
             "metadata": {"name": "helper", "namespace": "research"},
             "spec": {"type": "Helper", "model": {"provider": "OpenAI", "name": "m"}},
             "status": {"pool": "generic-1", "phase": "Generic", "queued": 1, "running": 1,
                "conditions": [{"type": "Routed", "status": "False", "reason": "Waiting",
                    "message": "pool generic-2 is not Ready",
                    "lastTransitionTime": "2026-01-02T11:59:58Z"}]}},
            {"apiVersion": "persona.dev/v1alpha1", "kind": "PersonaTopology",
             "metadata": {"name": "default", "namespace": "research"}, "spec": {},
             "status": {"phase": "Hybrid", "personas": 51, "poolCount": 1,
                "belowSince": "2026-01-02T11:59:50Z",
                "pools": [{"name": "helper-1", "class": "api", "personas": 51}],
                "history": [{"at": "2026-01-02T11:00:00Z", "from": "Generic", "to": "Hybrid",
                    "reason": "51 personas; thresholds 10, 50, 100"}],
                "transition": {"from": "Generic", "to": "Hybrid", "moved": 37, "total": 51,
                    "progress": "Generic -> Hybrid 37/51", "startedAt": "2026-01-02T11:00:00Z"}}},
            {"apiVersion": "persona.dev/v1alpha1", "kind": "Persona",
             "metadata": {"name": "new", "namespace": "research"},
             "spec": {"type": "Helper", "model": {"provider": "OpenAI", "name": "m"}}}
        ]}"#
    ));
}

#[test]
fn what_cannot_be_explained_says_what_to_do() {
    for (text, words) in [
        ("", "pipe `kubectl get"),
        ("kind: Pod", "pipe `kubectl get"),
        ("a: [", "neither YAML nor JSON"),
        (
            "{kind: WorkerPool, metadata: {name: x}, spec: {minReplicas: many}}",
            "WorkerPool x: ",
        ),
    ] {
        let error = explain(text, now())
            .expect_err("no explanation")
            .to_string();
        assert!(error.contains(words), "{error}");
    }
}
