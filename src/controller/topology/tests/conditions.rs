use std::collections::BTreeMap;

use super::super::plan::{Observed, plan};
use crate::api::condition::{QUEUE_SAFE, READY, STABLE, Verdict};
use crate::api::{Mode, PersonaTopologySpec, names};
use crate::controller::fixture::{
    PersonaExt, World, a_persona, a_pool, a_topology, at, condition, pinned, ready,
};

fn message(world: &World, type_: &str) -> String {
    let status = world.plan().status;
    let condition = status.conditions.iter().find(|c| c.type_ == type_);
    condition.expect("the condition").message.clone()
}

fn said(world: &World, type_: &str) -> String {
    condition(&world.plan().status.conditions, type_)
}

#[test]
fn an_empty_namespace_is_ready_and_stable() {
    let world = World::new(a_topology(PersonaTopologySpec::default()));
    assert_eq!(said(&world, READY), "True/NoPools");
    assert_eq!(said(&world, STABLE), "True/Settled");
}

#[test]
fn what_is_said_of_the_queue_is_said_by_each_topology_paused_or_not() {
    let risk = Verdict::no(QUEUE_SAFE, "Eviction", "evicts");
    for paused in [false, true] {
        let mut topology = a_topology(PersonaTopologySpec::default());
        if paused {
            let paused = [(names::ANNOTATION_PAUSED.to_owned(), "true".to_owned())];
            topology.metadata.annotations = Some(paused.into());
        }
        // A controller that begins has not asked the queue yet: what was said holds.
        for (second, queue) in [(0, Some(risk.clone())), (1, None)] {
            let observed = Observed {
                topology: &topology,
                personas: &[],
                pools: &[],
                seen_epoch: None,
                queue,
                refusals: &BTreeMap::new(),
            };
            let status = plan(at(second), &observed).status;
            let said = condition(&status.conditions, QUEUE_SAFE);
            assert_eq!(said, "False/Eviction");
            topology.status = Some(status);
        }
    }
}

#[test]
fn ready_names_the_pools_that_are_not_and_why() {
    let mut world = World::new(pinned(Mode::Hybrid));
    world.broken = Some("t1".into());
    world.set_number(4);
    world.settle();
    assert_eq!(said(&world, READY), "False/PoolsNotReady");
    let message = message(&world, READY);
    assert!(
        message.starts_with("1 of 4 pools are not ready: t1-api-"),
        "{message}"
    );
}

#[test]
fn a_taken_name_is_said_once_as_an_event_and_stays_a_condition() {
    let mut world = World::new(pinned(Mode::Generic));
    world.add(a_persona("a"));
    let name = world.plan().apply[0].metadata.name.clone().expect("a name");
    world.pools.insert(name.clone(), ready(a_pool(&name), 1));
    let plan = world.plan();
    assert!(plan.apply.is_empty() && plan.retire.is_empty());
    let warnings = plan.news.iter().filter(|news| news.is_warning).count();
    assert_eq!(warnings, 1);
    world.settle();
    assert!(world.plan().news.is_empty());
    assert_eq!(said(&world, READY), "False/PoolNameTaken");
    assert!(message(&world, READY).contains(&name));
}

#[test]
fn a_refusal_of_the_api_server_is_quoted() {
    let mut world = World::new(pinned(Mode::Generic));
    world.set_number(1);
    world.settle();
    let refusal = ("pool-x".to_owned(), "exceeded quota: pools".to_owned());
    world.refusals.extend([refusal]);
    assert_eq!(said(&world, READY), "False/PoolRefused");
    assert!(message(&world, READY).contains("exceeded quota: pools"));
}

#[test]
fn unplaced_personas_are_counted_in_words() {
    let mut world = World::new(pinned(Mode::Generic));
    world.set_number(2);
    world.add(a_persona("u").unplaced());
    world.settle();
    assert_eq!(said(&world, READY), "True/PoolsReady");
    let message = message(&world, READY);
    assert!(message.contains("1 persona has no place"), "{message}");
}

#[test]
fn a_paused_topology_says_so_and_stands_still() {
    let mut world = World::new(a_topology(PersonaTopologySpec::default()));
    world.set_number(10);
    world.settle();
    let before = world.topology.status.clone().expect("a status");
    let pause = (names::ANNOTATION_PAUSED.to_owned(), "true".to_owned());
    world.topology.metadata.annotations = Some([pause].into());
    world.set_number(60);
    world.settle();
    assert_eq!(said(&world, READY), "Unknown/Paused");
    let after = world.topology.status.clone().expect("a status");
    assert_eq!((after.phase, after.epoch), (before.phase, before.epoch));
    assert_eq!(after.pools, before.pools);
    assert_eq!(world.pools.len(), 10);
    world.topology.metadata.annotations = None;
    world.settle();
    assert_eq!(world.pools.len(), 4);
}

#[test]
fn a_change_of_phase_is_told_when_it_begins_and_when_it_is_complete() {
    let mut world = World::new(a_topology(PersonaTopologySpec::default()));
    world.set_number(10);
    world.settle();
    world.set_number(11);
    let begun = world.plan().news;
    assert_eq!(begun[0].reason, "PhaseChanged");
    assert!(
        begun[0]
            .note
            .starts_with("PerPersona -> Generic: 11 personas"),
        "{}",
        begun[0].note
    );
    world.step_topology();
    world.step_pools();
    for i in 0..11 {
        world.step_persona(&format!("p{i}"));
    }
    let done = world.plan().news;
    assert_eq!(done[0].reason, "PhaseComplete");
    assert_eq!(done[0].note, "PerPersona -> Generic 11/11 in 0 s");
}

#[test]
fn nothing_is_written_when_nothing_changed_however_late_it_is() {
    let mut world = World::new(a_topology(PersonaTopologySpec::default()));
    world.set_number(60);
    world.settle();
    world.now += jiff::SignedDuration::from_hours(5);
    let plan = world.plan();
    assert_eq!(Some(&plan.status), world.topology.status.as_ref());
    assert!(plan.apply.is_empty() && plan.retire.is_empty() && plan.news.is_empty());
    assert_eq!(plan.again_at, None);
}

#[test]
fn a_pool_that_may_not_be_taken_away_is_no_trouble_of_those_that_are_wanted() {
    let mut world = World::new(pinned(Mode::Hybrid));
    world.set_number(4);
    world.settle();
    world.delete("p0");
    let [retired] = &world.plan().retire[..] else {
        panic!("one pool that nobody needs");
    };
    assert_eq!(said(&world, STABLE), "False/Retiring");
    let refusal = (retired.name.clone(), "policy protects it".to_owned());
    world.refusals.extend([refusal]);
    assert_eq!(said(&world, STABLE), "False/PoolRefused");
    let message = message(&world, STABLE);
    assert!(message.contains("policy protects it"), "{message}");
    assert_eq!(said(&world, READY), "True/PoolsReady");
    let warnings = world.plan().news;
    assert!(warnings.iter().any(|news| news.reason == "PoolRefused"));
}
