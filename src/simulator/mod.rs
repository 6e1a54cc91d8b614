//! Sizes on virtual time: our planner, KEDA, an HPA and one who knows the future, on the same tasks.

mod oracle;
mod ours;
mod outcome;
mod peers;
mod pictures;
mod plot;
mod report;
mod trace;
mod world;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use self::ours::Ours;
use self::outcome::Outcome;
use self::peers::{Peer, Settings};
use self::report::Row;
use self::trace::{Kind, Trace};
use self::world::Pool;
use crate::api::Span;

/// Settings of `simulate`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// constant, poisson, step, ramp, bursts, heavy-tail, diurnal, or a .csv file with a line a task:
    /// at_seconds,service_seconds. Several with commas; default: all that are made.
    #[arg(long, value_delimiter = ',')]
    trace: Vec<Kind>,
    /// ours, hpa, hpa-tuned, keda, keda-tuned, keda-tuned-sync1, oracle. Several with commas; default: all.
    #[arg(long, value_delimiter = ',')]
    policy: Vec<PolicyKind>,
    /// Pools, each with a trace of its own seed; the table adds them up.
    #[arg(long, default_value_t = 3)]
    pools: u64,
    /// Seed of the first pool.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of a made trace.
    #[arg(long, default_value = "1h")]
    duration: Span,
    /// From the creation of a pod until it is ready.
    #[arg(long, default_value = "1s")]
    lead: Span,
    /// spec.slotsPerWorker.
    #[arg(long, default_value_t = 4)]
    slots: u32,
    /// spec.minReplicas.
    #[arg(long, default_value_t = 1)]
    min: u32,
    /// spec.maxReplicas.
    #[arg(long, default_value_t = 100)]
    max: u32,
    /// spec.scaling.targetWait.
    #[arg(long, default_value = "500ms")]
    target_wait: Span,
    /// spec.idleTimeout.
    #[arg(long, default_value = "30s")]
    idle_timeout: Span,
    /// Writes the runs there, second by second.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Draws the runs there; of several pools the sum.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Draws there what a shorter wait costs: pod-seconds and late tasks of all traces together, for
    /// idle timeouts of 5 to 120 s.
    #[arg(long)]
    frontier: Option<PathBuf>,
    /// Prints each of our decisions.
    #[arg(long)]
    explain: bool,
}

/// Whose sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// The controller's planner.
    Ours,
    /// An HPA on utilization, with defaults.
    Hpa,
    /// The same, tuned.
    HpaTuned,
    /// KEDA with defaults.
    Keda,
    /// KEDA, tuned.
    KedaTuned,
    /// The same on a control plane that syncs each second.
    KedaTunedSync1,
    /// Knows the future.
    Oracle,
}

impl PolicyKind {
    const ALL: [Self; 7] = [
        Self::Ours,
        Self::KedaTuned,
        Self::KedaTunedSync1,
        Self::Keda,
        Self::HpaTuned,
        Self::Hpa,
        Self::Oracle,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Hpa => "hpa",
            Self::HpaTuned => "hpa-tuned",
            Self::Keda => "keda",
            Self::KedaTuned => "keda-tuned",
            Self::KedaTunedSync1 => "keda-tuned-sync1",
            Self::Oracle => "oracle",
        }
    }

    fn settings(self, pool: Pool) -> Option<Settings> {
        match self {
            Self::Ours | Self::Oracle => None,
            Self::Hpa => Some(Settings::HPA),
            Self::HpaTuned => Some(Settings::hpa_tuned(pool)),
            Self::Keda => Some(Settings::KEDA),
            Self::KedaTuned => Some(Settings::keda_tuned(pool)),
            Self::KedaTunedSync1 => Some(Settings::keda_tuned_sync1(pool)),
        }
    }

    fn run(self, trace: &Trace, pool: Pool, seed: u64) -> (Outcome, Vec<String>) {
        if self == Self::Oracle {
            return (oracle::oracle(trace, pool), Vec::new());
        }
        match self.settings(pool) {
            Some(settings) => {
                // An HPA is off while its target is at zero; only KEDA wakes it.
                let min = if settings.wakes() {
                    pool.min
                } else {
                    pool.min.max(1)
                };
                let pool = Pool { min, ..pool };
                let mut peer = Peer::new(settings, pool, seed);
                (world::run(trace, pool, &mut peer, seed), Vec::new())
            }
            None => {
                let mut ours = Ours::new(pool);
                let outcome = world::run(trace, pool, &mut ours, seed);
                (outcome, ours.said)
            }
        }
    }
}

