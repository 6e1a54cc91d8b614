//! Whether a persona's adapter is loaded, as the workers of its pool say. Pure.

use crate::api::condition::{ADAPTER_LOADED, Verdict};
use crate::api::runtime::{adapter_item, model_file, model_item, served_name};
use crate::api::{ModelServerKind, Persona};
use crate::queue::stats::PoolStats;

/// What the workers of its pool say of a persona's adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Workers whose model server holds it.
    pub holders: usize,
    /// Workers that take requests.
    pub workers: usize,
    /// Why a server could not load it, in its words.
    pub words: Option<String>,
}

impl Sight {
    /// None for a persona without an adapter.
    pub fn of(persona: &Persona, stats: &PoolStats) -> Option<Self> {
        let item = item(persona)?;
        let workers = stats.workers.iter().filter(|worker| !worker.draining);
        let failures = workers.clone().flat_map(|worker| &worker.load_failures);
        Some(Self {
            holders: workers.clone().filter(|w| w.loaded.contains(&item)).count(),
            workers: workers.count(),
            words: failures
                .filter(|(failed, _)| *failed == item)
                .map(|(_, words)| words.clone())
                .next(),
        })
    }
}

/// As workers name it: llama.cpp knows its adapters by their files, vLLM by name and source.
fn item(persona: &Persona) -> Option<String> {
    let adapter = persona.spec.adapter.as_ref()?;
    Some(match persona.spec.model.served_by() {
        Some(ModelServerKind::LlamaCpp) => adapter_item(&model_file(&adapter.source)),
        _ => adapter_item(&served_name(adapter)),
    })
}

/// What a worker's model server has to hold, if it could be without: the queue prefers those that hold it.
pub fn needs(persona: &Persona) -> String {
    match persona.spec.model.served_by() {
        Some(ModelServerKind::Vllm) => item(persona).unwrap_or_default(),
        Some(ModelServerKind::Ollama) => model_item(&persona.spec.model.name),
        _ => String::new(),
    }
}

/// None for a persona without an adapter.
pub fn verdict(persona: &Persona, sight: Option<&Sight>) -> Option<Verdict> {
    let adapter = persona.spec.adapter.as_ref()?;
    let name = &adapter.name;
    let Some(kind) = persona.spec.model.served_by() else {
        let message = format!(
            "the server at spec.model.endpoint is asked for it as model {name}; whether it has that is not known here"
        );
        return Some(Verdict::unknown(ADAPTER_LOADED, "ServedElsewhere", message));
    };
    let Some(sight) = sight else {
        let message = "no worker of its pool has said yet what its model server holds";
        return Some(Verdict::unknown(ADAPTER_LOADED, "NotKnown", message));
    };
    let Sight {
        holders,
        workers,
        words,
    } = sight;
    Some(match (holders, words) {
        (1.., _) => {
            let message = format!("{holders} of {workers} workers hold adapter {name}");
            Verdict::yes(ADAPTER_LOADED, "Loaded", message)
        }
        (0, Some(words)) => {
            let message = format!(
                "adapter {name} cannot be loaded: {words}; check spec.adapter.source ({})",
                adapter.source
            );
            Verdict::no(ADAPTER_LOADED, "LoadFailed", message)
        }
        (0, None) if kind == ModelServerKind::LlamaCpp => {
            let message = format!(
                "no worker was started with adapter {name}: workers with it are on their way, or more adapters \
                 than model.server.maxAdapters share the pool"
            );
            Verdict::no(ADAPTER_LOADED, "NotLoaded", message)
        }
        (0, None) => {
            let message = format!("adapter {name} is loaded for the next request that needs it");
            Verdict::no(ADAPTER_LOADED, "NotLoaded", message)
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::queue::stats::WorkerStats;

    fn persona(model: serde_json::Value) -> Persona {
        let mut spec = json!({"adapter": {"name": "law", "source": "lora/law.gguf"}});
        spec["model"] = model;
        serde_json::from_value(json!({
            "apiVersion": "persona.dev/v1alpha1", "kind": "Persona", "metadata": {"name": "p"}, "spec": spec,
        }))
        .expect("a persona")
    }

    fn beside(kind: &str) -> Persona {
        persona(json!({"provider": "OpenAICompatible", "name": "m", "server": {"kind": kind}}))
    }

    fn stats(loaded: &str, failure: Option<(&str, &str)>) -> PoolStats {
        let own = |(item, words): (&str, &str)| (item.to_owned(), words.to_owned());
        PoolStats {
            workers: vec![
                WorkerStats {
                    loaded: vec![loaded.to_owned()],
                    ..WorkerStats::default()
                },
                WorkerStats {
                    load_failures: failure.map(own).into_iter().collect(),
                    ..WorkerStats::default()
                },
            ],
            ..PoolStats::default()
        }
    }

    fn says(persona: &Persona, stats: &PoolStats) -> (Option<bool>, &'static str, String) {
        let verdict = verdict(persona, Sight::of(persona, stats).as_ref()).expect("one");
        (verdict.holds, verdict.reason, verdict.message)
    }

    #[test]
    fn workers_say_whether_it_is_loaded_and_why_not() {
        let vllm = beside("vLLM");
        let law = item(&vllm).expect("an adapter");
        let (holds, reason, message) = says(&vllm, &stats(&law, None));
        assert_eq!((holds, reason), (Some(true), "Loaded"));
        assert!(message.starts_with("1 of 2 workers"), "{message}");
        let failed = stats("adapter/tax", Some((&*law, "no such folder")));
        let (holds, reason, message) = says(&vllm, &failed);
        assert_eq!((holds, reason), (Some(false), "LoadFailed"));
        assert!(message.contains("no such folder"), "{message}");
        assert_eq!(says(&vllm, &stats("model/m", None)).1, "NotLoaded");
        let mut theirs = vllm.clone();
        theirs.spec.adapter.as_mut().expect("one").source = "tax/law".into();
        let of_that_name = stats(&item(&theirs).expect("an adapter"), None);
        assert_eq!(says(&vllm, &of_that_name).1, "NotLoaded");
        let unknown = verdict(&vllm, None).expect("one");
        assert_eq!((unknown.holds, unknown.reason), (None, "NotKnown"));
    }

    #[test]
    fn llama_cpp_knows_it_by_its_file() {
        let llama = beside("LlamaCpp");
        let there = stats("adapter//models/lora/law.gguf", None);
        assert_eq!(says(&llama, &there).1, "Loaded");
        assert_eq!(
            needs(&llama),
            "",
            "all workers of its pool are started with it"
        );
        assert!(needs(&beside("vLLM")).starts_with("adapter/law-"));
        let ollama = |name| persona(json!({"provider": "Ollama", "name": name}));
        assert_eq!(needs(&ollama("llama3.2:1b")), "model/llama3.2:1b");
        assert_eq!(needs(&ollama("mistral")), "model/mistral:latest");
    }

    #[test]
    fn of_a_server_elsewhere_nothing_is_known() {
        let model =
            json!({"provider": "OpenAICompatible", "name": "m", "endpoint": "http://vllm:8000/v1"});
        let elsewhere = persona(model);
        let (holds, reason, _) = says(&elsewhere, &PoolStats::default());
        assert_eq!((holds, reason), (None, "ServedElsewhere"));
        assert_eq!(needs(&elsewhere), "");
    }
}
