//! Which kinds of nodes tests may use: `TESTBED_NODES=process,fake` leaves the real node out.

use std::env;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A list of `real`, `process` and `fake`; unset means all.
pub const VARIABLE: &str = "TESTBED_NODES";

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
    use super::names_real;

    #[test]
    fn real_node_is_wanted_unless_a_list_leaves_it_out() {
        assert!(names_real(None));
        assert!(names_real(Some("fake, real")));
        assert!(!names_real(Some("process,fake")));
    }
}
