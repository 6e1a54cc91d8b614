use proptest::prelude::*;

use crate::api::{Mode, PersonaTopologySpec, Thresholds};
use crate::controller::fixture::{PersonaExt, World, a_persona, a_topology};

/// What happens to a namespace, in any order.
#[derive(Clone, Debug)]
enum Happening {
    Create(u8),
    Delete(u8),
    MakeAgain(u8),
    Suspend(u8),
    Resume(u8),
    ChangeType(u8, u8),
    OwnPool(u8, bool),
    Pin(u8),
    Thresholds(u8),
    Break(u8),
    Mend,
    LoseSecret(bool),
    Topology,
    Pools,
    Walk(u8),
    Wait(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    let who = 0u8..16;
    prop_oneof![
        4 => who.clone().prop_map(H::Create),
        2 => who.clone().prop_map(H::Delete),
        1 => who.clone().prop_map(H::MakeAgain),
        1 => who.clone().prop_map(H::Suspend),
        1 => who.clone().prop_map(H::Resume),
        1 => (who.clone(), 0u8..4).prop_map(|(p, t)| H::ChangeType(p, t)),
        1 => (who.clone(), any::<bool>()).prop_map(|(p, own)| H::OwnPool(p, own)),
        1 => (0u8..5).prop_map(H::Pin),
        1 => (0u8..8).prop_map(H::Thresholds),
        1 => (0u8..3).prop_map(H::Break),
        1 => Just(H::Mend),
        1 => any::<bool>().prop_map(H::LoseSecret),
        4 => Just(H::Topology),
        4 => Just(H::Pools),
        6 => who.prop_map(H::Walk),
        1 => (0u8..40).prop_map(H::Wait),
    ]
}

fn change(world: &mut World, who: u8, change: impl FnOnce(&mut crate::api::Persona)) {
    if let Some(persona) = world.personas.get_mut(&format!("p{who}")) {
        change(persona);
        persona.metadata.generation = persona.metadata.generation.map(|g| g + 1);
    }
}

fn edit(world: &mut World, change: impl FnOnce(&mut PersonaTopologySpec)) {
    change(&mut world.topology.spec);
    let generation = world.topology.metadata.generation;
    world.topology.metadata.generation = generation.map(|g| g + 1);
}

fn happen(world: &mut World, happening: Happening, serial: usize) {
    match happening {
        Happening::Create(who) => {
            let name = format!("p{who}");
            if !world.personas.contains_key(&name) {
                let mut persona = a_persona(&name).of_type(&format!("T{}", who % 3));
                persona.metadata.uid = Some(format!("{name}-{serial}"));
                world.add(if who % 5 == 0 {
                    persona.with_secret("s")
                } else {
                    persona
                });
            }
        }
        Happening::Delete(who) => world.delete(&format!("p{who}")),
        Happening::MakeAgain(who) => {
            world.delete(&format!("p{who}"));
            happen(world, Happening::Create(who), serial);
        }
        Happening::Suspend(who) => change(world, who, |p| p.spec.suspend = true),
        Happening::Resume(who) => change(world, who, |p| p.spec.suspend = false),
        Happening::ChangeType(who, t) => change(world, who, |p| p.spec.type_ = format!("T{t}")),
        Happening::OwnPool(who, true) => change(world, who, |p| {
            *p = p.clone().on_own_pool("mine");
        }),
        Happening::OwnPool(who, false) => change(world, who, |p| p.spec.pool_ref = None),
        Happening::Pin(mode) => edit(world, |spec| {
            spec.mode = [
                Mode::Auto,
                Mode::PerPersona,
                Mode::Generic,
                Mode::Hybrid,
                Mode::Specialized,
            ][usize::from(mode)];
        }),
        Happening::Thresholds(generic) => edit(world, |spec| {
            spec.thresholds = Thresholds {
                generic: u32::from(generic) + 2,
                hybrid: u32::from(generic) + 5,
                specialized: 100,
            };
        }),
        Happening::Break(which) => {
            world.broken = Some(["p", "generic", "t1"][usize::from(which)].to_owned());
        }
        Happening::Mend => world.broken = None,
        Happening::LoseSecret(true) => {
            world.missing.insert("s".into());
        }
        Happening::LoseSecret(false) => world.missing.clear(),
        Happening::Topology => {
            world.step_topology();
        }
        Happening::Pools => {
            world.step_pools();
        }
        Happening::Walk(who) => {
            world.step_persona(&format!("p{who}"));
        }
        Happening::Wait(seconds) => {
            world.now += jiff::SignedDuration::from_secs(i64::from(seconds));
        }
    }
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever happens, and whenever the reconcilers get to run: nobody is ever routed to a pool that
    /// does not exist or has shown no worker, epochs only grow (both asserted by the namespace), and
    /// once it is left alone all are served where they belong and nothing else is left.
    #[test]
    fn any_history_ends_with_everybody_at_home(
        happenings in proptest::collection::vec(happening(), 1..120)
    ) {
        let mut world = World::new(a_topology(PersonaTopologySpec {
            thresholds: Thresholds { generic: 3, hybrid: 6, specialized: 100 },
            ..PersonaTopologySpec::default()
        }));
        for (serial, happening) in happenings.into_iter().enumerate() {
            happen(&mut world, happening, serial);
        }
        world.broken = None;
        world.missing.clear();
        world.pools.insert("mine".into(), crate::controller::fixture::a_pool("mine"));
        world.settle_for(31);
        world.settle_for(31);
        let status = world.topology.status.clone().expect("a status");
        prop_assert_eq!(&status.transition, &None);
        let mut expected: Vec<_> = status.pools.iter().map(|p| p.name.clone()).collect();
        expected.push("mine".into());
        expected.sort();
        prop_assert_eq!(world.pools.keys().cloned().collect::<Vec<_>>(), expected.clone());
        for (name, persona) in &world.personas {
            let pool = world.pool_of(name).map(str::to_owned);
            prop_assert!(pool.is_some_and(|pool| expected.contains(&pool)), "{} is nowhere", name);
            let known = &world.queue[name];
            prop_assert_eq!(Some(&known.uid), persona.metadata.uid.as_ref());
            prop_assert_eq!(Some(known.generation), persona.metadata.generation);
            let ready = crate::controller::fixture::condition(
                &persona.status.as_ref().expect("a status").conditions,
                "Ready",
            );
            let wanted = if persona.spec.suspend { "False/Suspended" } else { "True/Serving" };
            prop_assert_eq!(ready, wanted);
        }
        let plan = world.plan();
        prop_assert!(plan.apply.is_empty() && plan.retire.is_empty());
        prop_assert_eq!(Some(&plan.status), world.topology.status.as_ref());
    }
}
