//! PersonaTopology: a namespace's phase and the pools it takes.

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::runtime::controller::Action;

use super::{Context, Error};
use crate::api::PersonaTopology;

/// One visit to a topology.
pub fn reconcile(
    _: Arc<PersonaTopology>,
    _: Arc<Context>,
) -> BoxFuture<'static, Result<Action, Error>> {
    Box::pin(async { Ok(Action::await_change()) })
}
