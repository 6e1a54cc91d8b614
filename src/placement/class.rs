//! Resource classes: from the memory that a model needs to the kind of worker that has it. Pure.

use std::fmt;
use std::str::FromStr;

use crate::api::{Device, Gpu, Placement};

use super::requirements::{RUNTIME_MIB, Requirements, whole};
use super::{API, Unplaced};

/// A card has less than its nominal size: 24 GB ones report 23,034 to 24,564 MiB.
pub const REAL_SHARE: f64 = 0.92;
/// GPUs that one model may be spread over: tensor parallel wants a number that divides its heads.
const SPREAD: [u32; 4] = [1, 2, 4, 8];
/// Largest model of a CPU worker, in billions of weights: above, an answer takes too long.
const CPU_BILLIONS: f64 = 4.0;
/// What a CPU worker may need whatever it runs, in MiB.
const CPU_MIB: u64 = 6 * 1024;
/// What it may need at most, in MiB: a small model with a long context needs more than many a node has.
const CPU_MOST_MIB: u64 = 16 * 1024;

/// Kind of worker; as text `api`, `cpu`, `gpu-24Gi` or, on several GPUs, `gpu-2x80Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// It runs no model: it calls an API.
    Api,
    /// It runs its model on CPUs.
    Cpu,
    /// It runs its model on GPUs.
    Gpu {
        /// GPUs of a pod.
        count: u32,
        /// Nominal memory of each in GiB, a rung of the topology's ladder.
        gib: u32,
    },
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str(API),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu { count: 1, gib } => write!(f, "gpu-{gib}Gi"),
            Self::Gpu { count, gib } => write!(f, "gpu-{count}x{gib}Gi"),
        }
    }
}

impl FromStr for Class {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let gpu = |text: &str| {
            let size = text.strip_prefix("gpu-")?.strip_suffix("Gi")?;
            let (count, gib) = size.split_once('x').unwrap_or(("1", size));
            Some(Self::Gpu {
                count: count.parse().ok()?,
                gib: gib.parse().ok()?,
            })
        };
        match text {
            API => Ok(Self::Api),
            "cpu" => Ok(Self::Cpu),
            _ => gpu(text).ok_or(()),
        }
    }
}

impl Class {
    /// Which nodes workers of the class need; beside number and size, their GPUs are as in `gpu`.
    pub fn placement(self, gpu: Option<Gpu>) -> Placement {
        let Self::Gpu { count, gib } = self else {
            return Placement::default();
        };
        Placement {
            device: Device::Gpu,
            gpu: Some(Gpu {
                count,
                memory: Some(format!("{gib}Gi")),
                ..gpu.unwrap_or_default()
            }),
        }
    }
}

/// Whether a CPU worker serves the model: up to 4B weights in up to 16 GiB, or up to 6 GiB.
pub fn fits_cpu(needs: &Requirements) -> bool {
    let small = needs.billions.is_some_and(|b| b <= CPU_BILLIONS);
    needs.memory_mib <= CPU_MIB || (small && !needs.stated && needs.memory_mib <= CPU_MOST_MIB)
}

/// The class of GPUs that serves the model: as few GPUs as possible, and of these the smallest rung of
/// the ladder (nominal GiB, in any order).
///
/// # Errors
/// [`Unplaced`] where eight of the largest are too small.
pub fn on_gpus(needs: &Requirements, ladder: &[u32]) -> Result<Class, Unplaced> {
    let mut rungs = ladder.to_vec();
    rungs.sort_unstable();
    let fits = |count: u32, gib: u32| share(needs.memory_mib, count) <= least_mib(gib);
    let found = SPREAD.into_iter().find_map(|count| {
        let gib = rungs.iter().copied().find(|gib| fits(count, *gib))?;
        Some(Class::Gpu { count, gib })
    });
    found.ok_or_else(|| Unplaced {
        reason: "TooLarge",
        message: format!(
            "the model needs {} MiB, more than 8 GPUs of {} GiB have: add a larger size to spec.gpuSizes \
             of the PersonaTopology, choose a smaller quantization or requirements.contextTokens, or set \
             spec.model.endpoint to a server of its own",
            needs.memory_mib,
            rungs.last().copied().unwrap_or_default(),
        ),
    })
}

/// MiB of each of `count` GPUs: weights and cache are spread, every GPU has a runtime.
fn share(memory_mib: u64, count: u32) -> u64 {
    let spread = memory_mib.saturating_sub(RUNTIME_MIB);
    spread.div_ceil(u64::from(count.max(1))) + RUNTIME_MIB
}

/// MiB that a card of this nominal size has at least.
pub fn least_mib(gib: u32) -> u64 {
    whole((f64::from(gib) * 1024.0 * REAL_SHARE).floor())
}
