use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Case, enter, generic, may_be_empty, of_topology};
use crate::api::condition::{ADAPTER_LOADED, MODEL_PLACED, READY, ROUTED};
use crate::api::{MetricType, Phase};
use crate::controller::fixture::{PersonaExt, a_persona, a_pool, at, condition, ready};
use crate::controller::persona::plan::Intent;
use crate::controller::persona::status::{Outcome, Refusal};
use crate::controller::routes::Published;

fn is(says: (Option<Intent>, String, String), route: Option<Intent>, ready: &str, routed: &str) {
    assert_eq!(says, (route, ready.to_owned(), routed.to_owned()));
}

#[test]
fn a_new_persona_is_registered_at_once_and_waits_for_topology_pool_and_workers() {
    let new = || Case::new(a_persona("a"));
    let waits = "False/WaitingForPool";
    let mut undecided = new();
    undecided.layout = None;
    let topology = "False/WaitingForTopology";
    is(undecided.says(), Some(Intent::Stay), topology, topology);
    is(new().says(), Some(Intent::Stay), waits, waits);
    assert!(new().message().contains("(Missing)"), "{}", new().message());
    let starting = new().home(generic(), &["-"]);
    is(starting.says(), Some(Intent::Stay), waits, waits);
    let no_worker = new().home(ready(generic(), 1), &[]);
    is(no_worker.says(), Some(Intent::Stay), waits, waits);
    let mut unread = new().home(ready(generic(), 1), &[]);
    unread.home.as_mut().expect("a pool").1 = None;
    is(unread.says(), Some(Intent::Stay), waits, waits);
    let name = generic().metadata.name.expect("a name");
    let up = new().home(ready(generic(), 1), &["-"]);
    is(up.says(), enter(&name), "True/Serving", "True/Routed");
}

#[test]
fn ready_of_an_older_spec_lets_nobody_in() {
    let mut pool = ready(generic(), 1);
    pool.metadata.generation = Some(2);
    let case = Case::new(a_persona("a")).home(pool, &["-"]);
    assert_eq!(case.plan().route, Some(Intent::Stay));
    assert!(case.message().contains("(Updating)"), "{}", case.message());
}

#[test]
fn a_pool_that_is_going_lets_nobody_in() {
    let mut pool = ready(generic(), 1);
    pool.metadata.deletion_timestamp = Some(Time(at(0)));
    let case = Case::new(a_persona("a")).home(pool, &["-"]);
    assert_eq!(case.plan().route, Some(Intent::Stay));
}

#[test]
fn who_needs_a_credential_enters_where_a_worker_holds_it() {
    let persona = a_persona("a").with_secret("openai");
    let case = Case::new(persona.clone()).home(ready(generic(), 1), &["-", "openai/other"]);
    let waits = "False/WaitingForCredential";
    is(case.says(), Some(Intent::Stay), waits, waits);
    let message = case.message();
    assert!(message.contains("key key of Secret openai"), "{message}");
    let name = generic().metadata.name.expect("a name");
    let case = Case::new(persona).home(ready(generic(), 1), &["-", "openai/key"]);
    is(case.says(), enter(&name), "True/Serving", "True/Routed");
}

#[test]
fn who_is_where_it_belongs_is_left_alone() {
    let pool = ready(generic(), 1);
    let case = Case::new(a_persona("a"))
        .home(pool.clone(), &["-"])
        .in_pool(pool, &["-"]);
    is(case.says(), None, "True/Serving", "True/Routed");
    let status = case.status(Outcome::Accepted);
    assert_eq!(status.phase, Some(Phase::Generic));
    assert_eq!((status.queued, status.running), (3, 2));
    assert_eq!(status.observed_generation, Some(1));
}

#[test]
fn another_epoch_is_published_without_a_move() {
    let pool = ready(generic(), 1);
    let mut case = Case::new(a_persona("a"))
        .home(pool.clone(), &["-"])
        .in_pool(pool, &["-"]);
    case.published.as_mut().expect("published").epoch = 6;
    is(
        case.says(),
        Some(Intent::Stay),
        "True/Serving",
        "True/Routed",
    );
    assert_eq!(case.plan().epoch, 7);
}

#[test]
fn a_new_process_publishes_everything_once_in_its_own_words() {
    let pool = ready(generic(), 1);
    let mut case = Case::new(a_persona("a"))
        .home(pool.clone(), &["-"])
        .in_pool(pool, &["-"]);
    case.is_ours = false;
    assert_eq!(case.plan().route, Some(Intent::Stay));
}

