use std::collections::{BTreeMap, BTreeSet};

use crate::api::{Mode, Persona, WorkerPool, WorkerPoolSpec, names};
use crate::controller::fixture::{PersonaExt, World, a_persona, a_pool, pinned, ready};

fn world(mode: Mode, personas: impl IntoIterator<Item = Persona>) -> World {
    let mut world = World::new(pinned(mode));
    for persona in personas {
        world.add(persona);
    }
    world
}

fn labels(pool: &WorkerPool) -> BTreeMap<&str, &str> {
    let labels = pool.metadata.labels.as_ref().expect("labels");
    labels
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect()
}

#[test]
fn pools_are_labelled_with_what_they_are_and_owned_by_nobody() {
    for (mode, label) in [
        (Mode::PerPersona, Some(("persona.dev/persona", "a"))),
        (Mode::Generic, None),
        (Mode::Hybrid, Some(("persona.dev/type", "CodeReview"))),
        (Mode::Specialized, Some(("persona.dev/type", "CodeReview"))),
    ] {
        let world = world(mode, [a_persona("a").of_type("CodeReview")]);
        let plan = world.plan();
        let [pool] = &plan.apply[..] else {
            panic!("one pool in {mode:?}: {:?}", plan.apply);
        };
        let phase = mode.pinned().expect("pinned").as_str();
        let mut expected = BTreeMap::from([
            ("app.kubernetes.io/managed-by", "persona-operator"),
            ("persona.dev/topology", "default"),
            ("persona.dev/phase", phase),
            ("persona.dev/class", "api"),
        ]);
        expected.extend(label);
        assert_eq!(labels(pool), expected);
        assert_eq!(pool.metadata.owner_references, None);
        assert_eq!(pool.spec.replicas, None);
    }
}

#[test]
fn odd_and_long_types_and_names_get_pools_of_their_own() {
    let long = "x".repeat(63);
    let types = [
        "CodeReview",
        "codereview",
        "Code Review",
        "Code+Review",
        "Prüfer",
        "--",
        long.as_str(),
    ];
    let personas = types
        .iter()
        .enumerate()
        .map(|(i, type_)| a_persona(&format!("p{i}")).of_type(type_));
    let mut world = world(Mode::Hybrid, personas);
    world.settle();
    assert_eq!(world.pools.len(), types.len());
    let labels: BTreeSet<_> = world
        .pools
        .values()
        .map(|pool| labels(pool)[names::LABEL_TYPE].to_owned())
        .collect();
    assert_eq!(labels.len(), types.len());
    assert!(
        labels
            .iter()
            .all(|label| *label == names::label_value(label))
    );
}

#[test]
fn pools_follow_the_defaults_of_the_topology() {
    let mut world = world(Mode::PerPersona, [a_persona("a")]);
    world.topology.spec.pool = WorkerPoolSpec {
        min_replicas: 2,
        max_replicas: 3,
        slots_per_worker: 7,
        ..WorkerPoolSpec::default()
    };
    world.settle();
    let pool = world.pools.values().next().expect("a pool").clone();
    assert_eq!(pool.spec, world.topology.spec.pool);
    world.topology.spec.pool.max_replicas = 5;
    world.settle();
    let changed = world.pools.values().next().expect("a pool");
    assert_eq!(changed.spec.max_replicas, 5);
    assert_eq!(changed.metadata.uid, pool.metadata.uid);
}

#[test]
fn a_pool_of_suspended_personas_holds_no_worker_ready() {
    let mut world = world(
        Mode::PerPersona,
        [a_persona("a"), a_persona("b").suspended()],
    );
    world.settle();
    let min = |name| {
        let pool = world.pool_of(name).expect("routed");
        world.pools[pool].spec.min_replicas
    };
    assert_eq!((min("a"), min("b")), (1, 0));
}

#[test]
fn pools_help_each_other_in_hybrid_and_nowhere_else() {
    let personas: Vec<_> = (0..3)
        .map(|i| a_persona(&format!("p{i}")).of_type(&format!("T{i}")))
        .collect();
    for (mode, helped) in [
        (Mode::PerPersona, 0),
        (Mode::Generic, 0),
        (Mode::Hybrid, 2),
        (Mode::Specialized, 0),
    ] {
        let plan = world(mode, personas.clone()).plan();
        let names: BTreeSet<_> = plan.apply.iter().map(|p| p.metadata.name.clone()).collect();
        for pool in &plan.apply {
            let name = pool.metadata.name.clone();
            assert_eq!(pool.spec.steal_from.len(), helped, "{mode:?}");
            for other in &pool.spec.steal_from {
                assert_ne!(Some(other), name.as_ref());
                assert!(names.contains(&Some(other.clone())));
            }
        }
    }
}

#[test]
fn of_many_types_each_pool_is_helped_by_as_many_others() {
    let personas = (0..100).map(|i| a_persona(&format!("p{i}")).of_type(&format!("T{i}")));
    let plan = world(Mode::Hybrid, personas).plan();
    let mut helpers: BTreeMap<&str, usize> = BTreeMap::new();
    for pool in &plan.apply {
        assert_eq!(pool.spec.steal_from.len(), 64);
        for other in &pool.spec.steal_from {
            *helpers.entry(other).or_default() += 1;
        }
    }
    assert!(
        helpers.len() == 100 && helpers.values().all(|n| *n == 64),
        "{helpers:?}"
    );
}

