//! Takes personas that are gone out of the queue.

use super::apply::exists;
use crate::controller::contact::Removal;
use crate::controller::{Context, Error};

/// What clients of the requests that waited are told.
pub const REASON: &str = "the persona was deleted";

/// A persona was deleted: its waiting requests end.
///
/// # Errors
/// The queue gave no answer; to be called again.
pub async fn removed(cx: &Context, removal: &Removal) -> Result<(), Error> {
    let Removal {
        namespace,
        persona,
        uid,
    } = removal;
    cx.queue
        .namespace(namespace)?
        .remove(persona, uid, REASON)
        .await?;
    let told = cx.routes.of(namespace, persona);
    if told.is_some_and(|told| told.uid == *uid) {
        cx.routes.forget(namespace, persona);
    }
    Ok(())
}

/// Takes out of the queue what no persona stands for any more: deleted while nobody watched. Absence
/// from a cache proves nothing, so that the API server is asked for each.
///
/// # Errors
/// The queue or the API server gave no answer.
pub async fn sweep(cx: &Context, namespace: &str) -> Result<(), Error> {
    let queue = cx.queue.namespace(namespace)?;
    for name in queue.personas().await? {
        let cached = cx.stores.persona(namespace, &name);
        let cached = cached.and_then(|persona| persona.metadata.uid.clone());
        let told = cx.routes.of(namespace, &name).map(|told| told.uid);
        if cached.is_some() && cached == told {
            continue;
        }
        let Some(registered) = queue.registration(&name).await? else {
            continue;
        };
        if cached.as_ref() == Some(&registered.uid)
            || exists(cx, namespace, &name, &registered.uid).await?
        {
            continue;
        }
        tracing::info!(namespace, persona = name, "deleted while nobody watched");
        let removal = Removal {
            namespace: namespace.to_owned(),
            persona: name,
            uid: registered.uid,
        };
        removed(cx, &removal).await?;
    }
    Ok(())
}