impl FromStr for PolicyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("write {}", names.join(", "))
        })
    }
}

/// Why there is no simulation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of a trace is none.
    #[error("{path}, line {number}: `{line}` is not at_seconds,service_seconds like 12.5,0.9")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1 on.
        number: usize,
        /// The line.
        line: String,
    },
}

/// The runs of one policy on one trace, of all pools together.
struct Total {
    trace: String,
    policy: PolicyKind,
    row: Row,
    run: Outcome,
    /// Tasks that would run each second if nobody ever waited.
    load: Rc<[f64]>,
    said: Vec<String>,
}

/// Simulates, and answers the table.
///
/// # Errors
/// A file that cannot be read or written, or is no trace.
pub fn run(options: &Options) -> Result<String, Error> {
    if let Some(path) = &options.frontier {
        write(path, &pictures::frontier(options)?)?;
        return Ok(format!("{}\n", path.display()));
    }
    let totals = totals(options, options.pool())?;
    if let Some(path) = &options.csv {
        let runs: Vec<_> = totals
            .iter()
            .map(|t| (t.trace.clone(), t.policy.name().to_owned(), t.run.clone()))
            .collect();
        write(path, &report::csv(&runs))?;
    }
    if let Some(path) = &options.svg {
        write(
            path,
            &plot::svg(&pictures::plots(&totals, options.slots.max(1))),
        )?;
    }
    let mut text = String::new();
    for total in totals.iter().filter(|_| options.explain) {
        for line in &total.said {
            text += &format!("{} {line}\n", total.trace);
        }
    }
    let rows: Vec<Row> = totals.into_iter().map(|total| total.row).collect();
    Ok(text + &report::table(&rows))
}

impl Options {
    fn pool(&self) -> Pool {
        Pool {
            slots: self.slots.max(1),
            min: self.min.min(self.max),
            max: self.max,
            lead: self.lead.as_millis(),
            target_wait: self.target_wait.as_millis(),
            idle_timeout: self.idle_timeout.as_millis(),
        }
    }

    fn traces(&self) -> Vec<Kind> {
        if self.trace.is_empty() {
            Kind::MADE.to_vec()
        } else {
            self.trace.clone()
        }
    }

    fn make(&self, kind: &Kind) -> Result<Vec<Trace>, Error> {
        let seconds = self.duration.as_millis() as f64 / 1000.0;
        (0..self.pools.max(1))
            .map(|pool| kind.make(seconds, self.seed + pool))
            .collect()
    }
}

fn totals(options: &Options, pool: Pool) -> Result<Vec<Total>, Error> {
    let policies = if options.policy.is_empty() {
        PolicyKind::ALL.to_vec()
    } else {
        options.policy.clone()
    };
    let mut totals = Vec::new();
    for kind in options.traces() {
        let traces = options.make(&kind)?;
        let (oracle, _) = together(PolicyKind::Oracle, &traces, pool, options.seed);
        let load: Rc<[f64]> = pictures::load(&traces).into();
        let bursts = traces.iter().map(|trace| trace.bursts).sum();
        for policy in &policies {
            let (run, said) = together(*policy, &traces, pool, options.seed);
            let row = Row::new(
                kind.name(),
                policy.name(),
                bursts,
                &run,
                &oracle,
                pool.target_wait,
            );
            totals.push(Total {
                trace: kind.name().to_owned(),
                policy: *policy,
                row,
                run,
                load: load.clone(),
                said,
            });
        }
    }
    Ok(totals)
}

fn together(policy: PolicyKind, traces: &[Trace], pool: Pool, seed: u64) -> (Outcome, Vec<String>) {
    let mut all: Option<Outcome> = None;
    let mut sentences = Vec::new();
    for (trace, seed) in traces.iter().zip(seed..) {
        let (run, said) = policy.run(trace, pool, seed);
        sentences.extend(said);
        match &mut all {
            None => all = Some(run),
            Some(all) => all.add(&run),
        }
    }
    (all.unwrap_or_default(), sentences)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
