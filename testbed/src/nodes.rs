//! The kinds of nodes, and which of them tests may use: `TESTBED_NODES=process,fake` leaves the real
//! node out.

use std::env;
use std::fmt;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::real_node;

/// A list of `real`, `process` and `fake`; unset means all.
pub const VARIABLE: &str = "TESTBED_NODES";

/// What a pod becomes on a node.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Containers: isolation, limits, Services and DNS are real. Takes root.
    Real,
    /// Processes of this machine, started in milliseconds.
    Process,
    /// Nothing: KWOK says that they run. For scheduling and for GPUs this machine does not have.
    Fake,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Real => "real",
            Self::Process => "process",
            Self::Fake => "fake",
        })
    }
}

/// The node for someone who does not say which, and why it is this one.
pub fn default_kind() -> (NodeKind, String) {
    choose(real_node::possible())
}

fn choose(real: Result<(), String>) -> (NodeKind, String) {
    match real {
        Ok(()) => (NodeKind::Real, "containers, because this is root".into()),
        Err(reason) => (
            NodeKind::Process,
            format!(
                "pods are processes without isolation, because a real node is not possible: {reason}"
            ),
        ),
    }
}

static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

/// Whether tests that need the real node shall run. If not, the test should return at once: it is
/// counted, and the test binary's last line says how many were left out.
///
/// ```no_run
/// # fn test() {
/// if !testbed::real_node_wanted() {
///     return;
/// }
/// # }
/// ```
pub fn real_node_wanted() -> bool {
    static REPORT: Once = Once::new();
    if names_real(env::var(VARIABLE).ok().as_deref()) {
        return true;
    }
    LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    REPORT.call_once(|| {
        // SAFETY: `report` takes nothing, does not unwind, and uses no thread-local state.
        if unsafe { libc::atexit(report) } != 0 {
            crate::progress::line(format_args!("tests that need a real node are left out"));
        }
    });
    false
}

fn names_real(kinds: Option<&str>) -> bool {
    kinds.is_none_or(|kinds| kinds.split(',').any(|kind| kind.trim() == "real"))
}

extern "C" fn report() {
    let count = LEFT_OUT.load(Ordering::Relaxed);
    crate::progress::line(format_args!(
        "{count} tests left out: {VARIABLE} does not name the real node"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_node_is_the_default_only_where_a_real_one_is_not_possible_and_it_says_so() {
        assert_eq!(choose(Ok(())).0, NodeKind::Real);
        let (kind, why) = choose(Err("it takes root".to_owned()));
        assert_eq!(kind, NodeKind::Process);
        assert!(why.contains("not possible: it takes root"), "{why}");
    }

    #[test]
    fn real_node_is_wanted_unless_a_list_leaves_it_out() {
        assert!(names_real(None));
        assert!(names_real(Some("fake, real")));
        assert!(!names_real(Some("process,fake")));
    }
}
