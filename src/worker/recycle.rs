//! Starting afresh, against leaks: when, and how.
//!
//! A worker asks to be replaced and serves on; the controller makes another pod and drains this one when
//! that is Ready. Beside a model server it does not: a second copy of the model would need another device.
//! There the process replaces itself (`execve`): same pid, new memory, and no restart of the container,
//! which Kubernetes would delay more each time.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::Context;
pub use crate::queue::heartbeat::RecycleReason as Reason;

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest pause between two questions for a turn.
const TURN: Duration = Duration::from_millis(500);
/// Environment variable that carries [`Recycles`] over.
const CARRIED: &str = "PERSONA_RECYCLES";

/// When a worker starts afresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// After that many tasks; 0 = never.
    pub after_tasks: u64,
    /// After that time; 0 = never.
    pub after_age: Duration,
    /// At that much resident memory, in bytes; 0 = never.
    pub at_memory: u64,
}

impl Limits {
    /// Up to a tenth earlier (`part` in 0..1): workers that were started together do not go together.
    fn spread(self, part: f64) -> Self {
        let early = 1.0 - part / 10.0;
        Self {
            after_tasks: (self.after_tasks as f64 * early).ceil() as u64,
            after_age: self.after_age.mul_f64(early),
            ..self
        }
    }

    /// Whether it is time. A worker that has run nothing gains nothing from starting afresh, however
    /// large it is: without that a limit that is too low would keep it starting for ever.
    fn reached(&self, tasks: u64, age: Duration, memory: u64) -> Option<Reason> {
        if self.after_tasks > 0 && tasks >= self.after_tasks {
            Some(Reason::Tasks)
        } else if !self.after_age.is_zero() && age >= self.after_age {
            Some(Reason::Age)
        } else if self.at_memory > 0 && tasks > 0 && memory >= self.at_memory {
            Some(Reason::Memory)
        } else {
            None
        }
    }
}

/// Waits until it is time to start afresh.
pub async fn due(context: &Context, limits: Limits) -> Reason {
    let limits = limits.spread(rand::random());
    let began = Instant::now();
    let mut tasks = context.roster.watch();
    let (mut looked, mut memory) = (began, resident_bytes());
    loop {
        let age = began.elapsed();
        if looked.elapsed() >= LOOK_EVERY {
            (looked, memory) = (Instant::now(), resident_bytes());
        }
        if let Some(reason) = limits.reached(tasks.borrow_and_update().ended, age, memory) {
            return reason;
        }
        let young = limits.after_age.saturating_sub(age);
        let pause = if limits.after_age.is_zero() {
            LOOK_EVERY
        } else {
            young.min(LOOK_EVERY)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The sender is in the roster, which lives as long as the context.
            _ = tasks.changed() => {}
        }
    }
}

/// Waits for its turn: of a pool's workers one at a time starts afresh in its place, and the others serve meanwhile.
/// `patience` is how long the others may have to wait, if this one never comes back.
pub async fn turn(context: &Context, patience: Duration) {
    loop {
        let queue = context.link.queue();
        let result = queue
            .may_recycle(&context.pool, &context.worker, patience)
            .await;
        context.link.note(&result);
        match result {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "cannot ask for a turn to start afresh yet"),
        }
        tokio::time::sleep(TURN.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}

/// Resident memory of this process; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    resident_in(&status).unwrap_or_default()
}

/// `VmRSS:     1234 kB`.
fn resident_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Replaces this process by a new one of the same program, arguments and environment. Sockets close
/// themselves. Answers only when it fails.
pub fn start_afresh(recycles: Recycles) -> std::io::Error {
    let mut args = std::env::args_os();
    // The link, not what it points to: it works also when the file was replaced.
    let mut program = Command::new("/proc/self/exe");
    if let Some(name) = args.next() {
        program.arg0(name);
    }
    program.args(args).env(CARRIED, recycles.to_string()).exec()
}

