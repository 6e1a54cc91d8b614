use crate::api::condition::{READY, STABLE};
use crate::api::{Mode, PersonaTopologySpec, Phase, names};
use crate::controller::fixture::{
    PersonaExt, World, a_persona, a_pool, a_topology, condition, pinned, ready,
};

/// A namespace that has settled with so many personas.
fn settled(personas: usize) -> World {
    let mut world = World::new(a_topology(PersonaTopologySpec::default()));
    world.set_number(personas);
    world.settle();
    world
}

fn walk(world: &mut World, how_many: usize) {
    let names: Vec<String> = world.personas.keys().take(how_many).cloned().collect();
    for name in names {
        world.step_persona(&name);
        world.check();
    }
}

fn progress(world: &World) -> Option<String> {
    let status = world.topology.status.clone().expect("a status");
    status.transition.map(|t| t.progress)
}

fn topology(world: &World, type_: &str) -> String {
    let status = world.topology.status.as_ref().expect("a status");
    condition(&status.conditions, type_)
}

fn persona(world: &World, name: &str) -> String {
    let status = world.personas[name].status.as_ref().expect("a status");
    condition(&status.conditions, READY)
}

#[test]
fn a_move_counts_those_who_have_arrived() {
    let mut world = settled(50);
    world.set_number(51);
    world.step_topology();
    assert_eq!(world.phase(), Some(Phase::Hybrid));
    assert_eq!(progress(&world).as_deref(), Some("Generic -> Hybrid 0/50"));
    assert_eq!(topology(&world, STABLE), "False/Moving");
    assert_eq!(topology(&world, READY), "False/PoolsNotReady");
    world.step_pools();
    walk(&mut world, 37);
    world.step_topology();
    assert_eq!(progress(&world).as_deref(), Some("Generic -> Hybrid 37/50"));
    assert_eq!(topology(&world, READY), "True/PoolsReady");
    walk(&mut world, 51);
    world.step_topology();
    assert_eq!(progress(&world), None);
    assert_eq!(topology(&world, STABLE), "False/Retiring");
    world.settle();
    assert_eq!(topology(&world, STABLE), "True/Settled");
    assert_eq!(world.pools.len(), 4);
}

#[test]
fn nobody_moves_before_the_new_pool_is_ready_and_everybody_stays_served() {
    let mut world = settled(10);
    let before = world.queue.clone();
    world.set_number(11);
    world.step_topology();
    walk(&mut world, 11);
    for (name, published) in &before {
        assert_eq!(world.pool_of(name), published.pool.as_deref());
        assert_eq!(persona(&world, name), "True/Moving");
    }
    assert_eq!(world.pool_of("p10"), None, "registered, and waits");
    assert!(world.queue.contains_key("p10"));
    assert_eq!(persona(&world, "p10"), "False/WaitingForPool");
    assert_eq!(world.pools.len(), 11, "nothing is retired");
    world.settle();
    assert!(
        world
            .personas
            .keys()
            .all(|name| persona(&world, name) == "True/Serving")
    );
}

#[test]
fn the_old_pools_follow_the_spec_while_somebody_is_there() {
    let mut world = settled(10);
    world.broken = Some("generic".into());
    world.set_number(11);
    world.settle();
    assert_eq!(world.pools.len(), 11);
    world.topology.spec.pool.max_replicas = 33;
    world.topology.metadata.generation = Some(2);
    world.settle();
    assert!(
        world
            .pools
            .values()
            .all(|pool| pool.spec.max_replicas == 33)
    );
    let phases: Vec<_> = world
        .pools
        .values()
        .map(|pool| pool.metadata.labels.clone().expect("labels")[names::LABEL_PHASE].clone())
        .collect();
    assert_eq!(phases.iter().filter(|p| *p == "PerPersona").count(), 10);
}

#[test]
fn a_pool_that_never_gets_ready_holds_back_only_its_own() {
    let mut world = settled(50);
    let generic = world.pool_of("p0").expect("routed").to_owned();
    world.broken = Some("t2".into());
    world.set_number(51);
    world.settle();
    for name in world.personas.keys().filter(|name| *name != "p50") {
        let held = world.personas[name].spec.type_ == "T2";
        assert_eq!(world.pool_of(name) == Some(&generic), held, "{name}");
        let expected = if held { "True/Moving" } else { "True/Serving" };
        assert_eq!(persona(&world, name), expected, "{name}");
    }
    assert_eq!(
        persona(&world, "p50"),
        "False/WaitingForPool",
        "never served"
    );
    assert!(world.pools.contains_key(&generic));
    assert_eq!(topology(&world, READY), "False/PoolsNotReady");
    assert_eq!(topology(&world, STABLE), "False/Moving");
    world.broken = None;
    world.settle();
    assert!(!world.pools.contains_key(&generic));
    assert_eq!(topology(&world, STABLE), "True/Settled");
}

#[test]
fn going_back_in_the_middle_is_the_same_rule_with_another_target() {
    let mut world = settled(50);
    let generic = world.pool_of("p0").expect("routed").to_owned();
    world.set_number(51);
    world.step_topology();
    world.step_pools();
    walk(&mut world, 20);
    world.step_topology();
    assert_eq!(progress(&world).as_deref(), Some("Generic -> Hybrid 20/50"));
    world.topology.spec.mode = Mode::Generic;
    world.topology.metadata.generation = Some(2);
    world.step_topology();
    assert_eq!(progress(&world).as_deref(), Some("Hybrid -> Generic 30/50"));
    world.settle();
    assert!(
        world
            .queue
            .values()
            .all(|p| p.pool.as_ref() == Some(&generic))
    );
    assert_eq!(world.pools.len(), 1);
}

