//! Persona -> pool, as a function of persona, phase and resource class.

use crate::api::{Persona, Phase, names};
use crate::placement::{self, Unplaced};

/// Where a persona belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// In a pool that the topology makes.
    Managed {
        /// Name of the pool.
        pool: String,
        /// Its resource class.
        class: String,
    },
    /// In a pool of its owner's (`spec.poolRef`), which leaves the topology alone.
    Own {
        /// Name of the pool.
        pool: String,
    },
    /// Nowhere: no class of workers can run its model.
    Unplaced(Unplaced),
}

impl Home {
    /// Name of the pool.
    pub fn pool(&self) -> Option<&str> {
        match self {
            Self::Managed { pool, .. } | Self::Own { pool } => Some(pool),
            Self::Unplaced(_) => None,
        }
    }
}

/// Where the persona belongs in a phase.
pub fn home(persona: &Persona, phase: Phase) -> Home {
    let class = match placement::class_of(persona) {
        Ok(class) => class,
        Err(unplaced) => return Home::Unplaced(unplaced),
    };
    match &persona.spec.pool_ref {
        Some(own) => Home::Own {
            pool: own.name.clone(),
        },
        None => Home::Managed {
            pool: pool_name(persona, phase, &class),
            class,
        },
    }
}

/// Phases that share pools: between them nobody moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseGroup {
    /// A pool for each persona and class.
    PerPersona,
    /// A pool for each class.
    Generic,
    /// A pool for each type and class.
    Typed,
}

impl From<Phase> for PhaseGroup {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::PerPersona => Self::PerPersona,
            Phase::Generic => Self::Generic,
            Phase::Hybrid | Phase::Specialized => Self::Typed,
        }
    }
}

/// Name of the managed pool that serves the persona: a readable part and a hash of everything that
/// tells pools apart (kubernetes.md, "Names"). A persona that was deleted and made again gets
/// another pool, because its uid is part of the hash.
pub fn pool_name(persona: &Persona, phase: Phase, class: &str) -> String {
    let name = persona.metadata.name.as_deref().unwrap_or_default();
    let uid = persona.metadata.uid.as_deref().unwrap_or_default();
    let type_ = persona.spec.type_.as_str();
    match PhaseGroup::from(phase) {
        PhaseGroup::PerPersona => names::hashed(name, &["PerPersona", uid, class]),
        PhaseGroup::Generic => names::hashed(&format!("generic-{class}"), &["Generic", class]),
        PhaseGroup::Typed => names::hashed(&format!("{type_}-{class}"), &["Typed", type_, class]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn persona(name: &str, uid: &str, type_: &str) -> Persona {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "persona.dev/v1alpha1",
            "kind": "Persona",
            "metadata": {"name": name, "uid": uid},
            "spec": {"type": type_, "model": {"provider": "OpenAI", "name": "m"}},
        }))
        .expect("a persona")
    }

    #[test]
    fn a_persona_alone_shares_with_nobody_and_all_share_in_generic() {
        let (one, two) = (persona("a", "1", "T"), persona("b", "2", "T"));
        let name = |p, phase| pool_name(p, phase, "api");
        assert_ne!(name(&one, Phase::PerPersona), name(&two, Phase::PerPersona));
        assert_eq!(name(&one, Phase::Generic), name(&two, Phase::Generic));
        assert_eq!(name(&one, Phase::Hybrid), name(&two, Phase::Specialized));
    }

    #[test]
    fn a_persona_made_again_gets_a_pool_of_its_own() {
        let (old, new) = (persona("a", "1", "T"), persona("a", "2", "T"));
        assert_ne!(
            pool_name(&old, Phase::PerPersona, "api"),
            pool_name(&new, Phase::PerPersona, "api")
        );
    }

    #[test]
    fn classes_split_every_phase() {
        let one = persona("a", "1", "T");
        for phase in Phase::ALL {
            assert_ne!(
                pool_name(&one, phase, "api"),
                pool_name(&one, phase, "gpu-24Gi")
            );
        }
    }

    proptest! {
        #[test]
        fn types_that_look_alike_do_not_collide(a in ".{1,80}", b in ".{1,80}") {
            prop_assume!(a != b);
            let (one, two) = (persona("p", "1", &a), persona("p", "1", &b));
            let names = [&one, &two].map(|p| pool_name(p, Phase::Hybrid, "api"));
            prop_assert_ne!(&names[0], &names[1]);
            for name in names {
                prop_assert!(name.len() <= 63);
                prop_assert!(name.starts_with(|c: char| c.is_ascii_lowercase()));
                prop_assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
            }
        }
    }
}
