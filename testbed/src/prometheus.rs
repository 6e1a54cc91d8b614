//! A real Prometheus as a child process: Debian's, without the service that its package brings.

mod pods;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use self::pods::Pods;
use crate::certs::Identity;
use crate::component::{Component, Spec};
use crate::net::Port;
use crate::packages::{self, Package};
use crate::probe::Probe;
use crate::run_dir::{DataDir, RunDir};

pub(crate) const PACKAGES: &[Package] = &[Package {
    name: "prometheus",
    file: "/usr/bin/prometheus",
}];
/// Between scrapes, and between looks at a query that is waited for.
const INTERVAL: Duration = Duration::from_millis(500);

/// What a Prometheus scrapes.
#[derive(Debug, Clone, Default)]
pub struct PrometheusOptions {
    /// Job name -> addresses with `/metrics`.
    pub jobs: BTreeMap<String, Vec<SocketAddr>>,
    /// Cluster whose pods are scraped as their `prometheus.io/` annotations say, in the job `pods` with
    /// labels `pod`, `pod_namespace` and, where the pod has it, `component`.
    pub kubeconfig: Option<PathBuf>,
    /// Serves HTTPS alone, with this certificate.
    pub tls: Option<Identity>,
}

/// One value of a query's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// All labels; the name of the metric is `__name__`.
    pub labels: BTreeMap<String, String>,
    /// The value at the time of the query.
    pub value: f64,
}

impl Sample {
    /// A label, empty when it is not there, as in PromQL.
    pub fn label(&self, name: &str) -> &str {
        self.labels
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    }
}

/// A running Prometheus. Dropping it stops its process and removes its data.
#[derive(Debug)]
pub struct Prometheus {
    component: Component,
    port: Port,
    scheme: &'static str,
    _pods: Option<Pods>,
    _data: DataDir,
}

impl Prometheus {
    /// Starts one and waits until it answers; installs it when it is not there and this is root.
    ///
    /// # Errors
    /// It is not installed and cannot be, or it does not like its configuration.
    pub async fn start(options: PrometheusOptions) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let program = program().await?;
        let name = format!("prometheus{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let run = RunDir::current()?;
        let data = run.data(&name)?;
        let port = Port::free()?;
        let config = data.path().join("prometheus.yml");
        let targets = data.path().join("pods.json");
        let pods = match &options.kubeconfig {
            Some(kubeconfig) => Some(Pods::follow(kubeconfig, targets.clone()).await?),
            None => None,
        };
        std::fs::write(
            &config,
            serde_norway::to_string(&config_of(&options, &targets))?,
        )?;
        let listen = format!("127.0.0.1:{}", port.number());
        let scheme = if options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let spec = Spec::new(
            name,
            program,
            Probe::Http(format!("{scheme}://{listen}/-/ready")),
        );
        let mut spec = spec.args([
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", data.path().join("tsdb").display()),
            format!("--web.listen-address={listen}"),
        ]);
        if let Some(identity) = &options.tls {
            let file = data.path().join("web.yml");
            let web = json!({"tls_server_config": {
                "cert_file": identity.cert, "key_file": identity.key,
            }});
            std::fs::write(&file, serde_norway::to_string(&web)?)?;
            spec = spec.args([format!("--web.config.file={}", file.display())]);
        }
        let component = Component::start(spec, &run.logs())?;
        component.ready().await?;
        Ok(Self {
            component,
            port,
            scheme,
            _pods: pods,
            _data: data,
        })
    }

    /// Where it answers, without a slash at the end.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port.number())
    }

    /// For tests that stop, pause and restart it.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// The answer to an instant query.
    ///
    /// # Errors
    /// It does not answer, or the query is wrong.
    pub async fn query(&self, promql: &str) -> Result<Vec<Sample>> {
        crate::install_crypto();
        // Its certificate is not checked: it is our own child.
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .build()?;
        let mut url = reqwest::Url::parse(&format!("{}/api/v1/query", self.url()))?;
        url.query_pairs_mut().append_pair("query", promql);
        let answer: Answer = client.get(url).send().await?.json().await?;
        ensure!(answer.status == "success", "{promql}: {:?}", answer.error);
        let data = answer.data.context("no data")?;
        data.result.into_iter().map(Sample::try_from).collect()
    }

    /// Repeats a query until its answer is as `wanted`, for at most `within`.
    ///
    /// # Errors
    /// It never was; says what the answer was last.
    pub async fn until(
        &self,
        promql: &str,
        within: Duration,
        wanted: impl Fn(&[Sample]) -> bool,
    ) -> Result<Vec<Sample>> {
        let deadline = Instant::now() + within;
        loop {
            let samples = self.query(promql).await?;
            if wanted(&samples) {
                return Ok(samples);
            }
            if Instant::now() > deadline {
                bail!("{promql} is still {samples:?}");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// The program: one on the PATH, else Debian's.
async fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).map(|folder| folder.join("prometheus"));
    match folders.find(|program| program.is_file()) {
        Some(program) => Ok(program),
        None => {
            packages::ensure(PACKAGES).await?;
            Ok(PathBuf::from(PACKAGES[0].file))
        }
    }
}

fn config_of(options: &PrometheusOptions, pods: &Path) -> Value {
    let interval = format!("{}ms", INTERVAL.as_millis());
    let fixed = options.jobs.iter().map(|(job, addresses)| {
        let targets: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        json!({"job_name": job, "static_configs": [{"targets": targets}]})
    });
    let pods = options
        .kubeconfig
        .iter()
        .map(|_| json!({"job_name": "pods", "file_sd_configs": [{"files": [pods]}]}));
    json!({
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": fixed.chain(pods).collect::<Vec<_>>(),
    })
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    error: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    /// Time, and the value as text, because JSON has no infinity.
    value: (f64, String),
}

impl TryFrom<Series> for Sample {
    type Error = anyhow::Error;

    fn try_from(series: Series) -> Result<Self> {
        Ok(Self {
            value: series.value.1.parse().context("no number")?,
            labels: series.metric,
        })
    }
}
