//! Number of personas -> phase, with hysteresis.

use jiff::Timestamp;

use crate::api::{PersonaTopologySpec, Phase, Thresholds};

/// What was decided before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The phase.
    pub phase: Phase,
    /// That the number of personas is low enough to go back.
    pub below: Option<Below>,
}

/// A number of personas that is low enough to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// Since when.
    pub since: Timestamp,
    /// The highest phase that any number since then has asked for: a dip does not go further back than
    /// the number has stayed.
    pub phase: Phase,
}

/// The phase, and what has to be remembered and waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseDecision {
    /// The phase that is wanted now.
    pub phase: Phase,
    /// To be handed back as [`Previous::below`].
    pub below: Option<Below>,
    /// When to decide again, though nothing else changes.
    pub again_at: Option<Timestamp>,
    /// The decision in words, with the numbers it came from.
    pub reason: String,
}

/// Decides the phase (topology.md, "Phase"). Up at once, so that a burst is not served by
/// yesterday's layout; down only when the number stays `hysteresis` below a threshold for
/// `stabilization`. A pinned mode wins.
pub fn phase(
    now: Timestamp,
    personas: u32,
    adapters: u32,
    previous: Option<Previous>,
    spec: &PersonaTopologySpec,
) -> PhaseDecision {
    let stay = |phase, reason| PhaseDecision {
        phase,
        below: None,
        again_at: None,
        reason,
    };
    if let Some(pinned) = spec.mode.pinned() {
        return stay(pinned, format!("spec.mode pins {}", pinned.as_str()));
    }
    let upper = by_number(personas, adapters, &spec.thresholds, 0);
    let numbers = describe(personas, adapters, &spec.thresholds);
    let Some(previous) = previous else {
        return stay(upper, numbers);
    };
    if upper > previous.phase {
        return stay(upper, numbers);
    }
    let lower = by_number(personas, adapters, &spec.thresholds, spec.hysteresis);
    if lower >= previous.phase {
        return stay(previous.phase, numbers);
    }
    let due = |since: Timestamp| {
        let due = since.checked_add(spec.stabilization.as_duration());
        due.unwrap_or(Timestamp::MAX)
    };
    let wait = |phase, below: Below, reason| PhaseDecision {
        phase,
        again_at: Some(due(below.since)),
        reason: format!(
            "{reason}: back to {} if it stays so until {}",
            below.phase.as_str(),
            due(below.since)
        ),
        below: Some(below),
    };
    let known = previous.below.filter(|below| below.phase < previous.phase);
    let below = Below {
        since: known.map_or(now, |below| below.since),
        phase: known.map_or(lower, |below| below.phase.max(lower)),
    };
    if now < due(below.since) {
        return wait(previous.phase, below, numbers);
    }
    let reason = format!("{numbers}, for {}", spec.stabilization);
    if below.phase > lower {
        let further = Below {
            since: now,
            phase: lower,
        };
        return wait(below.phase, further, reason);
    }
    stay(lower, reason)
}

/// The phase by thresholds that are `slack` lower.
fn by_number(personas: u32, adapters: u32, thresholds: &Thresholds, slack: u32) -> Phase {
    let above = |threshold: u32| personas > threshold.saturating_sub(slack);
    if above(thresholds.specialized) && adapters > 0 {
        Phase::Specialized
    } else if above(thresholds.hybrid) {
        Phase::Hybrid
    } else if above(thresholds.generic) {
        Phase::Generic
    } else {
        Phase::PerPersona
    }
}

