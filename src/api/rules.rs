//! What the API server refuses at `kubectl apply`, as CEL: everything that can be judged from one
//! object. Each rule answers with a sentence that says what to change; the server puts the field's
//! path before it.

use serde_json::{Value, json};

/// A rule at a schema node that reports at that node.
fn rule(cel: impl Into<String>, message: impl Into<String>) -> Value {
    json!({"rule": cel.into(), "message": message.into()})
}

/// A rule at an object that reports at one of its fields.
fn at(field: &str, cel: impl Into<String>, message: &str) -> Value {
    json!({"rule": cel.into(), "fieldPath": format!(".{field}"), "message": message})
}

/// A rule whose answer must not repeat the value.
fn secret(cel: &str, message: &str) -> Value {
    json!({"rule": cel, "message": message, "reason": "FieldValueForbidden"})
}

/// The field must not be there; the server does not print its value.
fn forbidden(field: &str, cel: impl Into<String>, message: &str) -> Value {
    let mut rule = at(field, cel, message);
    rule["reason"] = "FieldValueForbidden".into();
    rule
}

/// The field must be there.
fn required(field: &str, cel: impl Into<String>, message: &str) -> Value {
    let mut rule = at(field, cel, message);
    rule["reason"] = "FieldValueRequired".into();
    rule
}

/// Providers that run elsewhere and want a key.
const REMOTE: &str = "['OpenAI', 'Anthropic', 'Gemini', 'DeepSeek']";

/// Numbers of 8 digits at most, so that no sum overflows CEL's durations.
const SPAN: &str = "^([0-9]{1,5}(h|m)|[0-9]{1,8}(s|ms))+$";

/// A duration from `min` to `max`, both written like `1m30s`.
pub(super) fn span(min: &str, max: &str) -> Value {
    json!([rule(
        format!(
            "self.matches('{SPAN}') && duration(self) >= duration('{min}') && duration(self) <= duration('{max}')"
        ),
        format!("must be a duration from {min} to {max}, with units: like 500ms, 30s or 1m30s"),
    )])
}

/// The base URL of an HTTP API.
pub(super) fn base_url(example: &str) -> Value {
    json!([
        rule(
            "!self.contains(' ') && isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",
            format!("must be a URL with http:// or https://, like {example}"),
        ),
        secret(
            "!self.matches('^[^/]*//[^/]*@')",
            "must not carry credentials: remove the part before @ and keep the key in a Secret",
        ),
        rule(
            "!self.contains('?') && !self.contains('#')",
            "must be a base URL: remove everything from ? or # on",
        ),
        rule(
            "!self.matches('/(completions|api/chat|api/generate|messages)/?$')",
            format!(
                "must be the base URL that paths are added to: remove the path of the call, so that it is like {example}"
            ),
        ),
    ])
}

/// A memory size in whole Mi or Gi.
pub(super) fn memory(example: &str) -> Value {
    json!([rule(
        "self.matches('^[1-9][0-9]*(Mi|Gi)$')",
        format!("must be a size in Mi or Gi, like {example}"),
    )])
}

/// The name of an object of Kubernetes.
pub(super) fn object_name(example: &str) -> Value {
    json!([rule(
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        format!(
            "must be the name of an object: lower case letters, digits, - and ., like {example}"
        ),
    )])
}

/// A key of a Secret, which becomes the name of a file.
pub(super) fn secret_key() -> Value {
    json!([rule(
        "self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')",
        "must be a key of a Secret: letters, digits, -, _ and ., like api-key",
    )])
}

/// A text without blanks at its ends.
pub(super) fn trimmed() -> Value {
    json!([rule(
        r"self.matches(r'^[^ \t\r\n]([^\t\r\n]*[^ \t\r\n])?$')",
        "must be one line without blanks at its ends: remove them",
    )])
}

/// A text without blanks.
pub(super) fn word(example: &str) -> Value {
    json!([rule(
        r"!self.matches(r'\s')",
        format!("must not contain blanks: write it like {example}"),
    )])
}

/// A text in the form of a regular expression, with the words for it.
pub(super) fn form(regex: &str, words: &str) -> Value {
    json!([rule(format!("self.matches(r'{regex}')"), words)])
}

/// An absolute path.
pub(super) fn absolute_path(example: &str) -> Value {
    json!([rule(
        "self.startsWith('/') && !self.contains('/../') && !self.endsWith('/..')",
        format!("must be an absolute path without .., like {example}"),
    )])
}

/// What one worker can take: a number above zero.
pub(super) fn target() -> Value {
    json!([rule(
        "self > 0.0",
        "must be above 0: the value that one worker can take"
    )])
}

pub(super) fn persona() -> Value {
    json!([forbidden(
        "adapter",
        "!has(self.adapter) || self.model.provider == 'OpenAICompatible' && \
         (has(self.model.endpoint) || !has(self.model.server) || self.model.server.kind != 'Ollama')",
        "an adapter needs a server that loads adapters: set model.provider to OpenAICompatible, and model.server.kind to vLLM or LlamaCpp (or model.endpoint to a server that has the adapter), or remove adapter",
    )])
}

