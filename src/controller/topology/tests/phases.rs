use std::collections::BTreeSet;

use crate::api::condition::STABLE;
use crate::api::{Mode, PersonaTopologySpec, Phase, Thresholds};
use crate::controller::fixture::{PersonaExt, World, a_persona, a_topology, condition, pinned};

fn world() -> World {
    World::new(a_topology(PersonaTopologySpec::default()))
}

#[test]
fn the_number_of_personas_leads_through_the_phases_and_back() {
    let mut world = world();
    let mut epoch = 0;
    for (personas, phase, pools) in [
        (9, Phase::PerPersona, 9),
        (10, Phase::PerPersona, 10),
        (11, Phase::Generic, 1),
        (50, Phase::Generic, 1),
        (51, Phase::Hybrid, 4),
        (101, Phase::Hybrid, 4),
        (49, Phase::Hybrid, 4),
        (48, Phase::Generic, 1),
        (9, Phase::Generic, 1),
        (8, Phase::PerPersona, 8),
    ] {
        let before = world.phase();
        world.set_number(personas);
        world.settle_for(31);
        let status = world.topology.status.clone().expect("a status");
        assert_eq!(status.phase, Some(phase), "{personas} personas");
        assert_eq!(world.pools.len(), pools, "{personas} personas");
        assert_eq!(status.pools.len(), pools);
        assert_eq!(status.pool_count as usize, pools);
        assert_eq!(status.personas as usize, personas);
        assert_eq!(status.transition, None);
        assert_eq!(condition(&status.conditions, STABLE), "True/Settled");
        for name in world.personas.keys() {
            let pool = world.pool_of(name).expect("routed");
            assert!(
                status.pools.iter().any(|p| p.name == pool),
                "{name} at home"
            );
        }
        if before != Some(phase) {
            assert!(status.epoch > epoch, "{personas} personas");
        } else {
            assert_eq!(status.epoch, epoch, "{personas} personas");
        }
        epoch = status.epoch;
    }
    let history = world.topology.status.expect("a status").history;
    let steps: Vec<_> = history.iter().map(|h| (h.from, h.to)).collect();
    assert_eq!(
        steps,
        [
            (Phase::Generic, Phase::PerPersona),
            (Phase::Hybrid, Phase::Generic),
            (Phase::Generic, Phase::Hybrid),
            (Phase::PerPersona, Phase::Generic),
        ]
    );
    assert!(
        history[3].reason.contains("11 personas"),
        "{}",
        history[3].reason
    );
}

#[test]
fn with_an_adapter_a_hundred_and_one_are_specialized_and_nobody_moves() {
    let mut world = world();
    world.set_number(100);
    world.settle();
    let before = world.queue.clone();
    world.add(a_persona("x").of_type("T0").with_adapter());
    world.settle();
    assert_eq!(world.phase(), Some(Phase::Specialized));
    assert!(
        world
            .pools
            .values()
            .all(|pool| pool.spec.steal_from.is_empty())
    );
    for (name, published) in before {
        assert_eq!(world.pool_of(&name), published.pool.as_deref());
    }
}

#[test]
fn going_back_waits_for_the_stabilization_and_says_when() {
    let mut world = world();
    world.set_number(11);
    world.settle();
    world.set_number(8);
    world.settle();
    let plan = world.plan();
    assert_eq!(world.phase(), Some(Phase::Generic));
    assert_eq!(plan.status.below_since.map(|t| t.0), Some(world.now));
    assert_eq!(
        plan.again_at,
        Some(world.now + jiff::SignedDuration::from_secs(30))
    );
    world.set_number(11);
    world.settle_for(31);
    assert_eq!(world.phase(), Some(Phase::Generic));
    assert_eq!(world.topology.status.expect("a status").below_since, None);
}

#[test]
fn only_personas_that_the_topology_serves_are_counted() {
    let mut world = world();
    world.set_number(10);
    world.add(a_persona("s").suspended());
    world.add(a_persona("d").deleting());
    world.add(a_persona("o").on_own_pool("mine"));
    world.settle();
    assert_eq!(world.phase(), Some(Phase::PerPersona));
    assert_eq!(
        world.topology.status.clone().expect("a status").personas,
        10
    );
    world.add(a_persona("u").unplaced());
    world.settle();
    assert_eq!(
        world.phase(),
        Some(Phase::Generic),
        "an unplaced one counts"
    );
}

