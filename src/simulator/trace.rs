//! Tasks that come: made from a seed, or read from a file.

use std::f64::consts::TAU;
use std::path::Path;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Error;

/// Mean service time of made tasks, seconds.
const SERVICE: f64 = 0.9;

/// A task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Job {
    /// When it comes, ms.
    pub at: u64,
    /// How long it runs, ms.
    pub service: u64,
}

/// Tasks in order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The tasks.
    pub jobs: Vec<Job>,
    /// When it ends, ms.
    pub ends: u64,
    /// Rises of the load from one level to another, the start included where that is one, each of which a size should follow without going back and forth.
    pub bursts: u64,
}

/// Which trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 10 tasks a second of 0.9 s, evenly. Nothing is random.
    Constant,
    /// 10 tasks a second that come at random.
    Poisson,
    /// 5 tasks a second, 50 in the middle third.
    Step,
    /// From 2 tasks a second up to 60 and back.
    Ramp,
    /// 1 task a second; about every 4 minutes 40 a second for 30 s.
    Bursts,
    /// 8 tasks a second, of which most are short and a few very long (Pareto, 1.5).
    HeavyTail,
    /// Between 2 and 40 tasks a second, two days in the time of the trace.
    Diurnal,
    /// A file: a line a task, `at_seconds,service_seconds`, in any order; lines that begin with a
    /// letter or # are skipped.
    File(String),
}

impl Kind {
    /// All that are made.
    pub const MADE: [Self; 7] = [
        Self::Constant,
        Self::Poisson,
        Self::Step,
        Self::Ramp,
        Self::Bursts,
        Self::HeavyTail,
        Self::Diurnal,
    ];

    /// As on the command line.
    pub fn name(&self) -> &str {
        match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
            Self::Step => "step",
            Self::Ramp => "ramp",
            Self::Bursts => "bursts",
            Self::HeavyTail => "heavy-tail",
            Self::Diurnal => "diurnal",
            Self::File(path) => path,
        }
    }

    /// The trace, of so many seconds.
    ///
    /// # Errors
    /// The file cannot be read, or is no trace.
    pub fn make(&self, seconds: f64, seed: u64) -> Result<Trace, Error> {
        let mut rng = StdRng::seed_from_u64(seed);
        let part = move |t: f64| t / seconds;
        let trace = |jobs, bursts| Trace {
            jobs,
            ends: ms(seconds),
            bursts,
        };
        Ok(match self {
            Self::Constant => trace(evenly(seconds, 10.0), 1),
            Self::Poisson => trace(random(&mut rng, seconds, 10.0, |_| 10.0), 1),
            Self::Step => {
                let rate = move |t| {
                    if (1.0 / 3.0..2.0 / 3.0).contains(&part(t)) {
                        50.0
                    } else {
                        5.0
                    }
                };
                trace(random(&mut rng, seconds, 50.0, rate), 2)
            }
            Self::Ramp => {
                let rate = move |t| 2.0 + 58.0 * (1.0 - (2.0 * part(t) - 1.0).abs());
                trace(random(&mut rng, seconds, 60.0, rate), 1)
            }
            Self::Bursts => {
                let starts = starts(&mut rng, seconds);
                let bursts = starts.len() as u64;
                let rate = move |t: f64| {
                    let burst = starts
                        .iter()
                        .any(|start| (*start..start + 30.0).contains(&t));
                    if burst { 40.0 } else { 1.0 }
                };
                trace(random(&mut rng, seconds, 40.0, rate), bursts)
            }
            Self::HeavyTail => {
                let mut jobs = random(&mut rng, seconds, 8.0, |_| 8.0);
                for job in &mut jobs {
                    // Pareto of shape 1.5 from a third of its mean on, cut at two minutes.
                    let time = SERVICE / 3.0 * (1.0 - rng.random::<f64>()).powf(-1.0 / 1.5);
                    job.service = ms(time.min(120.0));
                }
                trace(jobs, 1)
            }
            Self::Diurnal => {
                let rate = move |t| 21.0 - 19.0 * (2.0 * TAU * part(t)).cos();
                trace(random(&mut rng, seconds, 40.0, rate), 2)
            }
            Self::File(path) => read(Path::new(path))?,
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(kind) = Self::MADE.into_iter().find(|kind| kind.name() == text) {
            return Ok(kind);
        }
        if Path::new(text).extension().is_some_and(|end| end == "csv") {
            return Ok(Self::File(text.to_owned()));
        }
        let names: Vec<_> = Self::MADE
            .iter()
            .map(|kind| kind.name().to_owned())
            .collect();
        Err(format!(
            "write {} or the path of a .csv file",
            names.join(", ")
        ))
    }
}

fn evenly(seconds: f64, rate: f64) -> Vec<Job> {
    let gap = 1.0 / rate;
    (0..(seconds * rate) as u64)
        .map(|n| Job {
            at: ms(n as f64 * gap),
            service: ms(SERVICE),
        })
        .collect()
}

/// A Poisson stream whose rate changes: candidates at the highest rate, of which each stays with the
/// probability rate / highest (Lewis and Shedler's thinning). Service times are exponential.
fn random(rng: &mut StdRng, seconds: f64, highest: f64, rate: impl Fn(f64) -> f64) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut t = 0.0;
    loop {
        t += exponential(rng, 1.0 / highest);
        if t >= seconds {
            return jobs;
        }
        if rng.random::<f64>() * highest < rate(t) {
            jobs.push(Job {
                at: ms(t),
                service: ms(exponential(rng, SERVICE)),
            });
        }
    }
}

