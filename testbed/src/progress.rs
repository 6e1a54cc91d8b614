//! Lines for the person who waits.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So long nobody needs to be told.
const MOMENT: Duration = Duration::from_secs(2);
/// Between two lines about the same thing.
const REPORT_EVERY: Duration = Duration::from_secs(15);

type Sink = Box<dyn Fn(&str) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();

/// From here on `sink` gets all lines, for a program that has its own way of saying things. The first
/// caller wins.
pub fn divert(sink: impl Fn(&str) + Send + Sync + 'static) {
    SINK.get_or_init(|| Box::new(sink));
}

/// Writes one line to stderr. Straight to the stream: `cargo test` would hide what `eprintln!` says,
/// and a first build takes minutes. A closed stderr is no reason to stop.
pub fn line(text: Arguments<'_>) {
    if let Some(sink) = SINK.get() {
        return sink(&text.to_string());
    }
    let text = format!("testbed: {text}\n");
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// Tells of something as long as it lasts, unless that is only a moment.
#[derive(Debug)]
pub struct Slow {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    /// `doing` is like `building x`; `expectation`, how long it may take, goes with the first line.
    pub fn new(doing: String, expectation: &'static str) -> Self {
        let (done, ended) = channel();
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            if ended.recv_timeout(MOMENT) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            line(format_args!("{doing} ({expectation})"));
            while ended.recv_timeout(REPORT_EVERY) == Err(RecvTimeoutError::Timeout) {
                line(format_args!(
                    "still {doing}, {} s so far",
                    started.elapsed().as_secs()
                ));
            }
            line(format_args!(
                "ended {doing} after {} s",
                started.elapsed().as_secs()
            ));
        });
        Self {
            done: Some(done),
            thread: Some(thread),
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // Err: it panicked, and has stopped too.
            thread.join().ok();
        }
    }
}