#[test]
fn who_belongs_elsewhere_stays_served_until_that_is_ready() {
    let own = ready(of_topology("a-own"), 1);
    let name = generic().metadata.name.expect("a name");
    let case = Case::new(a_persona("a")).in_pool(own.clone(), &["-"]);
    let waits = "False/WaitingForPool";
    is(case.says(), None, "True/Moving", waits);
    let status = case.status(Outcome::Accepted);
    assert_eq!(status.pool.as_deref(), Some("a-own"));
    assert_eq!(
        status.phase,
        Some(Phase::PerPersona),
        "the phase it is served in"
    );
    let starting = Case::new(a_persona("a"))
        .in_pool(own.clone(), &["-"])
        .home(generic(), &[]);
    is(starting.says(), None, "True/Moving", waits);
    let up = Case::new(a_persona("a"))
        .in_pool(own, &["-"])
        .home(ready(generic(), 1), &["-"]);
    is(up.says(), enter(&name), "True/Serving", "True/Routed");
    let status = up.status(Outcome::Accepted);
    assert_eq!(status.pool, Some(name));
    assert_eq!(status.phase, Some(Phase::Generic));
}

#[test]
fn who_is_not_served_where_it_is_says_so_while_it_waits() {
    let mut crashed = ready(of_topology("a-own"), 0);
    crashed.status.as_mut().expect("a status").conditions[0].status = "False".into();
    let case = Case::new(a_persona("a"))
        .in_pool(crashed, &[])
        .home(generic(), &[]);
    let waits = "False/WaitingForPool";
    is(case.says(), None, waits, waits);
}

#[test]
fn the_reason_of_the_pool_is_passed_on_without_its_changing_words() {
    let mut pool = ready(generic(), 0);
    let condition = &mut pool.status.as_mut().expect("a status").conditions[0];
    condition.status = "False".into();
    condition.reason = "Unschedulable".into();
    condition.message = "0/3 nodes are available".into();
    let message = Case::new(a_persona("a")).home(pool, &[]).message();
    assert!(
        message.contains("(Unschedulable)") && !message.contains("0/3"),
        "{message}"
    );
}

#[test]
fn a_pool_of_its_owner_must_exist_and_may_be_asleep() {
    let persona = a_persona("a").on_own_pool("mine");
    let waits = "False/PoolNotFound";
    is(
        Case::new(persona.clone()).says(),
        Some(Intent::Stay),
        waits,
        waits,
    );
    let asleep = may_be_empty(ready(a_pool("mine"), 0));
    let case = Case::new(persona.clone()).home(asleep.clone(), &[]);
    is(case.says(), enter("mine"), "True/Serving", "True/Routed");
    assert_eq!(case.status(Outcome::Accepted).phase, None);
    let mut pinned = asleep;
    pinned.spec.replicas = Some(0);
    let case = Case::new(persona).home(pinned, &[]);
    assert_eq!(case.plan().route, Some(Intent::Stay));
    assert!(
        case.message().contains("(PinnedToZero)"),
        "{}",
        case.message()
    );
}

#[test]
fn a_pool_of_its_owners_workers_is_not_entered_and_says_why() {
    for workers in [0, 1] {
        let mut pool = may_be_empty(ready(a_pool("mine"), workers));
        pool.spec.scaling.metrics[0].type_ = MetricType::Prometheus;
        let persona = a_persona("a").on_own_pool("mine");
        let case = Case::new(persona.clone()).home(pool.clone(), &[]);
        assert_eq!(case.plan().route, Some(Intent::Stay));
        assert!(
            case.message().contains("(ServesNoPersonas)"),
            "{}",
            case.message()
        );
        // Who was there before its metrics were changed.
        let there = Case::new(persona)
            .home(pool.clone(), &[])
            .in_pool(pool, &[]);
        let waits = "False/WaitingForPool";
        assert_eq!(there.says().1, waits);
    }
}

#[test]
fn a_pool_of_the_topology_must_have_shown_a_worker() {
    let asleep = may_be_empty(ready(generic(), 0));
    let case = Case::new(a_persona("a")).home(asleep.clone(), &[]);
    assert_eq!(case.plan().route, Some(Intent::Stay));
    let there = Case::new(a_persona("a"))
        .home(asleep.clone(), &[])
        .in_pool(asleep, &[]);
    is(there.says(), None, "True/Serving", "True/Routed");
}