/// When bursts begin: about every 4 minutes, a minute apart at least.
fn starts(rng: &mut StdRng, seconds: f64) -> Vec<f64> {
    let mut starts = Vec::new();
    let mut t = 60.0;
    while t + 120.0 < seconds {
        starts.push(t);
        t += 60.0 + exponential(rng, 180.0);
    }
    starts
}

fn exponential(rng: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

fn ms(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}

fn read(path: &Path) -> Result<Trace, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut jobs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with(char::is_alphabetic) {
            continue;
        }
        let field = |index: usize| -> Option<u64> {
            let seconds: f64 = line.split(',').nth(index)?.trim().parse().ok()?;
            (0.0..1e9).contains(&seconds).then(|| ms(seconds))
        };
        let (Some(at), Some(service)) = (field(0), field(1)) else {
            return Err(Error::Line {
                path: path.to_owned(),
                number: number + 1,
                line: line.to_owned(),
            });
        };
        jobs.push(Job { at, service });
    }
    jobs.sort_by_key(|job| job.at);
    let last = jobs.last().map_or(0, |job| job.at);
    Ok(Trace {
        jobs,
        ends: last + 120_000,
        bursts: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_trace_again() {
        for kind in Kind::MADE {
            let trace = kind.make(300.0, 7).expect("a trace");
            assert_eq!(trace, kind.make(300.0, 7).expect("a trace"));
            assert!(trace.jobs.is_sorted_by_key(|job| job.at), "{kind:?}");
            assert_eq!(kind.name().parse(), Ok(kind));
        }
    }

    #[test]
    fn rates_and_times_are_as_they_say() {
        let trace = Kind::Poisson.make(2000.0, 1).expect("a trace");
        let rate = trace.jobs.len() as f64 / 2000.0;
        assert!((rate - 10.0).abs() < 0.3, "{rate}");
        let busy: u64 = trace.jobs.iter().map(|job| job.service).sum();
        let mean = busy as f64 / trace.jobs.len() as f64;
        assert!((mean - 900.0).abs() < 30.0, "{mean}");
    }

    #[test]
    fn a_file_is_read_and_a_wrong_line_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.csv");
        std::fs::write(&path, "at_seconds,service_seconds\n2,0.5\n1.5, 3\n").expect("written");
        let kind: Kind = path.to_str().expect("a path").parse().expect("a file");
        let trace = kind.make(0.0, 0).expect("a trace");
        assert_eq!(
            trace.jobs[0],
            Job {
                at: 1500,
                service: 3000
            }
        );
        std::fs::write(&path, "1,2\n3;4\n").expect("written");
        let error = kind.make(0.0, 0).expect_err("a wrong line").to_string();
        assert!(error.contains("line 2") && error.contains("3;4"), "{error}");
    }
}
