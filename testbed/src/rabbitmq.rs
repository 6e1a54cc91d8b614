//! A real RabbitMQ with its management API as a child process: Debian's, without the service that its
//! package brings.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::component::{Component, Spec};
use crate::net::Port;
use crate::packages::{self, Package};
use crate::probe::Probe;
use crate::run_dir::{DataDir, RunDir};

pub(crate) const PACKAGES: &[Package] = &[Package {
    name: "rabbitmq-server",
    file: "/usr/lib/rabbitmq/bin/rabbitmq-server",
}];
/// Erlang's port mapper; Debian brings it with Erlang.
const EPMD: &str = "/usr/bin/epmd";
const USER: &str = "tester";
const PASSWORD: &str = "secret";

/// A running RabbitMQ. Dropping it stops its processes and removes its data.
#[derive(Debug)]
pub struct RabbitMq {
    // The server before the mapper that it is registered with.
    server: Component,
    _mapper: Component,
    management: Port,
    _ports: [Port; 3],
    _data: DataDir,
}

impl RabbitMq {
    /// Starts one and waits until its management API answers; installs it when it is not there and
    /// this is root.
    ///
    /// # Errors
    /// It is not installed and cannot be, or does not start.
    pub async fn start() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        packages::ensure(PACKAGES).await?;
        let name = format!("rabbitmq{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let run = RunDir::current()?;
        let data = run.data(&name)?;
        let (management, amqp, mapper, distribution) =
            (Port::free()?, Port::free()?, Port::free()?, Port::free()?);
        let file = |name: &str| data.path().join(name);
        fs::write(
            file("rabbitmq.conf"),
            format!(
                "listeners.tcp.1 = 127.0.0.1:{}\nmanagement.tcp.ip = 127.0.0.1\n\
                 management.tcp.port = {}\ncollect_statistics_interval = 1000\n\
                 default_user = {USER}\ndefault_pass = {PASSWORD}\nlog.console = true\nlog.file = false\n",
                amqp.number(),
                management.number(),
            ),
        )?;
        fs::write(file("enabled_plugins"), "[rabbitmq_management].\n")?;
        // Ours, in the foreground: the one that a server starts by itself would outlive it.
        let port = mapper.number().to_string();
        let spec = Spec::new(format!("{name}-epmd"), EPMD, Probe::None);
        let spec = spec.args(["-port", port.as_str(), "-address", "127.0.0.1"]);
        let epmd = Component::start(spec, &run.logs())?;
        // Passes a message through a queue of the default virtual host, which is there last.
        let alive = format!(
            "http://{USER}:{PASSWORD}@127.0.0.1:{}/api/aliveness-test/%2F",
            management.number()
        );
        let mut spec = Spec::new(&*name, PACKAGES[0].file, Probe::Http(alive));
        for (variable, value) in [
            ("HOME", data.path().to_owned()),
            ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins")),
            ("RABBITMQ_MNESIA_BASE", file("mnesia")),
            ("RABBITMQ_LOG_BASE", file("log")),
            ("RABBITMQ_PID_FILE", file("pid")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", file("generated")),
            ("RABBITMQ_CONF_ENV_FILE", file("none")),
            (
                "RABBITMQ_NODENAME",
                PathBuf::from(format!("{name}@localhost")),
            ),
            // As under systemd the script becomes the server, instead of a parent that it would outlive.
            ("NOTIFY_SOCKET", file("notify")),
            ("ERL_EPMD_ADDRESS", PathBuf::from("127.0.0.1")),
            ("ERL_EPMD_PORT", PathBuf::from(&port)),
            (
                "RABBITMQ_DIST_PORT",
                PathBuf::from(distribution.number().to_string()),
            ),
        ] {
            spec = spec.env(variable, value);
        }
        let server = Component::start(spec, &run.logs())?;
        server.ready().await?;
        Ok(Self {
            server,
            _mapper: epmd,
            management,
            _ports: [amqp, mapper, distribution],
            _data: data,
        })
    }

    /// Base URL of the management API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.management.number())
    }

    /// User and password of its administrator.
    pub fn login(&self) -> (&'static str, &'static str) {
        (USER, PASSWORD)
    }

    /// For tests that stop, pause and restart it.
    pub fn component(&self) -> &Component {
        &self.server
    }

    /// Makes a queue.
    ///
    /// # Errors
    /// It refuses.
    pub async fn declare(&self, queue: &str) -> Result<()> {
        let client = client()?;
        let request = client.put(format!("{}/api/queues/%2F/{queue}", self.url()));
        self.send(request.json(&json!({"durable": true}))).await?;
        Ok(())
    }

    /// Puts messages into a queue.
    ///
    /// # Errors
    /// It refuses, or has no such queue.
    pub async fn publish(&self, queue: &str, count: usize) -> Result<()> {
        let client = client()?;
        let url = format!("{}/api/exchanges/%2F/amq.default/publish", self.url());
        let message = json!({
            "routing_key": queue, "payload": "work", "payload_encoding": "string", "properties": {},
        });
        for _ in 0..count {
            let answer = self.send(client.post(&url).json(&message)).await?;
            ensure!(answer["routed"] == true, "there is no queue {queue}");
        }
        Ok(())
    }

    /// Takes all messages out of a queue.
    ///
    /// # Errors
    /// It refuses.
    pub async fn purge(&self, queue: &str) -> Result<()> {
        let client = client()?;
        let url = format!("{}/api/queues/%2F/{queue}/contents", self.url());
        self.send(client.delete(url)).await?;
        Ok(())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value> {
        let answer = request.basic_auth(USER, Some(PASSWORD)).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "RabbitMQ answered {status}: {text}");
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).context("RabbitMQ answered with no JSON")
    }
}

fn client() -> Result<Client> {
    crate::install_crypto();
    Ok(Client::builder().no_proxy().build()?)
}