/// How often a container has started afresh, a reason each: the counter goes on in the new process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recycles([u64; Reason::ALL.len()]);

impl Recycles {
    /// Number of a reason.
    pub const fn of(self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// One more.
    pub const fn and(mut self, reason: Reason) -> Self {
        self.0[reason as usize] += 1;
        self
    }
}

impl fmt::Display for Recycles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tasks, age, memory] = self.0;
        write!(f, "{tasks},{age},{memory}")
    }
}

impl FromStr for Recycles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Vec<u64> = text
            .split(',')
            .filter_map(|number| number.parse().ok())
            .collect();
        match numbers.try_into() {
            Ok(numbers) => Ok(Self(numbers)),
            Err(_) => Err(format!(
                "`{text}` is not set by a worker: leave {CARRIED} out"
            )),
        }
    }
}

/// An amount of memory, written like `512Mi` or `2Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(u64);

impl MemorySize {
    /// The amount in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = [("Mi", 1 << 20), ("Gi", 1 << 30)]
            .iter()
            .find_map(|(unit, bytes)| {
                let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
                number.checked_mul(*bytes)
            });
        parsed.map(Self).ok_or_else(|| {
            format!("`{text}` is not a size: write a number with Mi or Gi, like 512Mi")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        after_tasks: 100,
        after_age: Duration::from_secs(60),
        at_memory: 1000,
    };

    #[test]
    fn each_limit_is_a_reason_and_zero_is_none() {
        let secs = Duration::from_secs;
        assert_eq!(LIMITS.reached(99, secs(59), 999), None);
        assert_eq!(LIMITS.reached(100, secs(0), 0), Some(Reason::Tasks));
        assert_eq!(LIMITS.reached(0, secs(60), 0), Some(Reason::Age));
        assert_eq!(LIMITS.reached(1, secs(0), 1000), Some(Reason::Memory));
        let never = Limits {
            after_tasks: 0,
            after_age: Duration::ZERO,
            at_memory: 0,
        };
        assert_eq!(never.reached(u64::MAX, Duration::MAX, u64::MAX), None);
    }

    #[test]
    fn a_worker_that_ran_nothing_is_not_too_large() {
        assert_eq!(LIMITS.reached(0, Duration::ZERO, u64::MAX), None);
    }

    #[test]
    fn workers_do_not_go_together() {
        assert_eq!(LIMITS.spread(0.0), LIMITS);
        let early = LIMITS.spread(1.0);
        assert_eq!((early.after_tasks, early.after_age.as_secs()), (90, 54));
        let few = Limits {
            after_tasks: 3,
            ..LIMITS
        };
        assert_eq!(few.spread(0.9).after_tasks, 3);
    }

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tworker\nVmPeak:\t  9 kB\nVmRSS:\t    1234 kB\n";
        assert_eq!(resident_in(status), Some(1234 * 1024));
        assert_eq!(resident_in("Name:\tx\n"), None);
        assert!(resident_bytes() > 1 << 20);
    }

    #[test]
    fn counts_travel_through_the_environment() {
        let counts = Recycles::default()
            .and(Reason::Age)
            .and(Reason::Age)
            .and(Reason::Memory);
        assert_eq!(counts.to_string(), "0,2,1");
        assert_eq!(counts.to_string().parse(), Ok(counts));
        assert_eq!(counts.of(Reason::Age), 2);
        assert!("1,2".parse::<Recycles>().is_err());
        assert!("a,b,c".parse::<Recycles>().is_err());
    }

    #[test]
    fn sizes_are_written_as_in_manifests() {
        assert_eq!("512Mi".parse(), Ok(MemorySize(512 << 20)));
        assert_eq!("2Gi".parse(), Ok(MemorySize(2 << 30)));
        for text in ["", "512", "512M", "-1Mi", "Mi", "99999999999999Gi"] {
            assert!(text.parse::<MemorySize>().is_err(), "{text}");
        }
    }
}