#[test]
fn a_new_persona_in_the_middle_joins_and_deleted_ones_are_not_waited_for() {
    let mut world = settled(50);
    world.set_number(51);
    world.step_topology();
    world.step_pools();
    walk(&mut world, 10);
    world.add(a_persona("a-new").of_type("New"));
    world.step_topology();
    world.step_persona("a-new");
    assert_eq!(persona(&world, "a-new"), "False/WaitingForPool");
    world.set_number(20);
    world.step_topology();
    assert_eq!(
        world.phase(),
        Some(Phase::Hybrid),
        "not low for long enough"
    );
    world.settle();
    assert_eq!(progress(&world), None);
    assert_eq!(persona(&world, "a-new"), "True/Serving");
    assert_eq!(world.pools.len(), 5);
}

#[test]
fn a_persona_that_changes_its_type_moves_alone() {
    let mut world = settled(60);
    let before = world.queue.clone();
    let changed = world.personas["p0"].clone().of_type("Other");
    world.add(changed);
    world.step_topology();
    let status = world.topology.status.clone().expect("a status");
    assert_eq!(status.transition, None, "no change of phase");
    assert_eq!(topology(&world, STABLE), "False/Moving");
    world.settle();
    for (name, published) in before {
        let same = world.pool_of(&name) == published.pool.as_deref();
        assert_eq!(same, name != "p0", "{name}");
    }
}

#[test]
fn suspended_personas_move_with_the_others() {
    let mut world = settled(10);
    world.add(a_persona("s").suspended());
    world.settle();
    let own = world.pool_of("s").expect("routed").to_owned();
    world.set_number(11);
    world.settle();
    assert_ne!(world.pool_of("s"), Some(own.as_str()));
    assert_eq!(world.pools.len(), 1);
    assert_eq!(persona(&world, "s"), "False/Suspended");
}

#[test]
fn who_may_not_be_moved_keeps_its_pool_and_holds_nobody_up() {
    let mut world = settled(9);
    world.add(a_persona("q"));
    world.settle();
    let own = world.pool_of("q").expect("routed").to_owned();
    let paused = world.personas["q"].clone().paused();
    world.add(paused);
    world.set_number(12);
    world.settle();
    assert_eq!(world.pool_of("q"), Some(own.as_str()));
    assert_eq!(progress(&world), None);
    assert_eq!(world.pools.len(), 2);
}

#[test]
fn a_persona_with_a_missing_secret_harms_nobody() {
    let mut world = settled(10);
    world.missing.insert("gone".into());
    world.add(a_persona("a").with_secret("gone"));
    world.settle();
    assert_eq!(persona(&world, "a"), "False/WaitingForCredential");
    assert!(world.queue.contains_key("a"), "it accepts requests");
    assert_eq!(topology(&world, STABLE), "True/Settled");
    for i in 0..10 {
        assert_eq!(persona(&world, &format!("p{i}")), "True/Serving");
    }
    world.missing.clear();
    world.settle();
    assert_eq!(persona(&world, "a"), "True/Serving");
}

#[test]
fn who_has_lost_its_secret_does_not_hold_up_a_move() {
    let mut world = settled(9);
    world.add(a_persona("a").with_secret("s"));
    world.settle();
    let own = world.pool_of("a").expect("routed").to_owned();
    world.missing.insert("s".into());
    world.set_number(12);
    world.settle();
    assert_ne!(world.pool_of("a"), Some(own.as_str()));
    assert_eq!(persona(&world, "a"), "False/WaitingForCredential");
    assert_eq!((progress(&world), world.pools.len()), (None, 1));
}

#[test]
fn a_persona_moves_to_a_pool_of_its_owner_and_back() {
    let mut world = World::new(pinned(Mode::PerPersona));
    world.add(a_persona("a"));
    world.settle();
    let managed = world.pool_of("a").expect("routed").to_owned();
    let mut own = world.personas["a"].clone().on_own_pool("mine");
    own.metadata.generation = Some(2);
    world.add(own.clone());
    world.settle();
    assert_eq!(world.pool_of("a"), Some(managed.as_str()));
    assert!(
        world.pools.contains_key(&managed),
        "kept as long as it is needed"
    );
    assert_eq!(persona(&world, "a"), "True/Moving");
    world.pools.insert("mine".into(), ready(a_pool("mine"), 0));
    world.settle();
    assert_eq!(world.pool_of("a"), Some("mine"));
    assert!(!world.pools.contains_key(&managed));
    own.spec.pool_ref = None;
    own.metadata.generation = Some(3);
    own.status = world.personas["a"].status.clone();
    world.add(own);
    world.settle();
    assert_eq!(world.pool_of("a"), Some(managed.as_str()));
    assert!(world.pools.contains_key("mine"));
}

#[test]
fn a_persona_made_again_leaves_its_old_pool_behind() {
    let mut world = World::new(pinned(Mode::PerPersona));
    world.add(a_persona("a"));
    world.settle();
    let before = world.pool_of("a").expect("routed").to_owned();
    world.delete("a");
    let mut again = a_persona("a");
    again.metadata.uid = Some("another".into());
    world.add(again);
    world.settle();
    assert_ne!(world.pool_of("a"), Some(before.as_str()));
    assert_eq!(world.pools.len(), 1);
}
