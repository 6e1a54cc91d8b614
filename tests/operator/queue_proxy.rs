//! A proxy before Redis that cuts the controller off at a write, as the one before the API server does.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::fuse::{Cut, Fuse, State};

/// What the fuse calls it.
pub const REDIS: &str = "Redis";
/// Verbs that change something for a move. Numbers are read, and what has expired is given back, in
/// their own time.
const STEPS: [&str; 7] = [
    "_assign",
    "_close",
    "_drain",
    "_open",
    "_reap_worker",
    "_remove",
    "_route",
];

/// A proxy to Redis.
pub struct QueueProxy {
    port: u16,
    server: JoinHandle<()>,
}

impl QueueProxy {
    /// In front of the Redis at this port.
    pub async fn start(redis: u16, fuse: Arc<Fuse>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let server = tokio::spawn(async move {
            // They end with the server.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, redis, fuse.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, server })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for QueueProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(client: TcpStream, redis: u16, fuse: Arc<Fuse>) -> Result<()> {
    let redis = TcpStream::connect(("127.0.0.1", redis)).await?;
    let (from_client, to_client) = client.into_split();
    let (from_redis, to_redis) = redis.into_split();
    // What was sent to Redis when the fuse blew, so that its answer can be waited for.
    let (cut, is_cut) = watch::channel(false);
    let there = commands(from_client, to_redis, &fuse, cut);
    let back = answers(from_redis, to_client, &fuse, is_cut);
    tokio::try_join!(there, back)?;
    Ok(())
}

/// Passes commands on, until the fuse blows.
async fn commands(
    client: OwnedReadHalf,
    mut redis: OwnedWriteHalf,
    fuse: &Fuse,
    cut: watch::Sender<bool>,
) -> Result<()> {
    let mut client = BufReader::new(client);
    while let Some(command) = Command::read(&mut client).await? {
        let state = match (command.is_step(), fuse.is_blown()) {
            (true, _) => fuse.count(),
            (false, true) => State::Blown,
            (false, false) => State::Off,
        };
        match state {
            State::Off | State::At(2.., _) => redis.write_all(&command.bytes).await?,
            State::At(_, Cut::Before) => fuse.has_blown(REDIS),
            State::At(_, Cut::After) => {
                cut.send_replace(true);
                redis.write_all(&command.bytes).await?;
            }
            State::Blown => {}
        }
    }
    // Redis answers what it has, and closes.
    redis.shutdown().await?;
    Ok(())
}

/// Passes answers on, until the fuse blows. All are read, because Redis must not find a broken
/// connection before it has read the last command.
async fn answers(
    mut redis: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    fuse: &Fuse,
    mut is_cut: watch::Receiver<bool>,
) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = redis.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if is_cut.has_changed().unwrap_or(false) {
            is_cut.mark_unchanged();
            fuse.has_blown(REDIS);
        } else if !fuse.is_blown() {
            // The controller may be dead already.
            client.write_all(&buffer[..length]).await.ok();
        }
    }
}

/// A command as the client sends it: an array of strings.
struct Command {
    bytes: Vec<u8>,
    /// The first two words.
    name: String,
    function: String,
}

impl Command {
    /// The next one; none when the client has closed.
    async fn read(client: &mut BufReader<OwnedReadHalf>) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        if client.read_until(b'\n', &mut bytes).await? == 0 {
            return Ok(None);
        }
        let count = number(&bytes, b'*')?;
        let mut words = Vec::new();
        for _ in 0..count {
            let mut head = Vec::new();
            client.read_until(b'\n', &mut head).await?;
            let length = number(&head, b'$')?;
            let mut word = vec![0; length + 2];
            client.read_exact(&mut word).await?;
            bytes.extend(head);
            bytes.extend(&word);
            if words.len() < 2 {
                word.truncate(length);
                words.push(String::from_utf8_lossy(&word).into_owned());
            }
        }
        let mut words = words.into_iter();
        Ok(Some(Self {
            bytes,
            name: words.next().unwrap_or_default(),
            function: words.next().unwrap_or_default(),
        }))
    }

    fn is_step(&self) -> bool {
        self.name == "FCALL" && STEPS.iter().any(|verb| self.function.ends_with(verb))
            || self.name == "SET" && self.function.ends_with(":epoch")
    }
}

fn number(line: &[u8], sign: u8) -> Result<usize> {
    let text = std::str::from_utf8(line)?.trim_end();
    ensure!(text.as_bytes().first() == Some(&sign), "not RESP: {text}");
    text[1..]
        .parse()
        .with_context(|| format!("no number: {text}"))
}
