use super::*;

#[test]
fn servers_of_a_pool_hold_all_models_that_share_them() {
    let persona = |name: &str, model: serde_json::Value| {
        let persona = serde_json::json!({
            "apiVersion": "persona.dev/v1alpha1", "kind": "Persona",
            "metadata": {"name": name}, "spec": {"model": model},
        });
        Arc::new(serde_json::from_value::<Persona>(persona).expect("a persona"))
    };
    let ollama = |name: &str, model: &str| {
        persona(
            name,
            serde_json::json!({"provider": "Ollama", "name": model}),
        )
    };
    let api = persona("z", serde_json::json!({"provider": "OpenAI", "name": "m"}));
    assert_eq!(Serving::of(std::slice::from_ref(&api), 4), None);
    let found = Serving::of(
        &[ollama("b", "llama3.2:3b"), api, ollama("a", "llama3.2:1b")],
        4,
    );
    let found = found.expect("a server");
    assert_eq!(found.models.len(), 2);
    assert!(
        found
            .memory_mib
            .is_some_and(|mib| (3_000..5_000).contains(&mib)),
        "of the larger"
    );
}

#[test]
fn a_newcomer_waits_for_an_adapters_place_and_takes_none() {
    let persona = |name: &str, day: u32, source: &str| {
        let model = serde_json::json!({"provider": "OpenAICompatible", "name": "m.gguf",
            "server": {"kind": "LlamaCpp", "maxAdapters": 2}});
        let persona = serde_json::json!({
            "apiVersion": "persona.dev/v1alpha1", "kind": "Persona",
            "metadata": {"name": name, "creationTimestamp": format!("2026-01-0{day}T00:00:00Z")},
            "spec": {"model": model, "adapter": {"name": name, "source": source}},
        });
        Arc::new(serde_json::from_value::<Persona>(persona).expect("a persona"))
    };
    let args = |personas: &[Arc<Persona>]| {
        let serving = Serving::of(personas, 4).expect("a server");
        command(&serving, 4, None).1.join(" ")
    };
    let served = [persona("z", 1, "z.gguf"), persona("y", 2, "y.gguf")];
    let before = args(&served);
    assert!(
        before.contains("--lora /models/z.gguf --lora /models/y.gguf"),
        "{before}"
    );
    let mut more = served.to_vec();
    more.insert(0, persona("a", 3, "a.gguf"));
    assert_eq!(args(&more), before, "no pod is replaced either");
    let less = args(&more[..2]);
    assert!(less.contains("--lora /models/z.gguf --lora /models/a.gguf"));
}

/// A stand-in for `ollama`, whose server notes that it was told to end.
const STAND_IN: &str = "ollama() { case $1 in \
    serve) trap 'touch ended; exit 0' TERM; touch serving; while test -f serving; do sleep 0.05; done ;; \
    show) test -n \"$HAS\" ;; \
    pull) touch pulling; while test -f pulling; do sleep 0.05; done ;; \
    esac; }; ";

/// Runs the script until this file is there, ends it, and waits for its end and its server's.
fn ends(has: &str, until: &str) {
    use std::process::Command;
    use std::time::{Duration, Instant};
    let folder = std::env::temp_dir().join(format!("ollama-{:x}", rand::random::<u64>()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut shell = Command::new("/bin/sh")
        .args(["-c", &format!("{STAND_IN}{OLLAMA}")])
        .current_dir(&folder)
        .env("PERSONA_MODELS", "small:1b")
        .env("HAS", has)
        .spawn()
        .expect("a shell");
    let deadline = Instant::now() + Duration::from_secs(30);
    let wait = |what: &str, there: &mut dyn FnMut() -> bool| {
        while !there() {
            assert!(Instant::now() < deadline, "not seen: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait(until, &mut || folder.join(until).exists());
    let id = shell.id().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status();
    assert!(told.is_ok_and(|status| status.success()));
    wait("the server's end", &mut || folder.join("ended").exists());
    let mut status = None;
    wait("the script's end", &mut || {
        status = shell.try_wait().expect("a status");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn ollama_ends_when_its_container_is_told_to_also_in_the_middle_of_a_pull() {
    ends("yes", "serving");
    ends("", "pulling");
}