#[test]
fn a_pool_of_somebody_else_under_a_managed_name_is_not_entered() {
    let name = generic().metadata.name.expect("a name");
    let case = Case::new(a_persona("a")).home(ready(a_pool(&name), 1), &["-"]);
    let waits = "False/PoolNameTaken";
    is(case.says(), Some(Intent::Stay), waits, waits);
}

#[test]
fn a_model_that_nobody_can_run_is_routed_nowhere_and_says_what_to_set() {
    let new = Case::new(a_persona("a").unplaced());
    is(
        new.says(),
        Some(Intent::Stay),
        "False/Unplaced",
        "False/Unplaced",
    );
    assert!(new.message().contains("spec.model.requirements.parameters"));
    let status = new.status(Outcome::Accepted);
    assert_eq!(
        condition(&status.conditions, MODEL_PLACED),
        "False/SizeUnknown"
    );
    let pool = ready(generic(), 1);
    let routed = Case::new(a_persona("a"))
        .in_pool(pool, &["-"])
        .edited(PersonaExt::unplaced);
    is(
        routed.says(),
        Some(Intent::Leave),
        "False/Unplaced",
        "False/Unplaced",
    );
    let status = routed.status(Outcome::Accepted);
    assert_eq!((status.pool, status.phase), (None, None));
}

#[test]
fn what_the_topology_has_not_decided_is_claimed_by_no_condition() {
    for persona in [a_persona("a"), a_persona("a").unplaced()] {
        let mut case = Case::new(persona);
        case.layout = None;
        let waits = "False/WaitingForTopology";
        is(case.says(), Some(Intent::Stay), waits, waits);
        let status = case.status(Outcome::Accepted);
        assert_eq!(
            condition(&status.conditions, MODEL_PLACED),
            "Unknown/WaitingForTopology"
        );
    }
    let mut case = Case::new(a_persona("a").on_own_pool("mine"));
    case.layout = None;
    let status = case.status(Outcome::Accepted);
    let placed = condition(&status.conditions, MODEL_PLACED);
    assert_eq!(placed, "True/Placed", "its owner has decided");
}

#[test]
fn a_suspended_persona_is_registered_and_routed_like_others() {
    let persona = a_persona("a").suspended().with_secret("gone");
    let name = generic().metadata.name.expect("a name");
    let case = Case::new(persona).home(ready(generic(), 1), &["-"]);
    is(case.says(), enter(&name), "False/Suspended", "True/Routed");
}

#[test]
fn a_paused_or_deleted_persona_is_not_touched() {
    for persona in [a_persona("a").paused(), a_persona("a").deleting()] {
        let case = Case::new(persona).home(ready(generic(), 1), &["-"]);
        assert_eq!(case.plan().route, None);
    }
    let paused = Case::new(a_persona("a").paused()).in_pool(ready(of_topology("x"), 1), &["-"]);
    is(paused.says(), None, "Unknown/Paused", "Unknown/Paused");
    let status = paused.status(Outcome::Accepted);
    assert_eq!(status.pool.as_deref(), Some("x"));
}

#[test]
fn a_persona_made_again_begins_anew() {
    let pool = ready(generic(), 1);
    let mut case = Case::new(a_persona("a")).in_pool(pool, &["-"]);
    case.persona.metadata.uid = Some("another".into());
    case.persona.status = None;
    assert_eq!(
        case.plan().route,
        Some(Intent::Stay),
        "to be refused as OtherUid"
    );
    assert_eq!(case.status(Outcome::Accepted).pool, None);
}

#[test]
fn what_the_queue_has_lost_is_published_where_it_was() {
    let own = ready(of_topology("a-own"), 1);
    let mut case = Case::new(a_persona("a"))
        .in_pool(own, &["-"])
        .home(generic(), &[]);
    case.published = None;
    is(
        case.says(),
        enter("a-own"),
        "True/Moving",
        "False/WaitingForPool",
    );
    let mut present = of_topology("a-own");
    case.present.as_mut().expect("a pool").0 = present.clone();
    let waits = "False/WaitingForPool";
    // Workers that have lost the queue are not ready for a while.
    is(case.says(), enter("a-own"), waits, waits);
    present.metadata.deletion_timestamp = Some(Time(at(0)));
    case.present.as_mut().expect("a pool").0 = present;
    assert_eq!(case.plan().route, Some(Intent::Stay), "it is going");
}

