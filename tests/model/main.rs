//! Queue, routes, drain and moves between pools as a model that is explored whole: every order of what
//! clients, people, controllers and workers may do, with a crash in any place. The controller's plans
//! are its own; the queue's verbs are mirrored, each with the name of its file.
//!
//! Each safeguard is also left out once: then the model must find what it guards against, else it would
//! prove nothing.

mod acts;
mod bug;
mod checks;
mod plans;
mod queue;
mod retiring;
mod state;
mod system;

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use bug::Bug;
use checks::{MOVE, RETURN, explore};
use state::Left;
use system::{COMES_TO_REST, NOT_LOST, NOT_TWICE, SERVED, System};

/// Nobody moves.
const STAY: Left = Left { edits: 0, ..MOVE };

#[test]
fn a_crash_anywhere_in_a_move_loses_doubles_and_reorders_nothing() {
    explore(Left { crashes: 1, ..MOVE });
}

#[test]
fn a_worker_that_is_replaced_while_another_crashes_loses_nothing() {
    explore(Left {
        crashes: 1,
        rollouts: 1,
        ..STAY
    });
}

#[test]
fn a_move_that_turns_back_anywhere_comes_to_rest() {
    explore(RETURN);
}

#[test]
fn a_controller_that_is_replaced_anywhere_in_a_move_leaves_nothing_half_done() {
    explore(Left {
        failovers: 1,
        ..MOVE
    });
}

#[test]
fn a_controller_that_is_replaced_anywhere_in_a_move_that_turns_back_takes_no_pool_from_under_anybody()
 {
    explore(Left {
        tasks: 0,
        failovers: 1,
        ..RETURN
    });
}

#[test]
fn who_switches_before_the_pool_is_ready_is_served_by_nobody() {
    finds(MOVE, Bug::SwitchBeforeReady, SERVED);
}

#[test]
fn a_drain_between_the_two_halves_of_a_take_loses_the_task() {
    let replaced = Left {
        rollouts: 1,
        ..STAY
    };
    finds(replaced, Bug::DrainNotAtomicWithTake, NOT_LOST);
}

#[test]
fn without_a_fence_a_worker_that_hung_ends_another_ones_attempt() {
    let hangs = Left { crashes: 1, ..MOVE };
    finds(hangs, Bug::FinishWithoutFence, NOT_TWICE);
}

#[test]
fn a_route_of_an_old_epoch_leaves_its_persona_where_it_does_not_belong() {
    let replaced = Left {
        tasks: 0,
        failovers: 1,
        ..RETURN
    };
    finds(replaced, Bug::OldEpochAccepted, COMES_TO_REST);
}

#[test]
fn a_late_route_enters_a_pool_that_was_closed_and_opened_before_it_is_deleted() {
    finds(RETURN, Bug::CloseForgetsTheLayout, SERVED);
}

#[test]
fn who_deletes_the_pool_that_is_there_after_it_was_closed_takes_it_from_under_who_came_back() {
    let replaced = Left {
        tasks: 0,
        failovers: 1,
        ..RETURN
    };
    finds(replaced, Bug::DeletesWhatItFinds, SERVED);
}

#[test]
fn who_was_replaced_takes_a_pool_that_was_opened_again_without_a_mark_from_under_who_came_back() {
    let replaced = Left {
        tasks: 0,
        failovers: 1,
        ..RETURN
    };
    finds(replaced, Bug::OpensWithoutAMark, SERVED);
}

#[test]
fn a_controller_that_believes_its_memory_never_moves_who_is_elsewhere() {
    let replaced = Left {
        tasks: 0,
        failovers: 1,
        ..RETURN
    };
    finds(replaced, Bug::BelievesItsMemory, COMES_TO_REST);
}

/// Leaves a part out, and insists that the model finds this property broken.
fn finds(left: Left, bug: Bug, property: &'static str) {
    let checker = System::new(left, Some(bug)).checker().threads(2);
    let found = HasDiscoveries::AllOf(BTreeSet::from([property]));
    let checker = checker.finish_when(found).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    let path = checker.assert_any_discovery(property);
    println!("{bug:?}: {:?}", path.into_actions());
}
