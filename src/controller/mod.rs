//! Kubernetes: one folder a kind, each observe (I/O) -> plan (pure) -> apply (I/O) -> status.
//!
//! - [`topology`] a namespace's phase and the pools it takes; never touches a Persona
//! - [`persona`] a persona's pool, its route in the queue, its status
//! - [`pool`] the pods of a WorkerPool
//!
//! What they share: [`watch`] keeps [`context::Stores`] and rings [`bells`]; [`drive`] visits what was
//! rung for; [`observer`] reads the queue's numbers; [`contact`] keeps the queue in order; [`leader`]
//! sees to it that one process writes.

mod access;
mod assignment;
mod bells;
mod client;
mod contact;
mod context;
mod drive;
mod error;
#[cfg(test)]
mod fixture;
mod latest;
mod leader;
mod metrics;
mod nodes;
mod observer;
mod options;
mod persona;
pub mod plans;
mod pods;
pub mod pool;
mod routes;
mod slices;
mod sources;
mod status;
mod topology;
mod turns;
mod watch;
mod words;
mod work;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector;
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::context::Context;
pub use self::error::Error;
pub use self::options::Options;
use crate::api::names::MANAGER;
use crate::queue::access::MasterKey;
use crate::queue::{Queue, QueueOptions};
use crate::telemetry::{self, Health};

/// How long reconcilers may finish what they are at when the process ends.
const FINISH: Duration = Duration::from_secs(5);

/// Runs the controller until `stop` is cancelled or leadership is lost.
///
/// # Errors
/// What keeps it from starting, or that another process leads now.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    options.check()?;
    let health = Health::default();
    let registry = telemetry::registry()?;
    let metrics = metrics::Metrics::register(&registry).map_err(telemetry::Error::from)?;
    let busy = Arc::new(AtomicBool::new(false));
    let is_busy = busy.clone();
    // Who stands by is as ready as it can be.
    health.ready("objects", move || {
        if is_busy.load(Ordering::Relaxed) {
            Err("not all are known yet".to_owned())
        } else {
            Ok(())
        }
    });
    let _server = telemetry::serve(options.listen, registry, health.clone()).await?;
    let master = read_master_key(&options)?;
    let queue = Queue::connect(queue_options(&options)?)?;
    let client = client::connect(options.api_timeout.into()).await?;
    let cluster_id = match &options.cluster_id {
        Some(id) => id.clone(),
        None => tokio::select! {
            id = cluster_id(&client) => id?,
            () = stop.cancelled() => return Ok(()),
        },
    };
    let mut election = leader::Election::new(client.clone(), &options);
    let Some(held) = election.acquire(&stop).await else {
        // What was asked for last may have been granted all the same.
        election.release().await;
        return Ok(());
    };
    metrics.leader.set(1);
    busy.store(true, Ordering::Relaxed);
    let (bells, visits) = bells::Bells::new();
    let (observer, looks) = observer::Observer::new();
    let (stores, writers) = stores();
    let reporter = Reporter {
        controller: MANAGER.to_owned(),
        instance: Some(options.pod_name.clone()),
    };
    let cx = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        queue,
        cluster_id,
        stores,
        pods: pods::Pods::default(),
        nodes: nodes::Nodes::default(),
        slices: slices::Slices::default(),
        observer,
        sources: sources::Sources::new(options.metric_credentials_dir.clone()),
        bells,
        contact: contact::Contact::default(),
        access: access::Access::new(master),
        routes: routes::Routes::default(),
        pool_memory: std::sync::Mutex::default(),
        topology_memory: std::sync::Mutex::default(),
        metrics,
        health,
        options,
    });
    let working = stop.child_token();
    let mut work = tokio::spawn(work::work(
        cx,
        visits,
        looks,
        writers,
        busy,
        working.clone(),
    ));
    let ended = tokio::select! {
        ended = election.keep(held, &stop) => ended,
        worked = &mut work => {
            election.release().await;
            return outcome(worked);
        }
    };
    working.cancel();
    match ended {
        Ok(until) => {
            // The lease is not renewed any more.
            let until = until.min(Instant::now() + FINISH);
            match timeout_at(until, &mut work).await {
                Ok(worked) => {
                    if let Err(error) = outcome(worked) {
                        tracing::error!(%error, "at the end");
                    }
                }
                Err(_) => {
                    tracing::warn!("the reconcilers did not finish in time");
                    // The next leader begins when the lease is free.
                    work.abort();
                    drop(work.await);
                }
            }
            election.release().await;
            Ok(())
        }
        Err(lost) => {
            // Nothing may be written from here on.
            work.abort();
            Err(lost.into())
        }
    }
}

/// Of the task that works.
fn outcome(worked: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
    worked.unwrap_or_else(|error| Err(Error::Broken(error.to_string())))
}

fn stores() -> (context::Stores, watch::Writers) {
    let (personas, write_personas) = reflector::store();
    let (pools, write_pools) = reflector::store();
    let (topologies, write_topologies) = reflector::store();
    let (budgets, write_budgets) = reflector::store();
    let stores = context::Stores {
        personas,
        pools,
        topologies,
        budgets,
        written_personas: latest::Latest::default(),
        written_pools: latest::Latest::default(),
        written_topologies: latest::Latest::default(),
        synced: tokio::sync::watch::Sender::new(false),
    };
    let writers = watch::Writers {
        personas: write_personas,
        pools: write_pools,
        topologies: write_topologies,
        budgets: write_budgets,
    };
    (stores, writers)
}

fn read_master_key(options: &Options) -> Result<MasterKey, Error> {
    let file = &options.master_key_file;
    let key = fs::read(file).map_err(|source| Error::File {
        what: "the master key",
        variable: "PERSONA_MASTER_KEY_FILE",
        file: file.clone(),
        source,
    })?;
    Ok(MasterKey::new(key))
}

fn queue_options(options: &Options) -> Result<QueueOptions, Error> {
    let password = match &options.queue_admin_password_file {
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|source| Error::File {
                what: "the queue's password",
                variable: "PERSONA_QUEUE_ADMIN_PASSWORD_FILE",
                file: file.clone(),
                source,
            })?;
            Some(text.trim().to_owned())
        }
        None => None,
    };
    Ok(QueueOptions {
        prefix: options.queue_prefix.clone(),
        password,
        ..QueueOptions::new(options.queue_url.as_str())
    })
}

/// The uid of kube-system: nothing else tells one cluster from another.
async fn cluster_id(client: &Client) -> Result<String, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces.get("kube-system").await?;
    Ok(system.uid().unwrap_or_default())
}