pub(super) fn model() -> Value {
    json!([
        required(
            "apiKeySecretRef",
            format!(
                "!(self.provider in {REMOTE}) || has(self.endpoint) || has(self.apiKeySecretRef)"
            ),
            "this provider wants a key: set apiKeySecretRef to the name and key of a Secret (or endpoint to a proxy that adds the key)",
        ),
        required(
            "endpoint",
            "self.provider != 'OpenAICompatible' || has(self.endpoint) || has(self.server)",
            "provider OpenAICompatible has no address of its own: set endpoint to a base URL like http://vllm:8000/v1, or server to run one in the pool's pods",
        ),
        at(
            "endpoint",
            "self.provider != 'Ollama' || !has(self.endpoint) || !self.endpoint.matches('/v1/?$')",
            "Ollama's own API is not below /v1: remove it, or set provider to OpenAICompatible",
        ),
        forbidden(
            "server",
            format!("!has(self.server) || !(self.provider in {REMOTE})"),
            "this provider runs elsewhere: remove server, or set provider to Ollama or OpenAICompatible",
        ),
        forbidden(
            "server",
            "!has(self.server) || !has(self.endpoint)",
            "server runs the model in the pool's pods and endpoint elsewhere: remove one of the two",
        ),
        at(
            "server",
            "!has(self.server) || self.provider != 'Ollama' || self.server.kind == 'Ollama'",
            "server.kind vLLM and LlamaCpp speak the API of OpenAI: set provider to OpenAICompatible, or server.kind to Ollama",
        ),
        forbidden(
            "requirements",
            format!("!has(self.requirements) || !(self.provider in {REMOTE})"),
            "this provider runs elsewhere and needs nothing of this cluster: remove requirements",
        ),
    ])
}

pub(super) fn model_cache() -> Value {
    json!([rule(
        "[has(self.persistentVolumeClaim), has(self.image), has(self.hostPath)].filter(x, x).size() == 1",
        "must have exactly one of persistentVolumeClaim, image and hostPath: keep the one the model files come from",
    )])
}

pub(super) fn worker_pool() -> Value {
    json!([
        at(
            "minReplicas",
            "self.minReplicas <= self.maxReplicas",
            "must not be above maxReplicas: lower minReplicas or raise maxReplicas",
        ),
        at(
            "scaling.fallback.replicas",
            "!has(self.scaling.fallback) || self.scaling.fallback.replicas <= self.maxReplicas",
            "must not be above maxReplicas: lower scaling.fallback.replicas or raise maxReplicas",
        ),
    ])
}

pub(super) fn scaling() -> Value {
    json!([at(
        "metrics",
        "self.metrics.filter(m, m.type == 'Queue').size() <= 1",
        "must have type Queue once at most: remove the others",
    )])
}

pub(super) fn metric_source() -> Value {
    let only = |field: &str, type_: &str| {
        let mend = format!("belongs to type {type_}: set type to {type_}, or remove {field}");
        let cel = format!("!has(self.{field}) || self.type == '{type_}'");
        forbidden(field, cel, &mend)
    };
    let needs = |field: &str, type_: &str| {
        let mend = format!("type {type_} needs it: set {field}, or type to Queue");
        let cel = format!("self.type != '{type_}' || has(self.{field})");
        required(field, cel, &mend)
    };
    json!([
        only("prometheus", "Prometheus"),
        only("rabbitmq", "RabbitMQ"),
        needs("prometheus", "Prometheus"),
        needs("rabbitmq", "RabbitMQ"),
    ])
}

pub(super) fn behavior() -> Value {
    json!([at(
        "scaleDown",
        "!has(self.scaleDown) || !has(self.scaleDown.policies) || self.scaleDown.policies.all(p, p.type != 'Percent' || p.value <= 100)",
        "a Percent policy of scaleDown cannot take more than all: set value to 100 or less",
    )])
}

pub(super) fn placement() -> Value {
    json!([forbidden(
        "gpu",
        "!has(self.gpu) || self.device == 'gpu'",
        "gpu is for pools on GPUs: set placement.device to gpu, or remove gpu",
    )])
}

/// Whether the size of the pool whose spec this is follows its queue, so that its workers are the operator's.
fn has_queue(spec: &str) -> String {
    format!("{spec}.scaling.metrics.exists(m, m.type == 'Queue')")
}

