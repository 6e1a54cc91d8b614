//! Persona -> pool, as a function of persona, phase and resource class.

use crate::api::{Persona, Phase, names};
use crate::placement::{self, Class, Offer, Server, Unplaced};

/// Where a persona belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// In a pool that the topology makes.
    Managed {
        /// Name of the pool.
        pool: String,
        /// Its resource class.
        class: Class,
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

/// Where the persona belongs in a phase. On a pool of its own the owner has said where it runs: there
/// the size of a local model need not be known.
pub fn home(persona: &Persona, phase: Phase, offer: &Offer) -> Home {
    let own = persona.spec.pool_ref.as_ref().map(|own| Home::Own {
        pool: own.name.clone(),
    });
    match (placement::class_of(persona, offer), own) {
        (Ok(_), Some(own)) => own,
        (Err(_), Some(own)) if Server::of(&persona.spec.model).is_some() => own,
        (Ok(class), None) => Home::Managed {
            pool: pool_name(persona, phase, class),
            class,
        },
        (Err(unplaced), _) => Home::Unplaced(unplaced),
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
pub fn pool_name(persona: &Persona, phase: Phase, class: Class) -> String {
    let class = class.to_string();
    let name = persona.metadata.name.as_deref().unwrap_or_default();
    let uid = persona.metadata.uid.as_deref().unwrap_or_default();
    let type_ = persona.spec.type_.as_str();
    let (readable, mut parts) = match PhaseGroup::from(phase) {
        PhaseGroup::PerPersona => (name.to_owned(), vec!["PerPersona", uid, &class]),
        PhaseGroup::Generic => (format!("generic-{class}"), vec!["Generic", &class]),
        PhaseGroup::Typed => (format!("{type_}-{class}"), vec!["Typed", type_, &class]),
    };
    // A server that holds one model, or another image, is another pool.
    let server = Server::of(&persona.spec.model).map(|server| server.key());
    parts.extend(server.as_deref());
    names::hashed(&readable, &parts)
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
        let name = |p, phase| pool_name(p, phase, Class::Api);
        assert_ne!(name(&one, Phase::PerPersona), name(&two, Phase::PerPersona));
        assert_eq!(name(&one, Phase::Generic), name(&two, Phase::Generic));
        assert_eq!(name(&one, Phase::Hybrid), name(&two, Phase::Specialized));
    }

    #[test]
    fn a_persona_made_again_gets_a_pool_of_its_own() {
        let (old, new) = (persona("a", "1", "T"), persona("a", "2", "T"));
        assert_ne!(
            pool_name(&old, Phase::PerPersona, Class::Api),
            pool_name(&new, Phase::PerPersona, Class::Api)
        );
    }

    #[test]
    fn classes_split_every_phase() {
        let one = persona("a", "1", "T");
        for phase in Phase::ALL {
            assert_ne!(
                pool_name(&one, phase, Class::Api),
                pool_name(&one, phase, Class::Gpu { count: 1, gib: 24 })
            );
        }
    }

    #[test]
    fn a_server_of_one_model_splits_every_phase() {
        let with = |name: &str, kind: &str| {
            let mut one = persona("a", "1", "T");
            one.spec.model = serde_json::from_value(serde_json::json!({
                "provider": "OpenAICompatible", "name": name, "server": {"kind": kind},
            }))
            .expect("a model");
            one
        };
        for phase in Phase::ALL {
            let name = |p| pool_name(&p, phase, Class::Cpu);
            assert_ne!(name(with("a", "LlamaCpp")), name(with("b", "LlamaCpp")));
            assert_eq!(name(with("a", "Ollama")), name(with("b", "Ollama")));
        }
    }

    proptest! {
        #[test]
        fn types_that_look_alike_do_not_collide(a in ".{1,80}", b in ".{1,80}") {
            prop_assume!(a != b);
            let (one, two) = (persona("p", "1", &a), persona("p", "1", &b));
            let names = [&one, &two].map(|p| pool_name(p, Phase::Hybrid, Class::Api));
            prop_assert_ne!(&names[0], &names[1]);
            for name in names {
                prop_assert!(name.len() <= 63);
                prop_assert!(name.starts_with(|c: char| c.is_ascii_lowercase()));
                prop_assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
            }
        }
    }
}
