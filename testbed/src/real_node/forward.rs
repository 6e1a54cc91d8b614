//! Lets pods reach a server that listens on the host's loopback only.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Passes TCP connections to an address on to the same port of 127.0.0.1, until it is dropped. Has a
/// thread and runtime of its own, because tests come and go with theirs.
#[derive(Debug)]
pub struct Forward {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    pub fn start(address: SocketAddr) -> Result<Self> {
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let name = format!("forward-{}", address.port());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // Ends when the sender says so or is gone; open connections go with the runtime.
            runtime.block_on(async {
                tokio::select! {
                    Err(error) = accept(listener, address.port()) => {
                        crate::progress::line(format_args!("forwarding {address}: {error}"));
                    }
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Err: it panicked, and has stopped too.
            thread.join().ok();
        }
    }
}

async fn accept(listener: std::net::TcpListener, port: u16) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(pass_on(client, port))),
            Err(error) => {
                crate::progress::line(format_args!("forwarding port {port}: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Errors are the two ends' to notice: they see their connection closed.
async fn pass_on(mut client: TcpStream, port: u16) {
    if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        // Watches carry small messages that must not wait for more.
        client.set_nodelay(true).and(server.set_nodelay(true)).ok();
        tokio::io::copy_bidirectional(&mut client, &mut server)
            .await
            .ok();
    }
}
