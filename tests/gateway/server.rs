//! Connections and their limits.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::stage::{KEY, Stage, answer_of, eventually, soon, streamed};
use crate::stream::{Events, ends_well};
use persona_operator::queue::task::Chunk;
use persona_operator::queue::work::Fenced;

/// Sends a request whose answer is then read by nobody.
async fn ask_and_read_nothing(stage: &Stage) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut client = socket.connect(stage.address).await.expect("connects");
    let body = streamed().to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.expect("writes");
    client
}

#[tokio::test]
async fn client_that_takes_nothing_of_its_answer_is_cut_off() {
    let stage = Stage::with(&["--stall-timeout", "500ms"]).await;
    let mut worker = stage.worker().await;
    let client = ask_and_read_nothing(&stage).await;
    let job = worker.take().await;
    // More than the sockets between them hold.
    let large = [Chunk::text("x".repeat(1 << 20))];
    let mut emitted = 0;
    while emitted < 24 && job.emit(&large).await == Fenced::Accepted {
        emitted += 1;
    }
    assert_eq!(worker.cancelled().await, job.taken.task);
    eventually("the count", async || {
        stage.count("/v1/chat/completions", "499").await > 0.5
    })
    .await;
    drop(client);
}

#[tokio::test]
async fn stream_that_is_silent_for_long_is_not_cut_off() {
    let stage = Stage::with(&["--stall-timeout", "200ms"]).await;
    let worker = stage.worker().await;
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("one ").await;
    let events = Events::of(answer_of(request).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    job.say("two").await;
    job.end().await;
    assert_eq!(ends_well(events).await, "one two");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_one_to_close() {
    let stage = Stage::with(&["--max-connections", "2"]).await;
    let worker = stage.worker().await;
    // One is the client's of `stage`, kept open since it looked for readiness.
    let request = stage.send(&streamed());
    let job = worker.take().await;
    job.say("one").await;
    let events = Events::of(answer_of(request).await);
    let mut second = TcpStream::connect(stage.address).await.expect("connects");
    second
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("writes");
    let mut word = [0; 15];
    soon("an answer", second.read_exact(&mut word))
        .await
        .expect("reads");
    assert_eq!(&word, b"HTTP/1.1 200 OK");
    let mut third = TcpStream::connect(stage.address)
        .await
        .expect("the kernel takes it");
    third
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("writes");
    let early = timeout(Duration::from_millis(300), third.read_exact(&mut word)).await;
    assert!(early.is_err(), "it should wait");
    drop(second);
    soon("an answer", third.read_exact(&mut word))
        .await
        .expect("reads");
    assert_eq!(&word, b"HTTP/1.1 200 OK");
    job.end().await;
    ends_well(events).await;
}

#[tokio::test]
async fn head_that_never_ends_is_refused() {
    let stage = Stage::start().await;
    let mut client = TcpStream::connect(stage.address).await.expect("connects");
    client
        .write_all(b"GET /livez HTTP/1.1\r\n")
        .await
        .expect("writes");
    let line = format!("x-filler: {}\r\n", "x".repeat(4000));
    // The gateway answers and closes somewhere on the way: then writing fails.
    for _ in 0..64 {
        if client.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = client.read_to_end(&mut answer);
    // Reset or not, it is over.
    soon("the end of the connection", read).await.ok();
    if !answer.is_empty() {
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    }
    assert_eq!(stage.get("/livez").await.status(), 200);
}
