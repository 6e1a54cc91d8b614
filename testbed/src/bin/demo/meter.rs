//! Counts the answers of the model server: a request that ran twice shows here and nowhere else.
//! Requests are no measure: one that meets a connection just closed is sent again, and runs once.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How each answer begins. Its text is JSON, in which no line ends like this.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// Passes connections on to the model server. Ends when dropped.
#[derive(Debug)]
pub struct Meter {
    address: SocketAddr,
    answers: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Meter {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(model: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let answers = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn(serve(listener, model, answers.clone()));
        Ok(Self {
            address,
            answers,
            server,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers that the model has begun so far.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, model: SocketAddr, answers: Arc<AtomicUsize>) {
    loop {
        // Errors are those of connections that have ended already.
        if let Ok((client, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move { pass_on(client, model, &answers).await.ok() });
        }
    }
}

/// Errors are the two ends' to notice: they see their connection closed.
async fn pass_on(
    client: TcpStream,
    model: SocketAddr,
    answers: &AtomicUsize,
) -> std::io::Result<()> {
    let server = TcpStream::connect(model).await?;
    // Pieces of an answer are small and must not wait for more.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // Whoever ends, both ends end: a client that left must free the model.
    tokio::select! {
        ended = tokio::io::copy(&mut from_client, &mut to_server) => ended.map(drop),
        ended = count(&mut from_server, &mut to_client, answers) => ended,
    }
}

async fn count(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    answers: &AtomicUsize,
) -> std::io::Result<()> {
    // The end of what came before, in which an answer may have begun.
    let mut seen = Vec::new();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&bytes[..length]);
        let begun = seen.windows(ANSWER.len()).filter(|part| *part == ANSWER);
        answers.fetch_add(begun.count(), Ordering::Relaxed);
        let kept = seen.len().saturating_sub(ANSWER.len() - 1);
        seen.drain(..kept);
        to.write_all(&bytes[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_counted_however_they_are_cut() {
        let answers = AtomicUsize::new(0);
        let text = [ANSWER, b"a: b\r\n\r\n{}", ANSWER, b"\r\n{}"].concat();
        for size in [1, 7, ANSWER.len(), text.len()] {
            let mut reader = tokio_reader(text.clone(), size);
            let mut passed = Vec::new();
            count(&mut reader, &mut passed, &answers).await.unwrap();
            assert_eq!(answers.swap(0, Ordering::Relaxed), 2, "pieces of {size}");
            assert_eq!(passed, text);
        }
    }

    /// Gives `text` in pieces of `size`.
    fn tokio_reader(text: Vec<u8>, size: usize) -> impl AsyncRead + Unpin {
        let (mut writer, reader) = tokio::io::duplex(size);
        tokio::spawn(async move { writer.write_all(&text).await });
        reader
    }
}
