//! What is explored, in the tests and at length by `cargo soak model`.

use stateright::{Checker, Model};

use crate::state::Left;
use crate::system::System;

/// One move to other pools.
pub const MOVE: Left = Left {
    tasks: 3,
    crashes: 0,
    rollouts: 0,
    edits: 1,
    failovers: 0,
};

/// There, and back again at any moment.
pub const RETURN: Left = Left { edits: 2, ..MOVE };

/// Explores all there is and insists on every property; answers the number of states.
pub fn explore(left: Left) -> usize {
    let checker = System::new(left, None).checker().threads(2);
    let checker = checker.spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    println!("{states} states hold of {left:?}");
    states
}