fn describe(personas: u32, adapters: u32, thresholds: &Thresholds) -> String {
    let Thresholds {
        generic,
        hybrid,
        specialized,
    } = thresholds;
    format!(
        "{personas} personas, {adapters} with an adapter; thresholds {generic}, {hybrid}, {specialized}"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::Mode;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn auto() -> PersonaTopologySpec {
        PersonaTopologySpec::default()
    }

    fn after(decision: &PhaseDecision) -> Option<Previous> {
        Some(Previous {
            phase: decision.phase,
            below: decision.below,
        })
    }

    fn since(second: i64, phase: Phase) -> Option<Below> {
        Some(Below {
            since: at(second),
            phase,
        })
    }

    #[test]
    fn phases_begin_above_their_thresholds() {
        for (personas, adapters, expected) in [
            (0, 0, Phase::PerPersona),
            (10, 0, Phase::PerPersona),
            (11, 0, Phase::Generic),
            (50, 0, Phase::Generic),
            (51, 0, Phase::Hybrid),
            (101, 0, Phase::Hybrid),
            (101, 1, Phase::Specialized),
        ] {
            let decision = phase(at(0), personas, adapters, None, &auto());
            assert_eq!(
                decision.phase, expected,
                "{personas} personas, {adapters} adapters"
            );
        }
    }

    #[test]
    fn up_at_once_and_down_only_when_it_stays_low() {
        let up = phase(
            at(0),
            11,
            0,
            Some(Previous {
                phase: Phase::PerPersona,
                below: None,
            }),
            &auto(),
        );
        assert_eq!(up.phase, Phase::Generic);
        let near = phase(at(1), 9, 0, after(&up), &auto());
        assert_eq!(
            (near.phase, near.below),
            (Phase::Generic, None),
            "within the hysteresis"
        );
        let low = phase(at(2), 8, 0, after(&near), &auto());
        assert_eq!(
            (low.phase, low.below),
            (Phase::Generic, since(2, Phase::PerPersona))
        );
        assert_eq!(low.again_at, Some(at(32)));
        let still = phase(at(31), 8, 0, after(&low), &auto());
        assert_eq!(still.phase, Phase::Generic);
        let down = phase(at(32), 8, 0, after(&still), &auto());
        assert_eq!((down.phase, down.below), (Phase::PerPersona, None));
    }

    #[test]
    fn a_number_that_rises_again_starts_the_wait_anew() {
        let start = Some(Previous {
            phase: Phase::Generic,
            below: since(0, Phase::PerPersona),
        });
        let risen = phase(at(29), 9, 0, start, &auto());
        assert_eq!(risen.below, None);
        let low = phase(at(40), 8, 0, after(&risen), &auto());
        assert_eq!(
            (low.phase, low.below),
            (Phase::Generic, since(40, Phase::PerPersona))
        );
    }

    /// Decides for one number of personas after the other, each at its second.
    fn run(from: Phase, adapters: u32, steps: &[(i64, u32)]) -> Vec<Phase> {
        let mut previous = Some(Previous {
            phase: from,
            below: None,
        });
        let mut phases = Vec::new();
        for (second, personas) in steps {
            let decision = phase(at(*second), *personas, adapters, previous, &auto());
            previous = after(&decision);
            phases.push(decision.phase);
        }
        phases
    }

    #[test]
    fn a_dip_below_two_thresholds_goes_no_further_back_than_the_number_has_stayed() {
        use Phase::{Generic, Hybrid, PerPersona, Specialized};
        let dips = run(Hybrid, 0, &[(0, 45), (29, 5), (30, 5), (31, 45), (61, 45)]);
        assert_eq!(dips, [Hybrid, Hybrid, Generic, Generic, Generic]);
        let rises = run(Hybrid, 0, &[(0, 5), (1, 45), (30, 45)]);
        assert_eq!(rises, [Hybrid, Hybrid, Generic]);
        let stays = run(Hybrid, 0, &[(0, 45), (29, 5), (30, 5), (59, 5), (60, 5)]);
        assert_eq!(stays, [Hybrid, Hybrid, Generic, Generic, PerPersona]);
        let low_all_the_time = run(Hybrid, 0, &[(0, 5), (30, 5)]);
        assert_eq!(low_all_the_time, [Hybrid, PerPersona]);
        let adapters_gone = run(Specialized, 0, &[(0, 200), (29, 5), (30, 5)]);
        assert_eq!(adapters_gone, [Specialized, Specialized, Hybrid]);
    }

    #[test]
    fn the_last_adapter_ends_specialized_only_after_the_stabilization() {
        let before = Some(Previous {
            phase: Phase::Specialized,
            below: None,
        });
        let low = phase(at(0), 200, 0, before, &auto());
        assert_eq!(
            (low.phase, low.below),
            (Phase::Specialized, since(0, Phase::Hybrid))
        );
        assert_eq!(
            phase(at(30), 200, 0, after(&low), &auto()).phase,
            Phase::Hybrid
        );
    }

    #[test]
    fn a_pinned_mode_wins() {
        let spec = PersonaTopologySpec {
            mode: Mode::Hybrid,
            ..auto()
        };
        assert_eq!(phase(at(0), 1, 0, None, &spec).phase, Phase::Hybrid);
    }

    proptest! {
        #[test]
        fn noise_within_the_hysteresis_moves_at_most_once(
            base in 0u32..150, noise in proptest::collection::vec(0u32..3, 1..60), adapters in 0u32..2
        ) {
            let mut previous = None;
            let mut changes = 0;
            for (second, extra) in (0i64..).zip(noise) {
                let decision = phase(at(second), base + extra, adapters, previous, &auto());
                if previous.is_some_and(|p: Previous| p.phase != decision.phase) {
                    changes += 1;
                }
                previous = after(&decision);
            }
            prop_assert!(changes <= 1, "{changes} changes");
        }

        #[test]
        fn settles_on_the_phase_of_a_constant_number(
            personas in 0u32..300, adapters in 0u32..2, from in 0usize..4
        ) {
            let start = Some(Previous { phase: Phase::ALL[from], below: None });
            let first = phase(at(0), personas, adapters, start, &auto());
            let settled = phase(at(30), personas, adapters, after(&first), &auto());
            let again = phase(at(90), personas, adapters, after(&settled), &auto());
            prop_assert_eq!(settled.phase, again.phase);
            let fresh = phase(at(0), personas, adapters, None, &auto()).phase;
            prop_assert!(settled.phase >= fresh, "never less than the number asks for");
        }
    }
}
