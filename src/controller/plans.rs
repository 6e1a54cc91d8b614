//! The decisions of the controller by themselves: for a tool that says what it would do, and for tests
//! that explore it. All pure.

/// Where a persona's requests run.
pub mod persona {
    pub use crate::controller::persona::plan::{
        Intent, Layout, Observed, Plan, PoolView, Wait, home_of, plan,
    };
    pub use crate::controller::routes::Published;
}

/// The pods of a pool.
pub mod pool {
    pub use crate::controller::pool::server::{Serving, sidecar};
}

/// Phase and pools of a namespace.
pub mod topology {
    pub use crate::controller::topology::plan::{Observed, Plan, plan};
}
