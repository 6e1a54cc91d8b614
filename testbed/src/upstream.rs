//! A model server that does what a test tells it, byte by byte: faults that no real one makes on demand.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(String),
    /// Sends the bytes again and again, with a pause between.
    Drip(&'static str, Duration),
    /// Sends nothing for a while.
    Pause(Duration),
    /// Sends nothing until the gate is open.
    Wait(Gate),
    /// Sends nothing more, until the client closes.
    Hang,
}

/// Shut until a test opens it, and then open for all that wait or will.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn opened(&self) {
        // Its sender is here: it cannot be closed.
        self.0.subscribe().wait_for(|open| *open).await.ok();
    }
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// 1 for the first request.
    pub number: usize,
    /// Like `POST /v1/chat/completions HTTP/1.1`, and the headers.
    pub head: String,
    /// JSON body.
    pub body: Value,
    /// Requests being answered, this one included.
    pub open: usize,
}

type Script = Box<dyn Fn(&Received) -> Vec<Step> + Send + Sync>;

struct State {
    script: Script,
    received: Mutex<Vec<Received>>,
    /// Requests, connections, clients that closed before the script's end.
    counts: watch::Sender<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub requests: usize,
    pub connections: usize,
    pub given_up: usize,
    /// Requests being answered.
    pub open: usize,
    /// Most requests that were answered at once.
    pub most: usize,
}

/// A running server; it ends when dropped.
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

impl Upstream {
    pub async fn start(script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            script: Box::new(script),
            received: Mutex::default(),
            counts: watch::Sender::default(),
        });
        let shared = state.clone();
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                shared.counts.send_modify(|counts| counts.connections += 1);
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self {
            address,
            state,
            server,
        }
    }

    /// The same steps for each request.
    pub async fn always(steps: Vec<Step>) -> Self {
        Self::start(move |_| steps.clone()).await
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn root_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn counts(&self) -> Counts {
        *self.state.counts.borrow()
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().expect("no panic").clone()
    }

    /// Waits until the counts are as asked.
    pub async fn until(&self, what: &str, good: impl Fn(&Counts) -> bool) {
        let mut counts = self.state.counts.subscribe();
        let waited = timeout(PATIENCE, counts.wait_for(good)).await;
        assert!(waited.is_ok(), "not seen: {what}; {:?}", self.counts());
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    while let Some((head, body)) = read_request(&mut stream).await {
        let mut open = 0;
        state.counts.send_modify(|counts| {
            counts.requests += 1;
            counts.open += 1;
            counts.most = counts.most.max(counts.open);
            open = counts.open;
        });
        let received = {
            let mut all = state.received.lock().expect("no panic");
            let number = all.len() + 1;
            let received = Received {
                number,
                head,
                body,
                open,
            };
            all.push(received.clone());
            received
        };
        let steps = (state.script)(&received);
        let complete = play(&mut stream, &steps).await;
        state.counts.send_modify(|counts| {
            counts.open -= 1;
            counts.given_up += usize::from(!complete);
        });
        let keeps = steps
            .iter()
            .any(|step| matches!(step, Step::Send(text) if text.contains("chunked")));
        let ended = steps
            .iter()
            .any(|step| matches!(step, Step::Send(text) if text.ends_with("0\r\n\r\n")));
        if !complete || !keeps || !ended {
            return;
        }
    }
}

/// Plays the steps; false when the client closed before.
async fn play(stream: &mut TcpStream, steps: &[Step]) -> bool {
    for step in steps {
        let (mut reader, mut writer) = stream.split();
        let done = async {
            match step {
                Step::Send(text) => writer.write_all(text.as_bytes()).await.is_ok(),
                Step::Drip(text, pause) => {
                    while writer.write_all(text.as_bytes()).await.is_ok() {
                        tokio::time::sleep(*pause).await;
                    }
                    false
                }
                Step::Pause(time) => {
                    tokio::time::sleep(*time).await;
                    true
                }
                Step::Wait(gate) => {
                    gate.opened().await;
                    true
                }
                Step::Hang => std::future::pending().await,
            }
        };
        let mut nothing = [0; 1];
        let goes_on = tokio::select! {
            done = done => done,
            _ = reader.read(&mut nothing) => false,
        };
        if !goes_on {
            return false;
        }
    }
    true
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    loop {
        let head_end = bytes.windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(end) = head_end {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.parse::<usize>().expect("a length"));
            let mut body = bytes.split_off(end + 4);
            while body.len() < length {
                stream.read_buf(&mut body).await.ok().filter(|&n| n > 0)?;
            }
            let body = serde_json::from_slice(&body).unwrap_or_default();
            return Some((head, body));
        }
        stream.read_buf(&mut bytes).await.ok().filter(|&n| n > 0)?;
    }
}

/// Head of a streamed answer whose end is the end of the connection.
pub fn stream_head(content_type: &str) -> Step {
    Step::Send(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n"
    ))
}

/// A whole answer with a status, and more header lines.
pub fn answer(status: u16, headers: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    vec![Step::Send(head + body)]
}

/// An SSE event with a piece of text.
pub fn token(text: &str) -> Step {
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    Step::Send(format!("data: {chunk}\n\n"))
}

/// The end of a complete SSE answer.
pub fn done() -> Step {
    let finish = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}});
    Step::Send(format!(
        "data: {finish}\n\ndata: {usage}\n\ndata: [DONE]\n\n"
    ))
}

/// A complete streamed answer of these pieces.
pub fn says(pieces: &[&str]) -> Vec<Step> {
    let mut steps = vec![stream_head("text/event-stream")];
    steps.extend(pieces.iter().map(|piece| token(piece)));
    steps.push(done());
    steps
}

/// A streamed answer of two pieces, the second once the gate is open.
pub fn says_at(gate: &Gate, pieces: [&str; 2]) -> Vec<Step> {
    let mut steps = says(&pieces);
    steps.insert(2, Step::Wait(gate.clone()));
    steps
}

/// A complete answer with chunked encoding, after which the connection stays open.
pub fn says_and_keeps(text: &str) -> Vec<Step> {
    let body: String = [token(text), done()]
        .into_iter()
        .map(|step| match step {
            Step::Send(text) => text,
            other => panic!("{other:?}"),
        })
        .collect();
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![Step::Send(format!(
        "{head}{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    ))]
}
