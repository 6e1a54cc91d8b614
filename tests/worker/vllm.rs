//! A stand-in for vLLM with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING: its documented API for
//! adapters (`/v1/load_lora_adapter`, `/v1/unload_lora_adapter`, `/v1/models`), `/health`, which probes ask
//! for and which answers without a body, and chat completions. An
//! answer says which adapter gave it. Written after vLLM's vllm/entrypoints/serve/lora and its OpenAI
//! protocol's error objects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::upstream::{Received, Step, Upstream, answer, done, stream_head, token};

/// How long an answer takes.
pub const ANSWERS: Duration = Duration::from_millis(60);
/// The model without adapters.
pub const BASE: &str = "tiny";

/// The server; it ends when dropped.
pub struct Vllm {
    pub upstream: Upstream,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Adapters, until when requests run with each, and its folder's name.
    loaded: BTreeMap<String, (Instant, String)>,
    most: usize,
    loads: Vec<String>,
    /// What a careful client never does.
    wrongs: Vec<String>,
}

impl Vllm {
    pub async fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let upstream =
            Upstream::start(move |request| shared.lock().expect("no panic").answer(request)).await;
        Self { upstream, state }
    }

    /// As its container does it: the process is another one and holds nothing.
    pub fn restart(&self) {
        self.state.lock().expect("no panic").loaded.clear();
    }

    /// Names of the folders of adapters in the order in which they were loaded.
    pub fn loads(&self) -> Vec<String> {
        self.state.lock().expect("no panic").loads.clone()
    }

    /// Most adapters that it held at once.
    pub fn most(&self) -> usize {
        self.state.lock().expect("no panic").most
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.state.lock().expect("no panic").wrongs.clone()
    }
}

impl State {
    fn answer(&mut self, request: &Received) -> Vec<Step> {
        let text = |field: &str| request.body[field].as_str().unwrap_or_default().to_owned();
        let path = request.head.split(' ').nth(1).unwrap_or_default();
        match path {
            "/health" => answer(200, "", ""),
            "/v1/models" => {
                let adapter = |name: &String| json!({"id": name, "object": "model", "root": format!("/adapters/{name}"), "parent": BASE});
                let base = json!({"id": BASE, "object": "model", "root": BASE, "parent": null});
                let mut data = vec![base];
                data.extend(self.loaded.keys().map(adapter));
                said(200, &json!({"object": "list", "data": data}))
            }
            "/v1/load_lora_adapter" => self.load(text("lora_name"), &text("lora_path")),
            "/v1/unload_lora_adapter" => self.unload(&text("lora_name")),
            "/v1/chat/completions" => self.chat(&text("model")),
            other => said(404, &json!({"detail": format!("Not Found: {other}")})),
        }
    }

    fn load(&mut self, name: String, source: &str) -> Vec<Step> {
        if source.contains("missing") {
            let words = format!("Loading lora {name} failed: No adapter found for {source}");
            return error(404, "NotFoundError", &words);
        }
        if self.loaded.contains_key(&name) {
            let words = format!("The lora adapter '{name}' has already been loaded.");
            return error(400, "InvalidUserInput", &words);
        }
        if source.contains("stalls") {
            return vec![Step::Hang];
        }
        let folder = source.rsplit('/').next().unwrap_or_default().to_owned();
        self.loads.push(folder.clone());
        self.loaded.insert(name.clone(), (Instant::now(), folder));
        self.most = self.most.max(self.loaded.len());
        let words = format!("Success: LoRA adapter '{name}' added successfully.");
        answer(200, "content-type: text/plain\r\n", &words)
    }

    fn unload(&mut self, name: &str) -> Vec<Step> {
        match self.loaded.remove(name) {
            None => {
                let words = format!("The lora adapter '{name}' cannot be found.");
                error(404, "NotFoundError", &words)
            }
            Some((busy_until, _)) => {
                if busy_until > Instant::now() {
                    self.wrongs
                        .push(format!("{name} was unloaded under a request"));
                }
                let words = format!("Success: LoRA adapter '{name}' removed successfully.");
                answer(200, "content-type: text/plain\r\n", &words)
            }
        }
    }

    fn chat(&mut self, model: &str) -> Vec<Step> {
        let by = match self.loaded.get_mut(model) {
            Some((busy_until, folder)) => {
                *busy_until = (*busy_until).max(Instant::now() + ANSWERS);
                folder.as_str()
            }
            None if model == BASE => BASE,
            None => {
                let words = format!("The model `{model}` does not exist.");
                return error(404, "NotFoundError", &words);
            }
        };
        vec![
            stream_head("text/event-stream"),
            Step::Pause(ANSWERS),
            token(&format!("by {by}")),
            done(),
        ]
    }
}

fn error(status: u16, kind: &str, message: &str) -> Vec<Step> {
    let error = json!({"message": message, "type": kind, "param": null, "code": status});
    said(status, &json!({"error": error}))
}

fn said(status: u16, body: &Value) -> Vec<Step> {
    answer(
        status,
        "content-type: application/json\r\n",
        &body.to_string(),
    )
}