pub(super) fn topology() -> Value {
    let unset = |pool: &str, field: &str, cel: &str, why: &str| {
        let mut rule = forbidden(
            pool,
            format!("!has(self.{pool}) || {}", cel.replace("POOL", pool)),
            why,
        );
        rule["fieldPath"] = format!(".{pool}.{field}").into();
        rule
    };
    let pinned =
        "would pin every pool of the namespace: remove it and set minReplicas and maxReplicas";
    let warm = "is set by the topology itself while personas move: remove it";
    let steal =
        "names pools that the topology makes and removes: remove it, mode Hybrid steals by itself";
    let mut rules = vec![at(
        "hysteresis",
        "self.hysteresis <= self.thresholds.generic",
        "must not be above thresholds.generic, or the topology could never go back to PerPersona: lower hysteresis",
    )];
    for pool in ["pool", "gpuPool"] {
        rules.push(unset(pool, "replicas", "!has(self.POOL.replicas)", pinned));
        rules.push(unset(
            pool,
            "warmReplicas",
            "!has(self.POOL.warmReplicas)",
            warm,
        ));
        rules.push(unset(pool, "stealFrom", "!has(self.POOL.stealFrom)", steal));
        rules.push(unset(
            pool,
            "scaling.metrics",
            &has_queue("self.POOL"),
            "would leave the personas without workers: add {type: Queue}",
        ));
    }
    rules.push(unset(
        "pool",
        "placement",
        "self.POOL.placement.device == 'cpu'",
        "pool is for pools on CPUs: move placement to gpuPool",
    ));
    rules.into()
}

pub(super) fn thresholds() -> Value {
    json!([
        at(
            "hybrid",
            "self.generic < self.hybrid",
            "must be above generic: thresholds ascend, as in generic 10, hybrid 50, specialized 100",
        ),
        at(
            "specialized",
            "self.hybrid < self.specialized",
            "must be above hybrid: thresholds ascend, as in generic 10, hybrid 50, specialized 100",
        ),
    ])
}

pub(super) fn pod_overlay() -> Value {
    json!([at(
        "containers",
        "!has(self.containers) || self.containers.all(c, !has(self.containers[c].volumeMounts) || self.containers[c].volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name)))",
        "volumeMounts may only name entries of template.volumes: add the volume, or remove the mount",
    )])
}

pub(super) fn container_names() -> Value {
    json!([rule(
        "self.all(c, c in ['worker', 'model-server'])",
        "the containers of a worker pod are worker and model-server: rename or remove others",
    )])
}

pub(super) fn labels() -> Value {
    json!([rule(
        "self.all(k, !k.startsWith('persona.dev/') && k != 'app.kubernetes.io/managed-by')",
        "labels persona.dev/... and app.kubernetes.io/managed-by are the operator's own: remove them, or use another prefix",
    )])
}

pub(super) fn annotations() -> Value {
    json!([rule(
        "self.all(k, !k.startsWith('persona.dev/') && k != 'karpenter.sh/do-not-disrupt' && k != 'cluster-autoscaler.kubernetes.io/safe-to-evict')",
        "annotations persona.dev/..., karpenter.sh/do-not-disrupt and cluster-autoscaler.kubernetes.io/safe-to-evict are the operator's own: remove them",
    )])
}

pub(super) fn volume() -> Value {
    json!([at(
        "name",
        "!self.name.startsWith('persona-')",
        "volume names that begin with persona- are the operator's own: rename it",
    )])
}

pub(super) fn env() -> Value {
    json!([at(
        "name",
        "self.name == 'PERSONA_LOG' || !(self.name.startsWith('PERSONA_') || self.name in ['POD_NAME', 'POD_UID', 'POD_IP'])",
        "PERSONA_..., POD_NAME, POD_UID and POD_IP are set by the operator: rename the variable",
    )])
}

pub(super) fn volume_mount() -> Value {
    json!([at(
        "mountPath",
        "self.mountPath.startsWith('/') && self.mountPath != '/' && !self.mountPath.startsWith('/var/run/persona')",
        "must be an absolute path that is not / and not below /var/run/persona, where the operator mounts: choose another",
    )])
}

/// Rules that look at `metadata`, by kind; they belong to the root of the schema.
pub(super) fn root(kind: &str) -> Value {
    let short = |what: &str| {
        rule(
            "self.metadata.name.size() <= 63",
            format!("metadata.name must have 63 characters at most: it becomes {what}; shorten it"),
        )
    };
    match kind {
        "Persona" => json!([short("the name of a model and part of pool names")]),
        "WorkerPool" => json!([
            short("a label of the pool's pods"),
            at(
                "spec.stealFrom",
                "!has(self.spec.stealFrom) || !(self.metadata.name in self.spec.stealFrom)",
                "must not name the pool itself: remove it",
            ),
            // Here and not in the spec, which is in the definition of topologies twice.
            at(
                "spec.scaling.metrics",
                format!(
                    "{} || has(self.spec.template) && has(self.spec.template.containers) && \
                     'worker' in self.spec.template.containers && has(self.spec.template.containers['worker'].image)",
                    has_queue("self.spec")
                ),
                "has no {type: Queue}, so that the workers are your own and serve no personas: set template.containers.worker.image to their image, or add {type: Queue}",
            ),
        ]),
        _ => json!([rule(
            "self.metadata.name == 'default'",
            "metadata.name must be default: a namespace has one PersonaTopology; rename it",
        )]),
    }
}
