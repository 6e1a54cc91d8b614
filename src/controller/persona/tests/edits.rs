//! A changed manifest must not take a persona from workers that serve the old one.

use super::{Case, generic, of_topology};
use crate::api::Persona;
use crate::api::condition::{READY, ROUTED};
use crate::controller::fixture::{PersonaExt, a_persona, condition, ready};
use crate::controller::persona::plan::Intent;
use crate::controller::persona::status::Outcome;

/// At home in the Generic pool, whose workers hold these lanes.
fn at_home(persona: Persona, lanes: &[&str]) -> Case {
    let pool = ready(generic(), 1);
    Case::new(persona)
        .home(pool.clone(), lanes)
        .in_pool(pool, lanes)
}

#[test]
fn an_edit_is_published() {
    let case = at_home(a_persona("a"), &["-"]).edited(|mut persona| {
        persona.spec.instructions = "Be brief.".into();
        persona
    });
    assert_eq!(case.plan().route, Some(Intent::Stay));
    assert!(!case.plan().keeps);
}

#[test]
fn a_new_credential_is_published_once_a_worker_holds_it() {
    let edit = |persona: Persona| persona.with_secret("new");
    let lanes = ["-", "old/key"];
    let case = at_home(a_persona("a").with_secret("old"), &lanes).edited(edit);
    assert_eq!(case.plan().route, None);
    assert!(case.plan().keeps);
    let status = case.status(Outcome::Accepted);
    for type_ in [READY, ROUTED] {
        assert_eq!(
            condition(&status.conditions, type_),
            "False/WaitingForCredential"
        );
    }
    let message = case.message();
    assert!(message.contains("as of generation 1"), "{message}");
    let lanes = ["-", "old/key", "new/key"];
    let case = at_home(a_persona("a").with_secret("old"), &lanes).edited(edit);
    assert_eq!(case.plan().route, Some(Intent::Stay));
}

#[test]
fn a_new_credential_while_nobody_is_up_waits_for_nothing() {
    let asleep = ready(generic(), 0);
    let case = Case::new(a_persona("a"))
        .home(asleep.clone(), &[])
        .in_pool(asleep, &[])
        .edited(|persona| persona.with_secret("new"));
    assert_eq!(case.plan().route, Some(Intent::Stay));
}

#[test]
fn suspending_waits_for_nothing() {
    let case = at_home(a_persona("a"), &["-"])
        .edited(|persona| persona.with_secret("missing").suspended());
    assert_eq!(case.plan().route, Some(Intent::Stay));
}

#[test]
fn another_class_of_model_is_published_with_the_move_only() {
    let mut pool = ready(of_topology("other-class"), 1);
    let labels = pool.metadata.labels.as_mut().expect("labels");
    labels.insert(crate::api::names::LABEL_CLASS.into(), "cpu".into());
    let case = || {
        Case::new(a_persona("a"))
            .in_pool(pool.clone(), &["-"])
            .edited(|persona| persona)
    };
    assert_eq!(case().plan().route, None);
    let status = case().status(Outcome::Accepted);
    assert_eq!(condition(&status.conditions, READY), "False/WaitingForPool");
    let up = case().home(ready(generic(), 1), &["-"]);
    assert!(matches!(up.plan().route, Some(Intent::Enter(_))));
}

#[test]
fn a_new_process_keeps_what_the_queue_has_as_well() {
    let mut case = at_home(a_persona("a"), &["-"]).edited(|persona| persona.with_secret("new"));
    case.is_ours = false;
    assert!(case.plan().keeps && case.plan().route.is_none());
}

#[test]
fn who_has_lost_its_credential_may_move_on() {
    let persona = a_persona("a").with_secret("lost");
    let case = Case::new(persona)
        .in_pool(ready(of_topology("x"), 1), &["-"])
        .home(ready(generic(), 1), &["-"]);
    assert!(matches!(case.plan().route, Some(Intent::Enter(_))));
    let held = Case::new(a_persona("a").with_secret("held"))
        .in_pool(ready(of_topology("x"), 1), &["-", "held/key"])
        .home(ready(generic(), 1), &["-"]);
    assert_eq!(held.plan().route, None, "who is served stays");
}

#[test]
fn who_is_served_with_its_old_credential_does_not_move_without_the_new_one() {
    let lanes = ["-", "old/key"];
    let case = Case::new(a_persona("a").with_secret("old"))
        .in_pool(ready(of_topology("x"), 1), &lanes)
        .edited(|persona| persona.with_secret("new"))
        .home(ready(generic(), 1), &lanes);
    assert_eq!(case.plan().route, None);
    assert!(case.plan().keeps);
}
