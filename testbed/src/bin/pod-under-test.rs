//! What tests of process nodes run in a pod: an HTTP server that tells what it sees and does as told.
//!
//! Environment: LISTEN (address), TERM_FILE (made on SIGTERM, before the end), IGNORE_TERM.
//! GET paths: /env, /args, /file?<path>, /whoami (to the API server), /readyz, /livez,
//! /set/ready/<bool>, /set/live/<bool>, /exit/<code>.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

struct Switches {
    ready: AtomicBool,
    live: AtomicBool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let address = std::env::var("LISTEN").context("LISTEN is not set")?;
    let listener = TcpListener::bind(&address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    println!("listening on {address}");
    let switches = Arc::new(Switches {
        ready: true.into(),
        live: true.into(),
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let switches = Arc::clone(&switches);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &switches).await {
                        eprintln!("{error:#}");
                    }
                });
            }
            _ = terminate.recv() => {
                println!("SIGTERM");
                if std::env::var_os("IGNORE_TERM").is_none() {
                    break;
                }
            }
        }
    }
    if let Some(file) = std::env::var_os("TERM_FILE") {
        std::fs::write(file, "terminated")?;
    }
    Ok(())
}

async fn serve(stream: TcpStream, switches: &Switches) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut header = String::new();
    while stream.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).context("no path")?;
    let (status, body) = match answer(path, switches).await {
        Ok(body) => ("200 OK", body),
        Err(error) => ("503 Service Unavailable", format!("{error:#}")),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

async fn answer(path: &str, switches: &Switches) -> Result<String> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    match words[..] {
        ["env"] => {
            let env: BTreeMap<String, String> = std::env::vars().collect();
            Ok(serde_json::to_string(&env)?)
        }
        ["args"] => {
            let args: Vec<String> = std::env::args().skip(1).collect();
            Ok(serde_json::to_string(&args)?)
        }
        ["file"] => std::fs::read_to_string(query).with_context(|| query.to_owned()),
        ["whoami"] => whoami().await,
        ["readyz"] => state(&switches.ready),
        ["livez"] => state(&switches.live),
        ["set", "ready", value] => set(&switches.ready, value),
        ["set", "live", value] => set(&switches.live, value),
        ["exit", code] => std::process::exit(code.parse()?),
        _ => bail!("no such path: {path}"),
    }
}

fn state(switch: &AtomicBool) -> Result<String> {
    if switch.load(Ordering::Relaxed) {
        Ok("ok".into())
    } else {
        bail!("switched off")
    }
}

fn set(switch: &AtomicBool, value: &str) -> Result<String> {
    switch.store(value.parse()?, Ordering::Relaxed);
    Ok("done".into())
}

/// The name under which the API server knows this process, by whatever configuration it finds.
async fn whoami() -> Result<String> {
    testbed::install_crypto();
    let client = kube::Client::try_default().await?;
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await?;
    let user = review.status.and_then(|s| s.user_info);
    user.and_then(|u| u.username).context("no name")
}
