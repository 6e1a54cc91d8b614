//! Counts what reaches the model server: a request that ran twice shows here and nowhere else.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How each request for an answer begins. Texts of requests are JSON and have no such line.
const REQUEST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\n";

/// Passes connections on to the model server. Ends when dropped.
#[derive(Debug)]
pub struct Meter {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
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
        let asked = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn(serve(listener, model, asked.clone()));
        Ok(Self {
            address,
            asked,
            server,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often the model was asked so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, model: SocketAddr, asked: Arc<AtomicUsize>) {
    loop {
        // Errors are those of connections that have ended already.
        if let Ok((client, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move { pass_on(client, model, &asked).await.ok() });
        }
    }
}

/// Errors are the two ends' to notice: they see their connection closed.
async fn pass_on(client: TcpStream, model: SocketAddr, asked: &AtomicUsize) -> std::io::Result<()> {
    let server = TcpStream::connect(model).await?;
    // Pieces of an answer are small and must not wait for more.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // Whoever ends, both ends end: a client that left must free the model.
    tokio::select! {
        ended = count(&mut from_client, &mut to_server, asked) => ended,
        ended = tokio::io::copy(&mut from_server, &mut to_client) => ended.map(drop),
    }
}

async fn count(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    // The end of what came before, in which a request may have begun.
    let mut seen = Vec::new();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&bytes[..length]);
        let begun = seen.windows(REQUEST.len()).filter(|part| *part == REQUEST);
        asked.fetch_add(begun.count(), Ordering::Relaxed);
        let kept = seen.len().saturating_sub(REQUEST.len() - 1);
        seen.drain(..kept);
        to.write_all(&bytes[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_counted_however_they_are_cut() {
        let asked = AtomicUsize::new(0);
        let text = [REQUEST, b"a: b\r\n\r\n{}", REQUEST, b"\r\n{}"].concat();
        for size in [1, 7, REQUEST.len(), text.len()] {
            let mut reader = tokio_reader(text.clone(), size);
            let mut passed = Vec::new();
            count(&mut reader, &mut passed, &asked).await.unwrap();
            assert_eq!(asked.swap(0, Ordering::Relaxed), 2, "pieces of {size}");
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