#[test]
fn a_pinned_mode_wins_over_the_number() {
    for (mode, phase, pools) in [
        (Mode::PerPersona, Phase::PerPersona, 60),
        (Mode::Generic, Phase::Generic, 1),
        (Mode::Hybrid, Phase::Hybrid, 4),
        (Mode::Specialized, Phase::Specialized, 4),
    ] {
        let mut world = World::new(pinned(mode));
        world.set_number(60);
        world.settle();
        assert_eq!((world.phase(), world.pools.len()), (Some(phase), pools));
    }
}

#[test]
fn thresholds_changed_while_running_count_at_once_and_raise_the_epoch() {
    let mut world = world();
    world.set_number(9);
    world.settle();
    let epoch = world.epoch();
    world.topology.spec.thresholds = Thresholds {
        generic: 3,
        hybrid: 5,
        specialized: 100,
    };
    world.topology.metadata.generation = Some(2);
    world.settle();
    assert_eq!(world.phase(), Some(Phase::Hybrid));
    assert!(world.epoch() > epoch);
    let epoch = world.epoch();
    world.topology.spec.thresholds.hybrid = 6;
    world.topology.metadata.generation = Some(3);
    world.settle();
    assert_eq!(world.phase(), Some(Phase::Hybrid), "the same phase");
    assert_eq!(world.epoch(), epoch + 1, "and yet a new epoch");
    let status = world.topology.status.as_ref().expect("a status");
    assert_eq!(status.observed_generation, Some(3));
    let routed: BTreeSet<_> = world.queue.values().map(|p| p.epoch).collect();
    assert_eq!(
        routed,
        BTreeSet::from([u64::try_from(epoch + 1).expect("positive")])
    );
}

#[test]
fn a_topology_made_again_comes_after_the_one_before() {
    let mut world = world();
    world.set_number(60);
    world.settle_for(120);
    let epoch = world.epoch();
    world.topology = a_topology(PersonaTopologySpec::default());
    let plan = world.plan();
    assert!(plan.status.epoch > epoch);
}

#[test]
fn an_epoch_that_the_queue_has_seen_is_overtaken() {
    let mut world = world();
    world.set_number(2);
    world.settle();
    let observed = super::super::plan::Observed {
        topology: &world.topology,
        personas: &[],
        pools: &[],
        seen_epoch: Some(9_000_000_000_000),
        queue: None,
        refusals: &world.refusals,
    };
    let plan = super::super::plan::plan(world.now, &observed);
    assert_eq!(plan.status.epoch, 9_000_000_000_001);
}

#[test]
fn the_history_keeps_the_last_ten() {
    let mut world = World::new(pinned(Mode::Generic));
    world.set_number(2);
    for generation in 2..30 {
        world.settle();
        world.topology.spec.mode = if generation % 2 == 0 {
            Mode::Hybrid
        } else {
            Mode::Generic
        };
        world.topology.metadata.generation = Some(generation);
    }
    world.settle();
    let history = world.topology.status.expect("a status").history;
    assert_eq!(history.len(), 10);
    assert_eq!(history[0].to, Phase::Generic, "newest first");
}

#[test]
fn the_status_remembers_the_highest_phase_of_the_wait_so_that_a_dip_moves_nobody_too_far() {
    let mut world = world();
    world.set_number(60);
    world.settle();
    world.set_number(45);
    world.settle_for(29);
    world.set_number(5);
    world.settle_for(1);
    let status = world.topology.status.clone().expect("a status");
    assert_eq!(status.phase, Some(Phase::Generic), "{status:?}");
    assert_eq!(status.below_phase, Some(Phase::PerPersona));
    world.set_number(45);
    world.settle_for(60);
    let status = world.topology.status.clone().expect("a status");
    assert_eq!(
        (status.phase, status.below_phase),
        (Some(Phase::Generic), None)
    );
    assert_eq!(status.history.len(), 1, "{:?}", status.history);
}