#[test]
fn a_pool_of_somebody_else_is_never_touched() {
    let mut world = world(Mode::Generic, [a_persona("a")]);
    let name = world.plan().apply[0].metadata.name.clone().expect("a name");
    let theirs = ready(a_pool(&name), 1);
    let spare = ready(a_pool("spare"), 1);
    world.pools.insert(name.clone(), theirs.clone());
    world.pools.insert("spare".into(), spare.clone());
    world.settle();
    assert_eq!(world.pools[&name].spec, theirs.spec);
    assert_eq!(world.pools[&name].metadata, theirs.metadata);
    assert_eq!(world.pools["spare"].metadata, spare.metadata);
    assert_eq!(world.pool_of("a"), None, "and nobody is sent there");
    let status = world.personas["a"].status.clone().expect("a status");
    assert_eq!(
        crate::controller::fixture::condition(&status.conditions, "Ready"),
        "False/PoolNameTaken"
    );
    world.pools.remove(&name);
    world.settle();
    assert_eq!(world.pool_of("a"), Some(name.as_str()));
}

#[test]
fn what_others_set_on_a_pool_is_left_to_them() {
    let mut world = world(Mode::Generic, [a_persona("a")]);
    world.settle();
    let pool = world.pools.values_mut().next().expect("a pool");
    pool.spec.replicas = Some(5);
    pool.spec.drain_timeout = Some(crate::api::Span::secs(9));
    let labels = pool.metadata.labels.as_mut().expect("labels");
    labels.insert("team".into(), "a".into());
    assert!(world.plan().apply.is_empty());
    let pool = world.pools.values_mut().next().expect("a pool");
    pool.spec.max_replicas = 99;
    assert_eq!(
        world.plan().apply.len(),
        1,
        "what it sets itself is set again"
    );
}

#[test]
fn a_wish_that_is_dropped_is_applied_too() {
    let mut world = world(Mode::Generic, [a_persona("a")]);
    world.topology.spec.pool.drain_timeout = Some(crate::api::Span::secs(9));
    world.settle();
    world.topology.spec.pool.drain_timeout = None;
    let plan = world.plan();
    assert_eq!(plan.apply.len(), 1);
    assert_eq!(plan.apply[0].spec.drain_timeout, None);
}

#[test]
fn a_paused_pool_is_neither_changed_nor_retired() {
    let mut world = world(Mode::Generic, [a_persona("a")]);
    world.settle();
    let pool = world.pools.values_mut().next().expect("a pool");
    let annotations = pool.metadata.annotations.as_mut().expect("annotations");
    annotations.insert(names::ANNOTATION_PAUSED.into(), "true".into());
    world.topology.spec.pool.max_replicas = 50;
    assert!(world.plan().apply.is_empty());
    world.delete("a");
    assert!(world.plan().retire.is_empty());
}

#[test]
fn pools_warm_up_for_the_requests_of_those_who_enter() {
    for (running, slots, max, before, expected) in [
        (0, 4, 8, None, 1),
        (4, 4, 8, None, 1),
        (5, 4, 8, None, 2),
        (400, 4, 8, None, 8),
        (20, 4, 8, Some(6), 6),
        (20, 4, 8, Some(4), 5),
        (20, 4, 20, Some(11), 5),
        (0, 4, 8, Some(2), 2),
        (0, 4, 8, Some(12), 1),
    ] {
        let mut world = world(Mode::Generic, [a_persona("a").routed("elsewhere", running)]);
        world.topology.spec.pool.slots_per_worker = slots;
        world.topology.spec.pool.max_replicas = max;
        if let Some(before) = before {
            let mut pool = world.plan().apply[0].clone();
            pool.spec.warm_replicas = Some(before);
            world
                .pools
                .insert(pool.metadata.name.clone().expect("a name"), pool);
        }
        world.step_topology();
        let pool = world.pools.values().next().expect("a pool");
        assert_eq!(
            pool.spec.warm_replicas,
            Some(expected),
            "{running} running, {slots} slots, at most {max}, before {before:?}"
        );
    }
}

#[test]
fn once_everybody_is_there_nothing_is_kept_warm() {
    let mut world = world(Mode::Generic, [a_persona("a"), a_persona("b")]);
    world.settle();
    let pool = world.pools.values().next().expect("a pool");
    assert_eq!(pool.spec.warm_replicas, None);
}

#[test]
fn a_pool_that_nobody_belongs_to_is_retired_only_when_nobody_is_there() {
    let mut world = world(
        Mode::Generic,
        [a_persona("a"), a_persona("b").on_own_pool("mine")],
    );
    world.settle();
    let generic = world.pool_of("a").expect("routed").to_owned();
    world.delete("a");
    let b = world.personas["b"].clone().routed(&generic, 0);
    world.add(b);
    assert!(world.plan().retire.is_empty(), "b is still there");
    let b = world.personas["b"].clone().routed("mine", 0);
    world.add(b);
    let plan = world.plan();
    assert_eq!(plan.retire.len(), 1);
    assert_eq!(plan.retire[0].name, generic);
    assert_eq!(
        Some(&plan.retire[0].uid),
        world.pools[&generic].metadata.uid.as_ref()
    );
}

#[test]
fn a_copy_of_a_managed_pool_under_another_name_is_its_owners() {
    let mut world = world(Mode::Generic, [a_persona("a")]);
    world.settle();
    let made = world.pools.values().next().expect("a pool").clone();
    assert!(names::of_topology(&made.metadata));
    let mut copy = made.clone();
    copy.metadata.name = Some("mine".into());
    copy.metadata.uid = Some("another".into());
    world.pools.insert("mine".into(), copy);
    let plan = world.plan();
    assert!(plan.retire.is_empty() && plan.apply.is_empty(), "{plan:?}");
    // As an earlier version marked it.
    let mut old = made;
    let annotations = old.metadata.annotations.as_mut().expect("annotations");
    annotations.insert(names::ANNOTATION_APPLIED.into(), "v-0123abcd".into());
    assert!(names::of_topology(&old.metadata));
}
