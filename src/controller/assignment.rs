//! Which pool a persona belongs to, as the topology has decided. Pure.

use crate::api::{Persona, PersonaTopology};
use crate::placement::Offer;
use crate::{placement, topology};

/// Name of the pool that the persona shall run in; none while the topology has not decided, or where
/// no class of workers can run its model.
pub fn assigned_pool(persona: &Persona, topology: Option<&PersonaTopology>) -> Option<String> {
    if let Some(own) = &persona.spec.pool_ref {
        return Some(own.name.clone());
    }
    let topology = topology?;
    let phase = topology.status.as_ref()?.phase?;
    let class = placement::class_of(persona, &Offer::of(&topology.spec)).ok()?;
    Some(topology::pool_name(persona, phase, class))
}

/// Whether the persona shall run in the pool, or still does.
pub fn belongs_to(persona: &Persona, pool: &str, topology: Option<&PersonaTopology>) -> bool {
    let routed = persona.status.as_ref().and_then(|s| s.pool.as_deref());
    routed == Some(pool) || assigned_pool(persona, topology).as_deref() == Some(pool)
}