#[test]
fn what_the_queue_has_lost_stays_where_it_was_before_the_workers_are_heard_of_again() {
    let own = ready(of_topology("a-own"), 1);
    let mut case = Case::new(a_persona("a"))
        .in_pool(own, &[])
        .home(generic(), &[]);
    case.published = None;
    let waits = "False/WaitingForPool";
    is(case.says(), enter("a-own"), "True/Moving", waits);
    let status = case.status(Outcome::Accepted);
    assert_eq!(
        status.pool.as_deref(),
        Some("a-own"),
        "or it would be retired"
    );
    let mut at_home = Case::new(a_persona("a"))
        .home(ready(generic(), 1), &[])
        .in_pool(ready(generic(), 1), &[]);
    at_home.published = None;
    let name = generic().metadata.name.expect("a name");
    is(at_home.says(), enter(&name), "True/Serving", "True/Routed");
}

#[test]
fn only_a_persona_with_an_adapter_has_a_condition_for_it() {
    let case = Case::new(a_persona("a").with_adapter());
    let status = case.status(Outcome::Accepted);
    assert_ne!(condition(&status.conditions, ADAPTER_LOADED), "absent");
    let without = Case::new(a_persona("a")).status(Outcome::Accepted);
    assert_eq!(condition(&without.conditions, ADAPTER_LOADED), "absent");
}

#[test]
fn a_queue_that_does_not_answer_makes_it_unknown_and_forgets_no_pool() {
    let pool = ready(generic(), 1);
    let mut case = Case::new(a_persona("a")).in_pool(pool, &["-"]);
    case.published = None;
    let status = case.status(Outcome::Unreachable("unreachable"));
    for type_ in [READY, ROUTED] {
        let said = condition(&status.conditions, type_);
        assert_eq!(said, "Unknown/QueueUnreachable");
    }
    assert_eq!(status.pool, generic().metadata.name);
}

#[test]
fn no_topology_yet_keeps_everything_as_it_is() {
    let mut case = Case::new(a_persona("a")).in_pool(ready(of_topology("x"), 1), &["-"]);
    case.layout = None;
    case.is_ours = false;
    assert_eq!(case.plan().route, None, "an epoch of 0 would be refused");
    case.published = Some(Published {
        pool: None,
        ..case.published.clone().expect("published")
    });
    assert_eq!(case.plan().route, None);
}

#[test]
fn a_persona_that_lost_its_pool_waits_for_it() {
    let pool = generic();
    let mut case = Case::new(a_persona("a")).in_pool(pool, &["-"]);
    case.present = None;
    let waits = "False/WaitingForPool";
    is(case.says(), None, waits, "True/Routed");
}

#[test]
fn who_takes_workers_along_is_in_quarantine_until_it_is_over() {
    let held = |until| {
        let case = Case::new(a_persona("p")).in_pool(generic(), &["-"]);
        case.home(ready(generic(), 1), &["-"]).quarantined(until)
    };
    let (_, says, routed) = held(30).says();
    assert_eq!(
        (says.as_str(), routed.as_str()),
        ("False/Quarantined", "True/Routed")
    );
    assert!(
        held(30).message().contains("until 2027-01-15T08:00:30Z"),
        "{}",
        held(30).message()
    );
    let (_, says, _) = held(0).says();
    assert_eq!(says, "True/Serving");
}

#[test]
fn what_the_queue_refuses_is_said_and_forgets_no_pool() {
    let own = ready(of_topology("a-own"), 1);
    let moving = Case::new(a_persona("a"))
        .in_pool(own, &["-"])
        .home(ready(generic(), 1), &["-"]);
    let says = |case: &Case, refusal| {
        let status = case.status(Outcome::Refused(refusal));
        assert_eq!(status.pool.as_deref(), Some("a-own"), "{refusal:?}");
        [READY, ROUTED].map(|type_| condition(&status.conditions, type_))
    };
    for (refusal, routed) in [
        (Refusal::ClosedPool, "False/WaitingForPool"),
        (Refusal::StaleEpoch, "False/WaitingForTopology"),
        (Refusal::OtherUid, "False/Replacing"),
    ] {
        assert_eq!(says(&moving, refusal), ["True/Moving", routed]);
    }
    let removed = "False/Removed";
    assert_eq!(says(&moving, Refusal::Removed), [removed, removed]);
    let mut lost = moving;
    lost.published = None;
    let closed = "False/WaitingForPool";
    assert_eq!(says(&lost, Refusal::ClosedPool), [closed, closed]);
}
