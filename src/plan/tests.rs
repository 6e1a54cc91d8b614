use insta::assert_snapshot;

use super::*;

fn plan(options: &Options) -> String {
    answer(options, &[], Timestamp::UNIX_EPOCH).expect("a plan")
}

fn numbers(from: Option<u32>, personas: u32, types: u32) -> Options {
    Options {
        personas: Some(personas),
        types,
        from,
        ..Options::default()
    }
}

fn files(options: &Options, text: &str) -> Result<String, Error> {
    let file = (PathBuf::from("manifests.yaml"), text.to_owned());
    answer(options, &[file], Timestamp::UNIX_EPOCH)
}

#[test]
fn a_first_few_have_a_pool_each() {
    assert_snapshot!(plan(&numbers(None, 3, 1)));
}

#[test]
fn an_eleventh_brings_all_together() {
    assert_snapshot!(plan(&numbers(Some(10), 11, 2)));
}

#[test]
fn from_nine_to_sixty() {
    assert_snapshot!(plan(&numbers(Some(9), 60, 4)));
}

#[test]
fn one_more_within_a_phase_moves_nobody() {
    assert_snapshot!(plan(&numbers(Some(60), 61, 4)));
}

#[test]
fn from_sixty_back_to_eight_takes_the_stabilization() {
    assert_snapshot!(plan(&numbers(Some(60), 8, 4)));
}

#[test]
fn adapters_make_a_hundred_and_one_specialized() {
    let options = Options {
        adapters: 5,
        ..numbers(Some(100), 101, 40)
    };
    assert_snapshot!(plan(&options));
}

#[test]
fn models_that_need_gpus_say_how_many() {
    let persona = |name: &str, model: &str| {
        format!(
            "---\napiVersion: persona.dev/v1alpha1\nkind: Persona\nmetadata: {{name: {name}}}\n\
             spec: {{model: {model}}}\n"
        )
    };
    let text = [
        persona("api", "{provider: Ollama, name: m, endpoint: 'http://o:1'}"),
        persona("small", "{provider: Ollama, name: 'llama3.2:1b'}"),
        persona("large", "{provider: Ollama, name: 'llama3.1:70b'}"),
        persona("huge", "{provider: Ollama, name: 'deepseek-r1:671b'}"),
    ];
    let said = files(&Options::default(), &text.concat()).expect("a plan");
    assert!(said.contains("gpus     5..40"), "{said}");
    assert!(said.contains("gpu-4x141Gi"), "{said}");
}

#[test]
fn the_memory_of_local_models_is_asked_for_too() {
    let persona = |name: &str, model: &str| {
        format!(
            "---\napiVersion: persona.dev/v1alpha1\nkind: Persona\nmetadata: {{name: {name}}}\n\
             spec: {{model: {{provider: Ollama, name: '{model}'}}}}\n"
        )
    };
    let topology = |memory: &str| {
        format!(
            "kind: PersonaTopology\nmetadata: {{name: default}}\nspec:\n  mode: Generic\n  pool:\n    \
             template: {{containers: {{worker: {{resources: {{requests: {{memory: {memory}}}}}}}}}}}\n"
        )
    };
    let models = persona("small", "llama3.2:1b")
        + &persona("larger", "llama3.2:3b")
        + &persona("large", "llama3.1:8b");
    let said = files(&Options::default(), &(topology("1.5Gi") + &models));
    assert_snapshot!(said.expect("a plan"));
    let error = files(&Options::default(), &(topology("much") + &models));
    let words = error.expect_err("no quantity").to_string();
    assert!(
        words.contains("much of memory for container worker"),
        "{words}"
    );
}

#[test]
fn manifests_say_who_there_is_and_how_they_share() {
    let text = r#"
apiVersion: persona.dev/v1alpha1
kind: PersonaTopology
metadata: {name: default}
spec:
  thresholds: {generic: 1, hybrid: 2, specialized: 3}
  pool:
    minReplicas: 2
    maxReplicas: 4
    slotsPerWorker: 8
    template:
      containers:
        worker:
          resources: {requests: {memory: 1Gi}}
---
apiVersion: v1
kind: Secret
metadata: {name: passed-over}
---
apiVersion: persona.dev/v1alpha1
kind: Persona
metadata: {name: writer}
spec: {type: Writer, model: {provider: OpenAI, name: m}}
---
apiVersion: persona.dev/v1alpha1
kind: Persona
metadata: {name: critic}
spec: {type: Critic, model: {provider: Anthropic, name: m}}
---
apiVersion: persona.dev/v1alpha1
kind: Persona
metadata: {name: alone}
spec: {model: {provider: OpenAI, name: m}, poolRef: {name: mine}}
"#;
    let options = Options {
        from: Some(1),
        ..Options::default()
    };
    assert_snapshot!(files(&options, text).expect("a plan"));
}

#[test]
fn a_manifest_that_is_wrong_is_named() {
    let text = "kind: Persona\nmetadata: {name: p}\nspec: {model: {name: m}}\n";
    let error = files(&Options::default(), text).expect_err("no provider");
    let words = error.to_string();
    assert!(
        words.starts_with("manifests.yaml: Persona p: missing field `provider`"),
        "{words}"
    );
    let error = files(&Options::default(), "a: [").expect_err("not YAML");
    assert!(matches!(error, Error::Yaml { .. }));
    let error = answer(&numbers(None, u32::MAX, 1), &[], Timestamp::UNIX_EPOCH);
    assert!(matches!(error, Err(Error::TooMany { .. })));
}
